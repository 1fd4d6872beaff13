"""What only SQLite does: a file that is made on first use, and that shares a disk with others."""

import fcntl
import multiprocessing
import os
import resource
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import column, event, func, insert, select, table, text
from sqlalchemy.orm import Session

from registry.database.engine import Database
from registry.database.schema import SCHEMA_REVISION, VERSION_TABLE, BackboneRow, CounterRow, TeamRow
from registry.errors import StorageError, UsageError

AT = datetime(2026, 5, 1, tzinfo=UTC)
SCHEMA_VERSION = table(VERSION_TABLE, column("version_num"))


@pytest.fixture(scope="session")
def backend() -> str:
    return "sqlite"


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


def team(name: str) -> TeamRow:
    return TeamRow(name=name, created_at=AT)


def team_names(database: Database) -> list[str]:
    with database.read() as session:
        return list(session.scalars(select(TeamRow.name).order_by(TeamRow.id)))


def backbone(name: str, *, source: str) -> dict[str, Any]:
    sizes = {"layer_count": 1, "hidden_size": 1, "max_length": 3, "config": {}, "prefix_root": {}}
    digests = {"tokenizer": "0" * 64, "embeddings": "1" * 64}
    return {"name": name, "model_type": "bert", "source": source, "created_at": AT, **sizes, **digests}


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[Path], Database]]:
    """Opens SQLite files, and closes them at the end."""
    databases = []

    def open_one(path: Path) -> Database:
        databases.append(Database.open(url_of(path)))
        return databases[-1]

    yield open_one
    for database in databases:
        database.close()


def test_a_database_is_created_with_its_folder_on_first_use(tmp_path: Path, opened: Callable[[Path], Database]) -> None:
    path = tmp_path / "deep" / "home" / "registry.db"
    database = opened(path)
    with database.read() as session:
        assert session.scalar(select(SCHEMA_VERSION.c.version_num)) == SCHEMA_REVISION
        assert session.scalar(text("PRAGMA journal_mode")) == "wal"
        counters = session.scalars(select(CounterRow.name).order_by(CounterRow.name)).all()
        assert counters == ["audit_event", "release", "sweep"]
    assert database.is_new
    assert database.location == str(path)
    assert path.is_file()


def test_a_file_that_takes_the_place_of_another_is_read_from_then_on(
    tmp_path: Path, opened: Callable[[Path], Database]
) -> None:
    path, other, away = tmp_path / "registry.db", tmp_path / "other.db", tmp_path / "away"
    for place, name in ((path, "before"), (other, "after")):
        made = Database.open(url_of(place))
        with made.write() as session:
            session.add(team(name))
        made.close()
    database = opened(path)
    assert team_names(database) == ["before"]
    away.mkdir()
    for file in tmp_path.glob("registry.db*"):
        file.rename(away / file.name)
    for use in (database.read, database.write):
        with (
            pytest.raises(StorageError, match=r"registry\.db has gone or cannot be looked at: nothing was changed"),
            use() as session,
        ):
            session.scalar(select(CounterRow.name))
    assert not path.exists(), "none is made in its place"
    other.rename(path)
    assert team_names(database) == ["after"]
    with database.write() as session:
        session.add(team("later"))
    assert team_names(database) == ["after", "later"]
    assert team_names(opened(away / "registry.db")) == ["before"]


def test_a_relative_path_stays_what_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    database = Database.open("sqlite:///registry.db")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert team_names(database) == []
    assert database.location == str(tmp_path / "registry.db")
    database.close()


def test_a_uri_is_no_path(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="write sqlite:///PATH"):
        Database.open(f"sqlite:///file:{tmp_path}/registry.db?uri=true")
    assert list(tmp_path.iterdir()) == []


def test_processes_that_create_the_database_at_once_create_one(
    tmp_path: Path, together: Callable[..., list[Any]], opened: Callable[[Path], Database]
) -> None:
    path = tmp_path / "registry.db"

    def create(number: int) -> tuple[int | None, bool]:
        database = Database.open(url_of(path))
        with database.write() as session:
            session.add(team(f"team-{number}"))
        with database.read() as session:
            counters = session.scalar(select(func.count()).select_from(CounterRow))
        database.close()
        return counters, database.is_new

    assert sorted(together(6, create)) == [(3, False)] * 5 + [(3, True)]
    assert sorted(team_names(opened(path))) == [f"team-{number}" for number in range(6)]


def test_a_creation_that_is_killed_halfway_is_done_by_the_next(
    tmp_path: Path, killed: Callable[[Callable[[], None]], None], opened: Callable[[Path], Database]
) -> None:
    path = tmp_path / "registry.db"

    def create() -> None:
        @event.listens_for(sqlalchemy.Engine, "before_cursor_execute")
        def _stop(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if "CREATE TABLE releases" in statement:
                os.kill(os.getpid(), signal.SIGKILL)

        Database.open(url_of(path))

    killed(create)
    assert team_names(opened(path)) == []


_SHARED_HEADER = 136  # bytes at the beginning of the -shm file, which a recovery makes anew
_RECOVERY_LOCKS = (120, 3)  # where and how many: to write, to checkpoint, to recover


def recover_for_a_while(shared: Path, seconds: float, ready: Any) -> None:
    """What a process does that finds a WAL left by a killed one, only slower."""
    with shared.open("r+b") as file:
        file.write(bytes(_SHARED_HEADER))
        file.flush()
        first, count = _RECOVERY_LOCKS
        fcntl.lockf(file, fcntl.LOCK_EX, count, first)
        ready.set()
        time.sleep(seconds)


def test_a_writer_waits_while_another_process_recovers_what_a_killed_one_left(database: Database) -> None:
    with database.write() as session:
        session.add(team("before"))
    fork = multiprocessing.get_context("fork")
    ready = fork.Event()
    process = fork.Process(target=recover_for_a_while, args=(Path(f"{database.location}-shm"), 0.3, ready))
    process.start()
    ready.wait(timeout=60)
    with database.write() as session:
        session.add(team("after"))
    process.join()
    assert team_names(database) == ["before", "after"]


def test_a_full_disk_leaves_the_database_as_it_was(database: Database) -> None:
    """A limit on the size of files fails a write where a full disk would."""
    with database.write() as session:
        session.add(team("nlu"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, before[1]))
    large = BackboneRow(**backbone("large", source="x" * 2_000_000))
    try:
        with pytest.raises(StorageError, match="nothing was changed"), database.write() as session:
            session.add_all([team("search"), large])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert team_names(database) == ["nlu"]
    with database.write() as session:
        session.add_all([team("search"), BackboneRow(**backbone("large", source="x" * 2_000_000))])
    assert len(team_names(database)) == 2


def test_a_database_that_cannot_grow_says_so(database: Database) -> None:
    def fill(session: Session) -> None:
        pages = session.connection().exec_driver_sql("PRAGMA page_count").scalar_one()
        session.connection().exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        session.execute(insert(BackboneRow).values(backbone("large", source="x" * 2_000_000)))

    with pytest.raises(StorageError, match="the disk is full: nothing was changed"), database.write() as session:
        fill(session)
    with database.read() as session:
        assert session.scalars(select(BackboneRow)).all() == []


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    path.write_text("task: rte\n" * 1_000)
    with pytest.raises(StorageError, match="not a database"):
        Database.open(url_of(path))
    assert path.read_text() == "task: rte\n" * 1_000


def test_a_lock_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "registry.db.upgrading").mkdir()
    with pytest.raises(StorageError, match=r"cannot create or upgrade .*registry\.db"):
        Database.open(url_of(tmp_path / "registry.db"))


def test_a_place_where_no_database_can_be_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "registry.db", tmp_path / "file" / "home" / "registry.db", tmp_path / "folder"):
        with pytest.raises(StorageError):
            Database.open(url_of(path))


NOBODY = 65534


@pytest.mark.parametrize("read_only", ["folder", "folder and file"])
def test_a_database_where_nothing_can_be_written_says_what_to_do(
    together: Callable[..., list[Any]], read_only: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:  # the folders of the tests are for their user alone
        path = Path(folder) / "registry.db"
        Database.open(url_of(path)).close()
        path.chmod(0o444 if "file" in read_only else 0o666)
        Path(folder).chmod(0o555)

        def open_it(_: int) -> None:
            if os.getuid() == 0:  # who may write anywhere
                os.setuid(NOBODY)
            Database.open(url_of(path))

        (said,) = together(1, open_it)
        Path(folder).chmod(0o755)
    assert said.startswith(f"StorageError: {path} or its folder cannot be written")
    assert "copy it to a folder that can be written" in said
