"""The tasks that benchmarks train: what each one is, its files, and homes in which they are registered.

A data folder holds one folder a task with `train.jsonl.gz` and `dev.jsonl.gz`: one example a line, as `docs/data.md`
describes them.
"""

import ctypes
import gzip
import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from registry.artifacts.atomic_file import write_atomically
from registry.artifacts.backbone_files import store_backbone
from registry.artifacts.local_store import LocalArtifactStore
from registry.domain.records import Backbone
from registry.domain.task_specs import TaskSpec

TEAM, BACKBONE = "benchmarks", "encoder"
COMMAND = (sys.executable, "-P", "-c", "import sys; from cli.main import main; sys.exit(main())")
"""The installed command. -P: a folder named cli where it is started must not be taken for ours."""

Row = Mapping[str, Any]

_LIBC = ctypes.CDLL(None)  # opened here: between fork and exec nothing may take a lock


@dataclass(frozen=True)
class BenchmarkTask:
    metric: str
    input_form: str = "single"
    type: str = "classification"
    positive_label: str | None = None


TASKS = {
    "rte": BenchmarkTask("accuracy", "pair"),
    "mrpc": BenchmarkTask("f1", "pair", positive_label="equivalent"),
    "cola": BenchmarkTask("matthews"),
    "stsb": BenchmarkTask("spearman", "pair", "regression"),
    "sst2": BenchmarkTask("accuracy"),
    "qnli": BenchmarkTask("accuracy", "pair"),
    "qqp": BenchmarkTask("accuracy", "pair"),
    "mnli": BenchmarkTask("accuracy", "pair"),
    "trec": BenchmarkTask("accuracy"),
    "subj": BenchmarkTask("accuracy"),
    "sms_spam": BenchmarkTask("accuracy"),
    "emotion": BenchmarkTask("accuracy"),
    "ag_news": BenchmarkTask("accuracy"),
    "clinc150_intent": BenchmarkTask("accuracy"),
    "clinc150_domain": BenchmarkTask("accuracy"),
}


def task_names(text: str) -> list[str]:
    """The tasks of a comma-separated list; ends the program on one that is not known."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := [name for name in names if name not in TASKS]:
        raise SystemExit(f"unknown tasks {', '.join(unknown)}: choose from {', '.join(TASKS)}")
    return names


def half_of(row: Row, seed: int) -> str:
    """ "a" or "b", by a hash of the row's texts and the seed: equal texts are in one half, whatever their order."""
    text = json.dumps([seed, row.get("text"), row.get("text_pair")], ensure_ascii=False)
    return "ab"[hashlib.sha256(text.encode()).digest()[0] & 1]


def half_rows(rows: Sequence[Row], half: str, seed: int) -> list[int]:
    """The numbers of a half's rows."""
    return [number for number, row in enumerate(rows) if half_of(row, seed) == half]


@dataclass(frozen=True)
class TaskFiles:
    """One task's rows and the files they are written into."""

    name: str
    folder: Path
    train: Sequence[Row]
    dev: Sequence[Row]

    @classmethod
    def read(cls, name: str, data: Path, folder: Path, *, limit_rows: int | None) -> "TaskFiles":
        """Args: limit_rows: keep so many rows of each file, chosen by a hash; None for all."""
        train, dev = (_rows(data / name / f"{split}.jsonl.gz", limit_rows) for split in ("train", "dev"))
        return cls(name, folder / (name if limit_rows is None else f"{name}-{limit_rows}"), train, dev)

    def spec(
        self, *, train: Sequence[Row] | None = None, dev: Sequence[Row] | None = None, called: str = ""
    ) -> TaskSpec:
        """The task over these rows (default: all), which are written beside each other.

        Args:
            called: names the choice of rows; part of the files' and of the task's name.
        """
        task = TASKS[self.name]
        ending = f"-{called}" if called else ""
        files = {}
        for split, rows in (
            ("train", self.train if train is None else train),
            ("dev", self.dev if dev is None else dev),
        ):
            path = self.folder / f"{split}{ending}.jsonl"
            write_atomically(path, b"".join(json.dumps(row).encode() + b"\n" for row in rows))
            files[split] = str(path.resolve())
        definition: dict[str, Any] = {
            "task": self.name.replace("_", "-") + ending,
            "type": task.type,
            "metric": task.metric,
            "input_form": task.input_form,
            "data": files,
        }
        if task.type == "classification":
            definition["labels"] = sorted({row["label"] for row in self.train})
        if task.positive_label is not None:
            definition["positive_label"] = task.positive_label
        return TaskSpec.model_validate(definition)


def _rows(path: Path, limit: int | None) -> list[Row]:
    if not path.exists():
        raise SystemExit(f"{path} does not exist: --data names a folder with one folder a task")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    if limit is None:
        return rows
    return sorted(rows, key=lambda row: hashlib.sha256(json.dumps(row).encode()).digest())[:limit]


@dataclass(frozen=True)
class Home:
    """A registry's home that a benchmark keeps."""

    folder: Path

    def command(self, *arguments: str) -> list[str]:
        return [*COMMAND, "--home", str(self.folder), *arguments]

    def run(self, *arguments: str) -> str:
        """What a command prints; ends the program with its message when it fails."""
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            raise SystemExit(f"trunkline {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def register(self, model: Path, specs: Sequence[TaskSpec]) -> None:
        """Pins the backbone and registers the tasks, those that are not there yet."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.run("db", "upgrade")  # makes the registry where there is none
        known = {task["spec"]["task"] for task in json.loads(self.run("task", "list", "--json"))}
        if not json.loads(self.run("backbone", "list", "--json")):
            self.run("backbone", "pin", BACKBONE, str(model))
        if not json.loads(self.run("team", "list", "--json")):
            self.run("team", "create", TEAM)
        for spec in specs:
            if spec.task not in known:
                file = self.folder / f"{spec.task}.yaml"
                write_atomically(file, spec.model_dump_json(exclude_none=True).encode())
                self.run("task", "register", str(file), "--team", TEAM)


@dataclass(frozen=True)
class Workshop:
    """A backbone in a store without a registry: enough to train modules with."""

    folder: Path

    @property
    def store(self) -> LocalArtifactStore:
        return LocalArtifactStore(self.folder / "artifacts")

    @property
    def backbone(self) -> Backbone:
        return Backbone.model_validate_json((self.folder / "backbone.json").read_bytes())

    def pin(self, model: Path) -> Backbone:
        path = self.folder / "backbone.json"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            new = store_backbone(model, name=BACKBONE, max_length=None, store=self.store)
            pinned = Backbone.model_validate({**new.model_dump(), "created_at": "2026-01-01T00:00:00Z"})
            write_atomically(path, pinned.model_dump_json().encode())
        return self.backbone


def end_with_parent() -> None:
    """For a process of a pool: ends it when the benchmark is killed, which it would not notice while it trains."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        sentinel = parent.sentinel
        threading.Thread(target=lambda: wait([sentinel]) and os._exit(1), daemon=True).start()


def end_command_with_parent() -> None:
    """For a command, between fork and exec: has the kernel end it when the benchmark is killed. Linux only."""
    if sys.platform == "linux":
        _LIBC.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def end_on_request() -> None:
    """Has SIGTERM unwind the program as Ctrl-C does, so that what it started is ended too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
