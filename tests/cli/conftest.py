"""The command as a user runs it, in this process: a home of its own, a clock that only the test moves."""

import functools
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import yaml

from cli.main import main
from registry.artifacts.safetensors_file import safetensors_bytes
from registry.database.engine import Database
from registry.domain.digests import TensorBytes
from registry.domain.manifests import HeadConfig
from registry.domain.records import NewVersion, Version, VersionKind
from registry.services.backbones import get_backbone
from registry.services.tasks import get_task
from registry.services.versions import register_version

FIRST_MINUTE = datetime(2026, 5, 1, 9, 0, tzinfo=UTC)
RUN = ("--epochs", "3", "--lr", "0.003", "--precision", "fp32")
"""How the trained tasks were trained."""


@dataclass(frozen=True)
class Answer:
    """What one run of the command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def problem(self) -> str:
        """What the one line on stderr says after "error: "; nothing may be on stdout."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert self.out == ""
        assert lines[0].startswith("error: ")
        return lines[0].removeprefix("error: ")


class Trunkline:
    """Calls `main` in `folder`, whose `.trunkline` is the home; every change happens one minute after the last."""

    def __init__(self, folder: Path, captured: Callable[[], tuple[str, str]]) -> None:
        self.folder = folder
        self.home = folder / ".trunkline"
        self.environ = {"TRUNKLINE_ACTOR": "ann", "HOME": str(folder)}
        self._captured = captured
        self._readings = 0

    def _clock(self) -> datetime:
        self._readings += 1
        return FIRST_MINUTE + timedelta(minutes=self._readings - 1)

    def __call__(self, *arguments: object) -> Answer:
        self._captured()
        code = main([str(part) for part in arguments], environ=self.environ, cwd=self.folder, clock=self._clock)
        return Answer(code, *self._captured())

    def done(self, *arguments: object) -> str:
        """Runs a command that must succeed and say nothing on stderr; returns its output."""
        answer = self(*arguments)
        assert (answer.code, answer.err) == (0, "")
        return answer.out

    def promote(self, version: str, *options: object, alias: str = "champion") -> None:
        """Lets an alias name a version, whatever it scores: what was trained for a second may be no better than chance,
        which is warned of."""
        answer = self("task", "promote", version, "--alias", alias, *options)
        assert answer.code == 0, answer.err


def add_version(
    home: Path,
    task: str,
    *,
    score: float = 0.5,
    others: Mapping[str, float] = MappingProxyType({}),
    teacher: int | None = None,
    dev_digest: str = "4" * 64,
) -> Version:
    """Registers a version as training would, on the pinned backbone "small" of three layers."""
    database = Database.open(f"sqlite:///{home / 'registry.db'}")
    with database.write() as session:
        owner = get_task(session, task)
        new = NewVersion(
            task=task,
            spec_revision=owner.spec_revision,
            backbone="small",
            kind=VersionKind.TEACHER if teacher is None else VersionKind.STUDENT,
            frozen_depth=1,
            task_layers=2 if teacher is None else 1,
            prefix_digest=get_backbone(session, "small").prefix_digests[1],
            teacher=teacher,
            head=HeadConfig(type=owner.spec.type, outputs=owner.spec.output_count),
            module="0" * 64,
            golden="1" * 64,
            dev_predictions="2" * 64,
            metrics={owner.spec.metric.value: score, **others},
            statistic="one run",
            train_digest="3" * 64,
            dev_digest=dev_digest,
            recipe={},
            seed=0,
            environment={},
            trial_key=f"{owner.version_count:064d}",
        )
        version = register_version(session, new, actor="ann", at=FIRST_MINUTE)
    database.close()
    return version


def write_task_file(folder: Path, task: str = "rte", **fields: str) -> Path:
    """Writes a valid task.yaml with its data files below it, a row for each label; `fields` replace or add lines."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    lines = {
        "task": task,
        "type": "classification",
        "labels": "[entailment, not_entailment]",
        "metric": "accuracy",
        "data": f"{{train: data/{task}-train.jsonl, dev: data/{task}-dev.jsonl}}",
    } | fields
    second = {"text_pair": "no"} if lines.get("input_form") == "pair" else {}
    for split in ("train", "dev"):
        rows = [
            {"text": split, **second, "label": label, "tokens": [split, "no"], "tags": [f"B-{label}", "O"]}
            for label in lines["labels"].strip("[]").split(", ")
        ]
        (folder / "data" / f"{task}-{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    path = folder / f"{task}.yaml"
    path.write_text("".join(f"{name}: {value}\n" for name, value in lines.items()), encoding="utf-8")
    return path


def write_model_folder(parent: Path, name: str, *, layers: Sequence[int], embedding: int = 0) -> Path:
    """Writes the files of a BERT whose weights are the given byte values: enough to pin, far too small to run."""
    tensors = [_tensor("embeddings.word_embeddings.weight", embedding)]
    tensors += [_tensor(f"encoder.layer.{at}.output.dense.weight", number) for at, number in enumerate(layers)]
    folder = parent / name
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    config = {"model_type": "bert", "num_hidden_layers": len(layers), "hidden_size": 2, "vocab_size": 4}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"[PAD]": 0, "a": 1}}}))
    return folder


def _tensor(name: str, number: int) -> TensorBytes:
    return TensorBytes(name, "F32", (2, 2), bytes([number]) * 16)


@pytest.fixture(scope="session")
def empty_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose database has the schema and nothing else, to copy: making one runs the migrations."""
    home = tmp_path_factory.mktemp("empty") / ".trunkline"
    Database.open(f"sqlite:///{home / 'registry.db'}").close()
    return home


@pytest.fixture(scope="session")
def registry_with_versions(tmp_path_factory: pytest.TempPathFactory, empty_registry: Path) -> Path:
    """A home to copy: task rte of team nlu with three versions, on the pinned backbone "small"."""
    folder = tmp_path_factory.mktemp("with-versions")
    shutil.copytree(empty_registry, folder / ".trunkline")
    command = Trunkline(folder, lambda: ("", ""))
    command.done("team", "create", "nlu")
    command.done("task", "register", write_task_file(folder), "--team", "nlu")
    command.done("backbone", "pin", "small", write_model_folder(folder, "small", layers=[1, 2, 3]))
    for number in range(3):
        add_version(command.home, "rte", score=0.5 + number / 10)
    return command.home


@pytest.fixture
def trunkline(
    tmp_path: Path, empty_registry: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Trunkline:
    """The command over an empty registry, on something that is no terminal and 80 columns wide."""
    for variable in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("typer.rich_utils.FORCE_TERMINAL", None)  # read from GITHUB_ACTIONS at import
    command = Trunkline(tmp_path, capsys.readouterr)
    shutil.copytree(empty_registry, command.home)
    return command


@pytest.fixture
def versions(trunkline: Trunkline, registry_with_versions: Path) -> Callable[..., Version]:
    """Gives the registry rte/1, rte/2 and rte/3; called, it adds a version to a task."""
    shutil.copytree(registry_with_versions, trunkline.home, dirs_exist_ok=True)
    return functools.partial(add_version, trunkline.home)


@pytest.fixture
def task_file(tmp_path: Path) -> Callable[..., Path]:
    return functools.partial(write_task_file, tmp_path / "tasks")


@pytest.fixture
def model_folder(tmp_path: Path) -> Callable[..., Path]:
    return functools.partial(write_model_folder, tmp_path / "models")


def _register_tasks(trunkline: Trunkline, pinned: Any, labelled: Any, folder: Path) -> None:
    trunkline.done("backbone", "pin", "small", pinned.backbone.source)
    trunkline.done("team", "create", "nlu")
    for kind in ("classification", "regression", "token_classification"):
        task = labelled(kind)
        content = task.fields | {"task": kind.split("_")[0], "data": task.write(folder)}
        path = trunkline.folder / f"{kind}.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        trunkline.done("task", "register", path, "--team", "nlu")


@pytest.fixture(scope="session")
def trained_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trained")


@pytest.fixture
def trained(trunkline: Trunkline, pinned: Any, labelled: Any, trained_folder: Path) -> Trunkline:
    """Three tasks with a teacher and a student each, the student champion. Made once, then copied."""
    kept = trained_folder / ".trunkline"
    if kept.exists():
        shutil.copytree(kept, trunkline.home, dirs_exist_ok=True)
        return trunkline
    _register_tasks(trunkline, pinned, labelled, trained_folder)
    for task in ("classification", "regression", "token"):
        assert trunkline("train", task, "--layers", 3, *RUN).code == 0
        assert trunkline("distil", f"{task}/1", "--layers", 1, "--depth", 2, *RUN).code == 0
        trunkline.promote(f"{task}/2")
    trunkline._captured()
    shutil.copytree(trunkline.home, kept)
    return trunkline


def assembled(trunkline: Trunkline) -> Any:
    """The release of the champions."""
    answer = trunkline("release", "assemble", "--select", "champion", "--json")
    assert answer.code == 0, answer.err
    return answer.json
