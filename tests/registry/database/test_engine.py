import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import column, delete, func, insert, select, table, update
from sqlalchemy.orm import Session

from registry.database.backend import backend_of
from registry.database.engine import Database
from registry.database.schema import (
    AUDIT_COUNTER,
    OLDER_REVISIONS,
    RELEASE_COUNTER,
    SCHEMA_REVISION,
    VERSION_TABLE,
    CounterRow,
    TeamRow,
)
from registry.database.schema_state import schema_differences, schema_state
from registry.database.upgrade import upgrade
from registry.errors import Conflict, NotFound, SchemaError, StorageError, UsageError
from registry.fault_points import arm
from registry.services.audit import list_events
from registry.services.teams import create_team

AT = datetime(2026, 5, 1, tzinfo=UTC)
SCHEMA_VERSION = table(VERSION_TABLE, column("version_num"))
RELEASES = CounterRow.name == RELEASE_COUNTER


def team(name: str) -> TeamRow:
    return TeamRow(name=name, created_at=AT)


def team_names(database: Database) -> list[str]:
    with database.read() as session:
        return list(session.scalars(select(TeamRow.name).order_by(TeamRow.id)))


def test_what_was_written_is_there_when_it_is_opened_again(database: Database, database_url: str) -> None:
    with database.write() as session:
        session.add(team("nlu"))
    again = Database.open(database_url)
    assert team_names(again) == ["nlu"]
    assert not again.is_new
    again.close()


@pytest.mark.parametrize("step", ["write.flushed", "write.events-appended"])
def test_a_write_that_is_killed_leaves_nothing(
    database: Database, database_url: str, killed: Callable[[Callable[[], None]], None], step: str
) -> None:
    def write() -> None:
        own = Database.open(database_url)
        arm(lambda place: os.kill(os.getpid(), signal.SIGKILL) if place == step else None)
        with own.write() as session:
            create_team(session, "nlu", actor="ann", at=AT)

    killed(write)
    assert team_names(database) == []
    with database.write() as session:
        create_team(session, "nlu", actor="ann", at=AT)
    assert team_names(database) == ["nlu"]
    with database.read() as session:
        assert [event.number for event in list_events(session)] == [1]


def test_a_write_is_committed_as_a_whole_or_not_at_all(database: Database) -> None:
    def change(session: Session) -> None:
        session.add(team("nlu"))
        session.flush()
        raise NotFound("the second part of the change failed")

    with pytest.raises(NotFound), database.write() as session:
        change(session)
    assert team_names(database) == []


def test_a_refused_row_is_a_conflict_and_takes_the_rest_with_it(database: Database) -> None:
    refusal = r"UNIQUE constraint failed: teams\.name|violates unique constraint \"uq_teams_name\""
    with pytest.raises(Conflict, match=refusal), database.write() as session:
        session.add_all([team("search"), team("nlu"), team("nlu")])
    assert team_names(database) == []


def test_a_reader_cannot_write(database: Database) -> None:
    with pytest.raises(StorageError, match=r"readonly|read-only transaction"), database.read() as session:
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


def test_writers_wait_for_each_other(database: Database, database_url: str, together: Callable[..., list[Any]]) -> None:
    def count_up(_: int) -> None:
        own = Database.open(database_url)
        for _ in range(20):
            with own.write() as session:
                session.scalars(select(CounterRow).where(RELEASES).with_for_update()).one().next_number += 1
        own.close()

    assert together(4, count_up) == [None] * 4
    with database.read() as session:
        assert session.scalar(select(CounterRow.next_number).where(RELEASES)) == 1 + 4 * 20


def test_a_writer_that_waits_too_long_says_who_is_to_blame(database: Database, database_url: str) -> None:
    impatient = Database.open(database_url, busy_seconds=0.05)
    change = update(CounterRow).where(RELEASES).values(next_number=7)
    busy = "the database was busy for 0.05 seconds: another process is writing; try again"
    with database.write() as session:
        session.execute(change)
        with pytest.raises(StorageError, match=busy), impatient.write() as other:
            other.execute(change)
    with impatient.write() as other:
        other.execute(change)
    impatient.close()


def test_readers_wait_for_nobody(database: Database, database_url: str) -> None:
    impatient = Database.open(database_url, busy_seconds=0.05)
    with database.write() as session:
        session.add(team("nlu"))
        session.flush()
        assert team_names(impatient) == []
    assert team_names(impatient) == ["nlu"]
    impatient.close()


def test_events_are_numbered_in_the_order_in_which_they_were_recorded(database: Database) -> None:
    for names in (["a", "b"], ["c"]):
        with database.write() as session:
            for name in names:
                create_team(session, name, actor="ann", at=AT)
    with database.read() as session:
        assert [(event.number, event.object) for event in list_events(session)] == [
            (3, "team c"),
            (2, "team b"),
            (1, "team a"),
        ]


def test_what_is_rolled_back_takes_its_events_with_it_and_no_others(database: Database) -> None:
    with database.write() as session:
        create_team(session, "undone", actor="ann", at=AT)
        session.rollback()
        create_team(session, "kept", actor="ann", at=AT)
        with session.begin_nested() as outer:
            with session.begin_nested():
                create_team(session, "released-then-undone", actor="ann", at=AT)
            outer.rollback()
        with session.begin_nested():
            create_team(session, "released", actor="ann", at=AT)
    assert team_names(database) == ["kept", "released"]
    with database.read() as session:
        assert [event.object for event in list_events(session)] == ["team released", "team kept"]


def test_without_the_event_before_it_nothing_is_recorded(database: Database) -> None:
    with database.write() as session:
        session.execute(update(CounterRow).where(CounterRow.name == AUDIT_COUNTER).values(next_number=8))
    with pytest.raises(StorageError, match="the audit trail has lost its last event, number 7"), database.write() as s:
        create_team(s, "nlu", actor="ann", at=AT)
    with database.write() as session:
        session.execute(delete(CounterRow).where(CounterRow.name == AUDIT_COUNTER))
    with pytest.raises(StorageError, match="the audit trail has lost its counter"), database.write() as session:
        create_team(session, "nlu", actor="ann", at=AT)
    assert team_names(database) == []


def test_an_older_schema_is_refused_with_the_commands_that_save_and_mend_it(
    database: Database, database_url: str, backend: str
) -> None:
    how = {"sqlite": "by copying the file while nobody uses it", "postgresql": "with pg_dump"}[backend]
    saved = f"back it up {how}, or by `trunkline backup` of the version that wrote it, then run `trunkline db upgrade`"
    for revision in OLDER_REVISIONS:
        with database.write() as session:
            session.execute(update(SCHEMA_VERSION).values(version_num=revision))
        with pytest.raises(SchemaError, match=f"has schema {revision}, which is older .*: {saved}"):
            Database.open(database_url)


def test_a_schema_from_a_newer_program_is_left_alone(database: Database, database_url: str) -> None:
    with database.write() as session:
        session.execute(update(SCHEMA_VERSION).values(version_num="2099_01_01_moons"))
    newer = "2099_01_01_moons, which is newer than this program .*: install the newer trunkline"
    for attempt in (Database.open, upgrade):
        with pytest.raises(SchemaError, match=newer):
            attempt(database_url)
    with database.read() as session:
        assert session.scalar(select(SCHEMA_VERSION.c.version_num)) == "2099_01_01_moons"


def test_looking_at_the_schema_changes_nothing(database_url: str) -> None:
    assert schema_state(database_url).revision is None
    assert schema_state(database_url).revision is None
    upgrade(database_url)
    assert schema_state(database_url).revision == SCHEMA_REVISION
    assert schema_differences(database_url) == []


@pytest.mark.parametrize(
    "url",
    [
        "",
        "registry.db",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:/registry.db",
        "sqlite+pysqlcipher:///registry.db",
        "mysql://ann:secret@localhost/registry",
        "postgres://ann:secret@localhost/registry",
        "postgresql+psycopg2://ann:secret@localhost/registry",
        "postgresql://ann:secret@localhost",
        "postgresql://ann:secret@localhost:port/registry",
        "postgresql:/ann:secret@localhost/registry",
    ],
)
def test_a_url_that_names_no_database_is_refused_without_showing_it(url: str) -> None:
    said = r"write sqlite:///PATH or postgresql://USER:PASSWORD@HOST/DATABASE"
    with pytest.raises(UsageError, match=said) as refused:
        Database.open(url)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:p@ssword7@127.0.0.1:1/r",
        "postgresql://ann:p@ss/word7@127.0.0.1:1/r",
        "postgresql://ann:p@ss/x?word7@127.0.0.1:1/r",
        "postgresql://ann:p@ss/x?host=word7@127.0.0.1:1/r",
        "postgresql+psycopg://ann:p@ss:1/word7@127.0.0.1:1/r",
        "postgresql://ssword7/r@127.0.0.1:1/r",
        "postgresql://127.0.0.1:1/r?password=p@ssword7",
        "postgresql://127.0.0.1:1/r?user=ann&password=p@ssword7/r",
    ],
)
def test_a_url_in_which_a_password_may_be_taken_for_something_else_is_refused_without_showing_it(url: str) -> None:
    said = "percent-encode user, password and parameters .* or leave the password to PGPASSWORD or PGPASSFILE"
    for attempt in (Database.open, upgrade, schema_state):
        with pytest.raises(UsageError, match=said) as refused:
            attempt(url)
        assert "word7" not in str(refused.value)


@pytest.mark.parametrize("password", ["p%40ss%2Fw%3Ard", "p/ss", "p:ss", "p#ss&x"])
def test_a_password_that_is_told_apart_is_never_part_of_the_location(password: str) -> None:
    for user in ("ann", "ann%40corp"):
        location = backend_of(f"postgresql://{user}:{password}@127.0.0.1:1/r").location
        assert location == f"postgresql://{user.replace('%40', '@')}@127.0.0.1:1/r"


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
print([name for name in {HEAVY} if name in sys.modules], "psycopg" in sys.modules)
"""


@pytest.mark.usefixtures("database")
def test_a_database_that_is_up_to_date_is_opened_without_anything_heavy(database_url: str, backend: str) -> None:
    command = [sys.executable, "-P", "-c", OPEN_AND_LIST, database_url]
    assert (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        == f"[] {backend == 'postgresql'}"
    )
