import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import column, event, func, insert, select, table, text, update
from sqlalchemy.orm import Session

from registry.database import engine
from registry.database.engine import Database
from registry.database.schema import SCHEMA_REVISION, VERSION_TABLE, CounterRow, TeamRow
from registry.errors import Conflict, NotFound, SchemaError, StorageError, UsageError

AT = datetime(2026, 5, 1, tzinfo=UTC)
SCHEMA_VERSION = table(VERSION_TABLE, column("version_num"))


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


def team(name: str) -> TeamRow:
    return TeamRow(name=name, created_at=AT)


def team_names(database: Database) -> list[str]:
    with database.read() as session:
        return list(session.scalars(select(TeamRow.name).order_by(TeamRow.id)))


def test_a_database_is_created_with_its_folder_on_first_use(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "home" / "registry.db"
    database = Database.open(url_of(path))
    with database.read() as session:
        assert session.scalar(select(SCHEMA_VERSION.c.version_num)) == SCHEMA_REVISION
        assert session.scalar(text("PRAGMA journal_mode")) == "wal"
        assert session.scalars(select(CounterRow.next_number)).all() == [1]
    database.close()
    assert path.is_file()


def test_what_was_written_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    database = Database.open(url_of(tmp_path / "registry.db"))
    with database.write() as session:
        session.add(team("nlu"))
    database.close()
    again = Database.open(url_of(tmp_path / "registry.db"))
    assert team_names(again) == ["nlu"]
    again.close()


def test_processes_that_create_the_database_at_once_create_one(
    tmp_path: Path, together: Callable[..., list[Any]]
) -> None:
    path = tmp_path / "registry.db"

    def create(number: int) -> int:
        database = Database.open(url_of(path))
        with database.write() as session:
            session.add(team(f"team-{number}"))
        with database.read() as session:
            counters = session.scalar(select(func.count()).select_from(CounterRow))
        database.close()
        assert counters is not None
        return counters

    assert together(6, create) == [1] * 6
    database = Database.open(url_of(path))
    assert sorted(team_names(database)) == [f"team-{number}" for number in range(6)]
    database.close()


def test_a_creation_that_is_killed_halfway_is_done_by_the_next(
    tmp_path: Path, killed: Callable[[Callable[[], None]], None]
) -> None:
    path = tmp_path / "registry.db"

    def create() -> None:
        @event.listens_for(sqlalchemy.Engine, "before_cursor_execute")
        def _stop(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if "CREATE TABLE releases" in statement:
                os.kill(os.getpid(), signal.SIGKILL)

        Database.open(url_of(path))

    killed(create)
    database = Database.open(url_of(path))
    assert team_names(database) == []
    database.close()


def test_a_write_that_is_killed_leaves_nothing(
    database: Database, tmp_path: Path, killed: Callable[[Callable[[], None]], None]
) -> None:
    def write() -> None:
        own = Database.open(url_of(tmp_path / "registry.db"))
        with own.write() as session:
            session.add(team("nlu"))
            session.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    killed(write)
    assert team_names(database) == []
    with database.write() as session:
        session.add(team("nlu"))
    assert team_names(database) == ["nlu"]


def test_a_write_is_committed_as_a_whole_or_not_at_all(database: Database) -> None:
    def change(session: Session) -> None:
        session.add(team("nlu"))
        session.flush()
        raise NotFound("the second part of the change failed")

    with pytest.raises(NotFound), database.write() as session:
        change(session)
    assert team_names(database) == []


def test_a_refused_row_is_a_conflict_and_takes_the_rest_with_it(database: Database) -> None:
    with pytest.raises(Conflict, match=r"UNIQUE constraint failed: teams\.name"), database.write() as session:
        session.add_all([team("search"), team("nlu"), team("nlu")])
    assert team_names(database) == []


def test_a_reader_cannot_write(database: Database) -> None:
    with pytest.raises(StorageError, match="readonly"), database.read() as session:
        session.execute(insert(TeamRow).values(name="nlu", created_at=AT))
    assert team_names(database) == []


def test_a_reader_sees_one_moment_while_others_write(database: Database) -> None:
    count = select(func.count()).select_from(TeamRow)
    with database.read() as reading:
        assert reading.scalar(count) == 0
        with database.write() as writing:
            writing.add(team("nlu"))
        assert reading.scalar(count) == 0
    with database.read() as reading:
        assert reading.scalar(count) == 1


def test_writers_wait_for_each_other(database: Database, tmp_path: Path, together: Callable[..., list[Any]]) -> None:
    def count_up(_: int) -> None:
        own = Database.open(url_of(tmp_path / "registry.db"))
        for _ in range(20):
            with own.write() as session:
                session.scalars(select(CounterRow)).one().next_number += 1
        own.close()

    assert together(4, count_up) == [None] * 4
    with database.read() as session:
        assert session.scalar(select(CounterRow.next_number)) == 1 + 4 * 20


def test_a_writer_that_waits_too_long_says_who_is_to_blame(
    tmp_path: Path, empty_database_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BUSY_SECONDS", 0.05)
    path = tmp_path / "registry.db"
    path.write_bytes(empty_database_file.read_bytes())
    first, second = Database.open(url_of(path)), Database.open(url_of(path))

    def write(session: Session) -> None:
        session.add(team("nlu"))
        session.flush()

    with first.write() as session:
        write(session)
        with pytest.raises(StorageError, match="the database was busy"), second.write() as other:
            write(other)
    assert team_names(second) == ["nlu"]
    first.close()
    second.close()


def test_a_full_disk_leaves_the_database_as_it_was(database: Database) -> None:
    """A limit on the size of files fails a write where a full disk would."""
    with database.write() as session:
        session.add(team("nlu"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, before[1]))
    try:
        with pytest.raises(StorageError, match="nothing was changed"), database.write() as session:
            session.add_all([team("search"), team("x" * 2_000_000)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert team_names(database) == ["nlu"]
    with database.write() as session:
        session.add(team("x" * 2_000_000))
    assert len(team_names(database)) == 2


def test_a_database_that_cannot_grow_says_so(database: Database) -> None:
    def fill(session: Session) -> None:
        pages = session.connection().exec_driver_sql("PRAGMA page_count").scalar_one()
        session.connection().exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        session.execute(insert(TeamRow).values(name="x" * 2_000_000, created_at=AT))

    with pytest.raises(StorageError, match="the disk is full: nothing was changed"), database.write() as session:
        fill(session)
    assert team_names(database) == []


def test_a_schema_from_a_newer_program_is_left_alone(database: Database, tmp_path: Path) -> None:
    with database.write() as session:
        session.execute(update(SCHEMA_VERSION).values(version_num="2099_01_01_moons"))
    with pytest.raises(SchemaError, match="2099_01_01_moons, which is newer than this program"):
        Database.open(url_of(tmp_path / "registry.db"))
    with database.read() as session:
        assert session.scalar(select(SCHEMA_VERSION.c.version_num)) == "2099_01_01_moons"


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


@pytest.mark.parametrize(
    "url", ["", "registry.db", "sqlite://", "sqlite:///:memory:", "mysql://localhost/registry", "sqlite:/registry.db"]
)
def test_a_url_that_is_no_file_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match=r"write sqlite:///PATH"):
        Database.open(url)


def test_a_password_in_a_url_is_not_shown() -> None:
    with pytest.raises(UsageError) as refused:
        Database.open("mysql://ann:secret@localhost/registry")
    assert "secret" not in str(refused.value)


HEAVY = ("alembic", "boto3", "botocore", "mlflow", "numpy", "tokenizers", "torch", "transformers")
OPEN_AND_LIST = f"""
import sys
from registry.database.engine import Database
from registry.services import aliases, audit, backbones, releases, tasks, teams, versions
from registry.artifacts import backbone_files, safetensors_file, store
database = Database.open(sys.argv[1])
with database.read() as session:
    assert tasks.list_tasks(session) == []
database.close()
print([name for name in {HEAVY} if name in sys.modules])
"""


def test_a_database_that_is_up_to_date_is_opened_without_anything_heavy(database: Database, tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-c", OPEN_AND_LIST, url_of(tmp_path / "registry.db")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"
