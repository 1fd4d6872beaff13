"""A small registry to test with: real databases of both kinds, real folders, no model."""

import hashlib
import json
import math
import multiprocessing
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from registry.artifacts.local_store import LocalArtifactStore
from registry.database.engine import Database
from registry.database.upgrade import upgrade
from registry.domain.digests import prefix_digests
from registry.domain.records import NewBackbone, NewRelease, NewVersion
from registry.domain.searches import NewSearch, PlannedTrial, SearchOptions, TrialShape
from registry.domain.task_specs import TaskSpec
from registry.services.backbones import pin_backbone
from registry.services.tasks import register_task
from registry.services.teams import create_team
from tests.postgresql import PostgresqlServer

LAYERS = 4
FIRST_DAY = datetime(2026, 5, 1, 9, tzinfo=UTC)


def digest_of(word: str) -> str:
    return hashlib.sha256(word.encode()).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> LocalArtifactStore:
    return LocalArtifactStore(tmp_path / "artifacts")


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def backend(request: pytest.FixtureRequest) -> str:
    """The kind of database that the test runs on: every test that uses one runs on both."""
    kind: str = request.param
    return kind


@pytest.fixture(scope="session")
def empty_database_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An up-to-date database with nothing in it, to copy: creating one runs the migrations."""
    path = tmp_path_factory.mktemp("database") / "registry.db"
    Database.open(f"sqlite:///{path}").close()
    return path


@pytest.fixture(scope="session")
def empty_postgresql_template(postgresql: PostgresqlServer) -> str:
    """The name of an up-to-date database with nothing in it, to copy."""
    name = postgresql.create()
    upgrade(postgresql.url(name))
    return name


Copy = Callable[[str, str, Path], AbstractContextManager[str]]


@pytest.fixture(scope="session")
def copied(request: pytest.FixtureRequest) -> Copy:
    """Makes a database of a kind with some content ("nothing", "empty", "populated"), in a folder where it needs one.

    Gives its URL, and drops it afterwards.
    """

    @contextmanager
    def copy(backend: str, content: str, folder: Path) -> Iterator[str]:
        if backend == "sqlite":
            if content != "nothing":
                shutil.copy(request.getfixturevalue(f"{content}_database_file"), folder / "registry.db")
            yield f"sqlite:///{folder / 'registry.db'}"
        else:
            server: PostgresqlServer = request.getfixturevalue("postgresql")
            is_copy = content != "nothing"
            name = server.create(
                template=request.getfixturevalue(f"{content}_postgresql_template") if is_copy else "template0"
            )
            yield server.url(name)
            server.drop(name)

    return copy


@pytest.fixture
def database_url(backend: str, copied: Copy, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """Where the test's database is. Nothing is in it unless the test also asks for `database` or `registry`."""
    contents = {"registry": "populated", "database": "empty"}
    content = next((contents[name] for name in contents if name in request.fixturenames), "nothing")
    with copied(backend, content, tmp_path) as url:
        yield url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A database with nothing in it."""
    opened = Database.open(database_url)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def change() -> dict[str, Any]:
    """Who and when, of changes for which neither matters."""
    return {"actor": "ann", "at": FIRST_DAY}


@pytest.fixture(scope="session")
def spec() -> Callable[..., TaskSpec]:
    def make(task: str = "rte", **fields: Any) -> TaskSpec:
        content = {
            "task": task,
            "type": "classification",
            "metric": "accuracy",
            "data": {"train": "/data/train.jsonl", "dev": "/data/dev.jsonl"},
            "labels": ["no", "yes"],
            "input_form": "pair",
        }
        return TaskSpec.model_validate(content | fields)

    return make


@pytest.fixture(scope="session")
def new_backbone() -> Callable[..., NewBackbone]:
    def make(name: str = "tiny", *, content: str = "one", **fields: Any) -> NewBackbone:
        layers = tuple(digest_of(f"{content} layer {n}") for n in range(1, LAYERS + 1))
        root = {"model_type": "bert", "max_length": 16, "content": content}
        values = {
            "name": name,
            "model_type": "bert",
            "layer_count": LAYERS,
            "hidden_size": 8,
            "max_length": 16,
            "config": {"hidden_size": 8, "layer_norm_eps": 1e-12},
            "prefix_root": root,
            "layer_digests": layers,
            "prefix_digests": prefix_digests(root, layers),
            "tokenizer": digest_of("tokenizer"),
            "embeddings": digest_of("embeddings"),
            "layers": tuple(digest_of(f"{content} blob {n}") for n in range(1, LAYERS + 1)),
            "source": "/models/tiny",
        }
        return NewBackbone.model_validate(values | fields)

    return make


@pytest.fixture(scope="session")
def new_version(new_backbone: Callable[..., NewBackbone]) -> Callable[..., NewVersion]:
    """A teacher of two layers unless told otherwise; every `trial` is another trained module."""

    def make(task: str = "rte", *, trial: str = "first", **fields: Any) -> NewVersion:
        depth = fields.get("frozen_depth", 2)
        values = {
            "task": task,
            "spec_revision": 1,
            "backbone": "tiny",
            "kind": "teacher",
            "frozen_depth": depth,
            "task_layers": 2,
            "prefix_digest": new_backbone().prefix_digests[depth],
            "head": {"type": "classification", "outputs": 2},
            "module": digest_of(f"module {trial}"),
            "golden": digest_of("golden"),
            "dev_predictions": digest_of("predictions"),
            "metrics": {"accuracy": 0.75},
            "statistic": "best of epochs 3-5, one run",
            "train_digest": digest_of("train"),
            "dev_digest": digest_of("dev"),
            "recipe": {"learning_rate": 1e-4, "epochs": 5},
            "seed": 7,
            "environment": {"torch": "2.13.0"},
            "trial_key": digest_of(f"{task} {trial}"),
        }
        return NewVersion.model_validate(values | fields)

    return make


@pytest.fixture(scope="session")
def new_release() -> Callable[..., NewRelease]:
    def make(content: str = "first", **fields: Any) -> NewRelease:
        values = {
            "manifest": digest_of(f"manifest {content}"),
            "backbone": "tiny",
            "tasks": {"rte": 1},
            "trunk_depth": 2,
            "layer_count": 4,
            "gates": {"passed": True, "findings": [{"gate": "parity", "task": "rte", "passed": True}]},
        }
        return NewRelease.model_validate(values | fields)

    return make


@pytest.fixture(scope="session")
def new_search() -> Callable[..., NewSearch]:
    """A search for teachers of rte; every `content` is another one."""

    def make(task: str = "rte", *, content: str = "first", **fields: Any) -> NewSearch:
        recipe = {"epochs": 5, "batch_size": 8}
        values = {
            "task": task,
            "spec_revision": 1,
            "backbone": "tiny",
            "key": digest_of(f"search {task} {content}"),
            "train_digest": digest_of("train"),
            "dev_digest": digest_of("dev"),
            "options": SearchOptions(
                layers=(1, 2),
                seeds=2,
                learning_rates=(1e-4, 3e-4),
                recipe=recipe,
                student_recipe=recipe,
                head={"type": "classification", "outputs": 2},
            ),
            "exhaustive_layer_passes": 1234.5,
        }
        return NewSearch.model_validate(values | fields)

    return make


@pytest.fixture(scope="session")
def planned_trial() -> Callable[..., PlannedTrial]:
    """The trial that `new_version` of the same task and `trial` comes out of."""

    def make(trial: str = "first", *, task: str = "rte", **shape: Any) -> PlannedTrial:
        values = {"frozen_depth": 2, "task_layers": 2, "learning_rate": 1e-4, "seed": 7}
        return PlannedTrial(key=digest_of(f"{task} {trial}"), shape=TrialShape.model_validate(values | shape), epochs=5)

    return make


@pytest.fixture(scope="session")
def populate(
    spec: Callable[..., TaskSpec], new_backbone: Callable[..., NewBackbone], change: dict[str, Any]
) -> Callable[[Session], None]:
    """Puts two teams, the backbone `tiny`, and the tasks `rte` and `sst` into a session."""

    def fill(session: Session) -> None:
        create_team(session, "nlu", **change)
        create_team(session, "search", **change)
        pin_backbone(session, new_backbone(), **change)
        register_task(session, spec("rte"), team="nlu", **change)
        register_task(session, spec("sst"), team="search", **change)

    return fill


@pytest.fixture(scope="session")
def populated_database_file(
    tmp_path_factory: pytest.TempPathFactory, empty_database_file: Path, populate: Callable[[Session], None]
) -> Path:
    path = tmp_path_factory.mktemp("database") / "registry.db"
    shutil.copy(empty_database_file, path)
    _populate(f"sqlite:///{path}", populate)
    return path


@pytest.fixture(scope="session")
def populated_postgresql_template(
    postgresql: PostgresqlServer, empty_postgresql_template: str, populate: Callable[[Session], None]
) -> str:
    name = postgresql.create(template=empty_postgresql_template)
    _populate(postgresql.url(name), populate)
    return name


def _populate(url: str, populate: Callable[[Session], None]) -> None:
    opened = Database.open(url)
    with opened.write() as session:
        populate(session)
    opened.close()


@pytest.fixture
def registry(database_url: str) -> Iterator[Database]:
    """A database with two teams, the backbone `tiny`, and the tasks `rte` and `sst`, neither with a version."""
    opened = Database.open(database_url)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def together() -> Callable[..., list[Any]]:
    """Runs `work(0)`, `work(1)`, … in processes of their own that start at once; gives what they returned, in order.

    Of one that raised, the error's name and text; of one that was killed, that.
    """
    fork = multiprocessing.get_context("fork")

    def run(count: int, work: Callable[[int], Any]) -> list[Any]:
        start = fork.Barrier(count)

        def body(number: int, answer: Connection) -> None:
            try:
                start.wait(timeout=60)
                answer.send(work(number))
            except Exception as error:  # noqa: BLE001 - the parent waits for an answer
                answer.send(f"{type(error).__name__}: {error}")

        processes, answers = [], []
        for number in range(count):
            reading, writing = fork.Pipe(duplex=False)
            processes.append(fork.Process(target=body, args=(number, writing)))
            processes[-1].start()
            writing.close()  # so that the end of the process is the end of the pipe
            answers.append(reading)
        returned = [_received(answer) for answer in answers]
        for process in processes:
            process.join()
        return returned

    return run


def _received(answer: Connection) -> Any:
    with answer:
        try:
            return answer.recv()
        except EOFError:
            return "the process was killed"


@pytest.fixture(scope="session")
def killed() -> Callable[[Callable[[], None]], None]:
    """Runs work that kills its own process, as `kill -9` would in the middle of it."""

    def run(work: Callable[[], None]) -> None:
        process = multiprocessing.get_context("fork").Process(target=work)
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL

    return run


TINY_CONFIG: dict[str, Any] = {
    "model_type": "bert",
    "hidden_size": 4,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "vocab_size": 10,
    "max_position_embeddings": 20,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
}

_LAYER_SHAPES = {
    **{
        f"attention.{part}.{kind}": shape
        for part in ("self.query", "self.key", "self.value", "output.dense")
        for kind, shape in (("weight", [4, 4]), ("bias", [4]))
    },
    **{f"{part}LayerNorm.{kind}": [4] for part in ("attention.output.", "output.") for kind in ("weight", "bias")},
    "intermediate.dense.weight": [8, 4],
    "intermediate.dense.bias": [8],
    "output.dense.weight": [4, 8],
    "output.dense.bias": [4],
}

TINY_SHAPES = {
    "embeddings.word_embeddings.weight": [10, 4],
    "embeddings.position_embeddings.weight": [20, 4],
    "embeddings.token_type_embeddings.weight": [2, 4],
    "embeddings.LayerNorm.weight": [4],
    "embeddings.LayerNorm.bias": [4],
    **{
        f"encoder.layer.{number}.{name}": shape
        for number in range(TINY_CONFIG["num_hidden_layers"])
        for name, shape in _LAYER_SHAPES.items()
    },
}


class TinyModel:
    """The files of a three-layer BERT, to spoil one part of before they are written."""

    def __init__(self, folder: Path, dtype: str = "F32") -> None:
        self.folder = folder
        self.config: dict[str, Any] = dict(TINY_CONFIG)
        self.tokenizer: dict[str, Any] = {
            "version": "1.0",
            "truncation": {"max_length": 5},
            "padding": {"pad_id": 0},
            "model": {"type": "WordPiece", "vocab": {f"piece{n}": n for n in range(10)}},
        }
        self.tensors: dict[str, tuple[str, list[int], bytes]] = {
            name: (dtype, shape, self.data(name, shape, dtype)) for name, shape in TINY_SHAPES.items()
        }

    @staticmethod
    def data(name: str, shape: list[int], dtype: str) -> bytes:
        """Bytes that differ from tensor to tensor."""
        length = math.prod(shape) * {"F64": 8, "F32": 4, "I64": 8}.get(dtype, 2)
        return hashlib.shake_128(name.encode()).digest(length)

    def write(self, weights: str = "model.safetensors") -> Path:
        self.folder.mkdir(exist_ok=True)
        (self.folder / "config.json").write_text(json.dumps(self.config))
        (self.folder / "tokenizer.json").write_text(json.dumps(self.tokenizer))
        self.write_weights(weights, list(self.tensors))
        return self.folder

    def write_weights(self, file: str, names: list[str]) -> None:
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        data = b""
        for name in names:
            dtype, shape, tensor = self.tensors[name]
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(tensor)]}
            data += tensor
        text = json.dumps(header).encode()
        (self.folder / file).write_bytes(len(text).to_bytes(8, "little") + text + data)


@pytest.fixture
def tiny_model(tmp_path: Path) -> TinyModel:
    return TinyModel(tmp_path / "model")
