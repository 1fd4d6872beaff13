"""A user's registry in which every command can be killed at every named place."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

from cli.settings import Settings
from registry.database.engine import Database
from registry.services.audit import list_events
from registry.services.backbones import list_backbones
from registry.services.releases import list_releases
from registry.services.tasks import list_tasks
from registry.services.versions import list_versions

VICTIM = Path(__file__).with_name("victim.py")
KILLED = -9
"""The status of a process that `kill -9` ended."""
RUN = ("--epochs", "3", "--lr", "0.003", "--precision", "fp32")


@dataclass
class Ended:
    """How a command ended: its exit code, or minus the signal that killed it."""

    status: int
    out: str
    err: str
    places: list[str]

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Registry:
    """A home, and the `trunkline` command over it in a process of its own; time goes on by a minute a command."""

    folder: Path
    ask: Callable[[dict[str, Any]], dict[str, Any]]
    environ: dict[str, str] = field(default_factory=dict)
    minute: int = 0

    def run(
        self,
        *arguments: object,
        kill_at: tuple[str, int] | None = None,
        largest_file: int | None = None,
        sweep_at: str | None = None,
    ) -> Ended:
        self.minute += 1
        job = {
            "arguments": [str(argument) for argument in arguments],
            "environ": {"TRUNKLINE_ACTOR": "ann", "HOME": str(self.folder), "PATH": ""} | self.environ,
            "cwd": str(self.folder),
            "minute": self.minute,
            "kill_at": kill_at,
            "largest_file": largest_file,
            "sweep_at": sweep_at,
        }
        return Ended(**self.ask(job))

    def done(self, *arguments: object) -> Ended:
        ended = self.run(*arguments)
        assert ended.status == 0, ended.err
        return ended

    @property
    def state(self) -> dict[str, Any]:
        """What the registry says there is, without times and without who was last to run what."""
        database = Database.open(Settings.from_environment(self.environ, self.folder).database_url)
        with database.read() as session:
            tasks = list_tasks(session)
            state = {
                "backbones": [(backbone.name, backbone.prefix_digests) for backbone in list_backbones(session)],
                "tasks": [(task.name, task.spec_revision, task.aliases) for task in tasks],
                "versions": [
                    (version.reference, version.blobs)
                    for task in tasks
                    for version in list_versions(session, task.name)
                ],
                "releases": [(release.name, release.manifest, release.tasks) for release in list_releases(session)],
                "events": [(event.action, event.object) for event in list_events(session)],
            }
        database.close()
        return state


@pytest.fixture(scope="session")
def victim() -> Iterator[Callable[[dict[str, Any]], dict[str, Any]]]:
    process = subprocess.Popen(
        [sys.executable, "-P", str(VICTIM)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def ask(job: dict[str, Any]) -> dict[str, Any]:
        print(json.dumps(job), file=process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(process.stdout.readline())
        return answer

    yield ask
    process.stdin.close()
    process.wait(timeout=30)
    process.stdout.close()


@pytest.fixture(scope="session")
def open_registry(victim) -> Callable[..., Registry]:
    """The registry whose home is in a folder, at a minute after the first."""

    def open_one(folder: Path, minute: int = 0) -> Registry:
        return Registry(folder, victim, minute=minute)

    return open_one


@pytest.fixture(scope="session")
def prepared(tmp_path_factory, open_registry, pinned, labelled) -> Path:
    """A folder to copy: a task "city" on backbone "small", its teacher trained and distilled, nothing promoted yet."""
    folder = tmp_path_factory.mktemp("prepared")
    registry = open_registry(folder)
    task = labelled("classification")
    content = task.fields | {"task": "city", "data": task.write(folder)}
    (folder / "city.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    (folder / "town.yaml").write_text(yaml.safe_dump(content | {"task": "town"}), encoding="utf-8")
    shutil.copytree(pinned.backbone.source, folder / "model", ignore=shutil.ignore_patterns("store"))
    registry.done("backbone", "pin", "small", "model")
    registry.done("team", "create", "nlu")
    registry.done("task", "register", "city.yaml", "--team", "nlu")
    registry.done("train", "city", "--layers", 2, *RUN)
    registry.done("distil", "city/1", "--layers", 1, *RUN)
    taught = registry.done("version", "show", "city/1", "--json").json
    blob = folder / ".trunkline" / "artifacts" / "sha256" / taught["module"][:2] / taught["module"][2:]
    shutil.copy(blob, folder / "module.safetensors")
    manifest = {"backbone": "small", "frozen_depth": 2, "task_layers": 2, "kind": "teacher"}
    (folder / "module.yaml").write_text(yaml.safe_dump(manifest), encoding="utf-8")
    return folder


@pytest.fixture
def registry(tmp_path: Path, prepared: Path, open_registry) -> Registry:
    shutil.copytree(prepared, tmp_path / "work")
    return open_registry(tmp_path / "work", minute=10)


@pytest.fixture
def other_model(registry: Registry) -> Path:
    """A model of other weights than the pinned one: none of its blobs is in the store."""
    folder = registry.folder / "another-model"
    shutil.copytree(registry.folder / "model", folder)
    weights = load_file(folder / "model.safetensors")
    save_file({name: tensor * 2 for name, tensor in weights.items()}, folder / "model.safetensors")
    return folder
