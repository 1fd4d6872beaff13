"""A registry whose rows and blobs fit each other: a real backbone, a version with its blobs, a release."""

import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import inspect, text

from registry.artifacts.backbone_files import store_backbone
from registry.artifacts.safetensors_file import safetensors_bytes
from registry.artifacts.store import ArtifactStore
from registry.database.engine import Database
from registry.domain.digests import TensorBytes
from registry.domain.golden_examples import GoldenExample, GoldenExamples
from registry.domain.manifests import BranchManifest, Manifest
from registry.domain.records import NewBackbone, NewRelease, NewVersion
from registry.domain.references import VersionReference
from registry.domain.searches import SearchChoice, TrialProgress
from registry.services.aliases import promote
from registry.services.backbones import pin_backbone
from registry.services.blobs import refer_to
from registry.services.channels import create_channel, promote_release
from registry.services.releases import register_release
from registry.services.searches import begin_search, finish_search
from registry.services.tasks import get_task, register_task
from registry.services.teams import create_team
from registry.services.trials import ask_for, claim_trial, finish_trial, pause_trial
from registry.services.versions import get_version, register_version


@pytest.fixture
def stored_version(store: ArtifactStore, new_version: Callable[..., NewVersion]) -> Callable[..., NewVersion]:
    """A version of the pinned backbone "tiny", its blobs in the store; every `trial` is another module."""

    def make(backbone: NewBackbone, task: str = "rte", *, trial: str = "first", **fields: Any) -> NewVersion:
        golden = GoldenExamples(examples=(GoldenExample(text="a", text_pair="b", outputs=((0.5, -0.5),)),))
        tensor = TensorBytes("head.linear.bias", "F32", (2,), (trial.encode() * 8)[:8])
        values = {
            "frozen_depth": 1,
            "prefix_digest": backbone.prefix_digests[1],
            "module": store.put(safetensors_bytes([tensor])),
            "golden": store.put(golden.to_bytes()),
            "dev_predictions": store.put(f'{{"row":0,"trial":"{trial}"}}\n'.encode()),
        }
        return new_version(task, trial=trial, **values | fields)

    return make


@pytest.fixture
def manifest_of(database: Database) -> Callable[..., Manifest]:
    def make(backbone: NewBackbone, versions: dict[str, tuple[int, NewVersion]]) -> Manifest:
        with database.read() as session:
            specs = {task: get_task(session, task).spec for task in versions}
        branches = {
            task: BranchManifest(
                version=number,
                type=specs[task].type,
                input_form=specs[task].input_form,
                labels=specs[task].output_labels,
                tag_scheme=None,
                frozen_depth=version.frozen_depth,
                task_layers=version.task_layers,
                prefix_digest=version.prefix_digest,
                spec_digest=specs[task].meaning_digest(),
                head=version.head,
                module=version.module,
                golden=version.golden,
            )
            for task, (number, version) in versions.items()
        }
        return Manifest(trunk=backbone.trunk(1), tasks=branches)

    return make


@pytest.fixture
def filled(
    database: Database,
    store: ArtifactStore,
    tiny_model: Any,
    spec: Any,
    stored_version: Any,
    manifest_of: Any,
    new_search: Any,
    planned_trial: Any,
    change: dict[str, Any],
) -> NewBackbone:
    """Fills the database: backbone "tiny", tasks rte and sst, a teacher and a student of rte, an alias that was moved
    three times, a release of both tasks that is live on staging, a finished search that chose the teacher and the
    student and stopped another trial early, and a search that was killed while a trial ran."""
    backbone = store_backbone(tiny_model.write(), name="tiny", max_length=None, store=store)
    with database.write() as session:
        refer_to(session, store, backbone.blobs)
        create_team(session, "nlu", **change)
        pin_backbone(session, backbone, **change)
        for task in ("rte", "sst"):
            register_task(session, spec(task), team="nlu", **change)
    teacher = stored_version(backbone)
    student = stored_version(backbone, trial="second", kind="student", teacher=1, task_layers=1)
    other = stored_version(backbone, "sst", trial="third")
    with database.write() as session:
        for version in (teacher, student, other):
            register_version(session, version, **change)
        for number in (1, 2, 1):
            promote(session, VersionReference(task="rte", number=number), "champion", expect=None, **change)
    manifest = manifest_of(backbone, {"rte": (2, student), "sst": (1, other)})
    release = NewRelease(
        manifest=store.put(manifest.to_bytes()),
        backbone="tiny",
        tasks={"rte": 2, "sst": 1},
        trunk_depth=1,
        layer_count=manifest.layers_in_use,
        gates={},
    )
    with database.write() as session:
        register_release(session, release, **change)
        create_channel(session, "staging", takes="verified", **change)
        promote_release(session, "r1", "staging", expect="none", **change)
    ways = {"runner": "a:1:1", "until": change["at"] + timedelta(minutes=2), "is_gone": lambda _: False}
    held = {"worker": ways["runner"], "until": ways["until"], "is_gone": ways["is_gone"], "at": change["at"]}
    first = planned_trial(frozen_depth=1)
    second = planned_trial("second", frozen_depth=1, task_layers=1, teacher=1)
    stopped, running = planned_trial("stopped"), planned_trial("running")
    progress = TrialProgress(epochs_done=2, curve={1: 0.5, 2: 1 / 3}, seconds=1.5, layer_passes=6.0)
    whole = TrialProgress(epochs_done=5, curve={5: 0.75}, seconds=1.0, layer_passes=1.0)
    choice = SearchChoice(layers=2, learning_rate=1e-4, teacher=1, statistic="mean of 2 seeds", students={1: 2})
    with database.write() as session:
        search = begin_search(session, new_search(), **ways, **change)
        ask_for(session, search, [first, second, stopped])
        for trial, number in ((first, 1), (second, 2)):
            version = get_version(session, VersionReference(task="rte", number=number))
            score = version.metrics[search.metric]
            finish_trial(session, "rte", trial.key, version=version, score=score, progress=whole)
        claim_trial(session, "rte", stopped.key, **held)
        pause_trial(session, "rte", stopped.key, worker=held["worker"], progress=progress)
        finish_search(session, search, choice, **change)
        killed = begin_search(session, new_search(content="killed"), **ways, **change)
        ask_for(session, killed, [stopped, running])
        claim_trial(session, "rte", running.key, **held)
    return backbone


@pytest.fixture
def other_database_url(backend: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """An empty registry on the other kind of database."""
    if backend == "postgresql":
        shutil.copy(request.getfixturevalue("empty_database_file"), tmp_path / "other.db")
        return f"sqlite:///{tmp_path / 'other.db'}"
    server = request.getfixturevalue("postgresql")
    url: str = server.url(server.create(template=request.getfixturevalue("empty_postgresql_template")))
    return url


@pytest.fixture
def other_database(other_database_url: str) -> Iterator[Database]:
    opened = Database.open(other_database_url)
    yield opened
    opened.close()


@pytest.fixture
def without_triggers() -> Callable[[Database], None]:
    """Lets rows be changed that the database would refuse to change, and be dangling: what an owner of it can do."""

    def drop(database: Database) -> None:
        with database.write() as session:
            if session.get_bind().dialect.name == "sqlite":
                names = session.scalars(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).all()
                for name in names:
                    session.execute(text(f"DROP TRIGGER {name}"))
                return
            for table in inspect(session.get_bind()).get_table_names():
                session.execute(text(f"ALTER TABLE {table} DISABLE TRIGGER USER"))

    return drop


@pytest.fixture
def registry_server(backend: str, database_url: str, request: pytest.FixtureRequest) -> Callable[[], None]:
    """Ends every connection to the test's database, as a network that fails does; there is none to an SQLite file."""
    if backend == "sqlite":
        pytest.skip("an SQLite file has no connection to lose")
    server = request.getfixturevalue("postgresql")
    name = database_url.rpartition("?")[0].rpartition("/")[2]
    return lambda: server.end_connections(name)
