import functools
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, event, func, insert, inspect, select, text
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session

from registry.database.backend import backend_of
from registry.database.description import Description
from registry.database.engine import Database
from registry.database.schema import OLDER_REVISIONS, SCHEMA_REVISION, VERSION_TABLE, IdempotencyKeyRow, Schema
from registry.database.schema_state import schema_differences, schema_state
from registry.database.upgrade import migration_config, upgrade
from registry.domain.references import VersionReference
from registry.errors import SchemaError, StorageError
from registry.fault_points import arm
from registry.services.aliases import promote
from registry.services.audit import chain_report, list_events
from registry.services.channels import create_channel, promote_release
from registry.services.releases import list_releases, register_release
from registry.services.searches import begin_search
from registry.services.tasks import list_tasks
from registry.services.teams import create_team
from registry.services.trials import ask_for
from registry.services.versions import list_versions, register_version
from tests.postgresql import PostgresqlServer

FIRST, LATEST = OLDER_REVISIONS[0], SCHEMA_REVISION


@pytest.fixture
def fill(
    populate: Callable[[Session], None],
    new_version: Any,
    new_release: Any,
    new_search: Any,
    planned_trial: Any,
    change: dict[str, Any],
) -> Callable[[str], None]:
    """Puts at least one row into every table."""

    def work(url: str) -> None:
        database = Database.open(url)
        with database.write() as session:
            populate(session)
            register_version(session, new_version(), **change)
            promote(session, VersionReference(task="rte", number=1), "champion", expect=None, **change)
            register_release(session, new_release(), **change)
            create_channel(session, "production", takes="verified", **change)
            promote_release(session, "r1", "production", expect=None, **change)
            key = {"key": "k", "action": "team.create", "request": "0" * 64, "result": {}, "actor": "ann"}
            session.add(IdempotencyKeyRow(**key, created_at=change["at"]))
            search = begin_search(
                session, new_search(), runner="a:1:1", until=change["at"], is_gone=lambda _: False, **change
            )
            ask_for(session, search, [planned_trial(), planned_trial("second")])
        database.close()

    return work


@contextmanager
def migrating(url: str) -> Iterator[Connection]:
    """A transaction as the migrations get it."""
    with backend_of(url).upgrading() as connection:
        yield connection


def go_to(url: str, revision: str) -> None:
    """Runs the migrations up or down to a revision."""
    with migrating(url) as connection:
        config = migration_config(connection)
        revisions = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
        found = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()
        is_up = found is None or (revision != "base" and revisions.index(revision) < revisions.index(found))
        (command.upgrade if is_up else command.downgrade)(config, revision)


def described(url: str) -> Description:
    return backend_of(url).descriptions()[0]


def shown(url: str) -> Any:
    """What users see of a registry."""
    database = Database.open(url)
    with database.read() as session:
        everything = list_tasks(session), list_versions(session, "rte"), list_releases(session), list_events(session)
    database.close()
    return everything


def test_the_migrations_make_the_tables_that_the_classes_describe(database_url: str) -> None:
    upgrade(database_url)
    assert schema_differences(database_url) == []
    with migrating(database_url) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "version_table": VERSION_TABLE})
        assert compare_metadata(context, Schema.metadata) == []


def test_the_program_knows_which_revisions_there_are(database_url: str) -> None:
    with migrating(database_url) as connection:
        scripts = ScriptDirectory.from_config(migration_config(connection))
        assert [script.revision for script in scripts.walk_revisions()] == [LATEST, *reversed(OLDER_REVISIONS)]


def test_populated_tables_go_down_and_up_again(database_url: str, fill: Callable[[str], None]) -> None:
    upgrade(database_url)
    fill(database_url)
    before, rows = described(database_url), shown(database_url)
    with migrating(database_url) as connection:
        for table in Schema.metadata.sorted_tables:
            assert connection.scalar(select(func.count()).select_from(table)), table
    go_to(database_url, FIRST)
    assert schema_state(database_url).revision == FIRST
    upgrade(database_url)
    assert described(database_url) == before
    assert shown(database_url) == rows
    go_to(database_url, "base")
    with migrating(database_url) as connection:
        assert set(inspect(connection).get_table_names()) == {VERSION_TABLE}
    upgrade(database_url)
    assert described(database_url) == before
    fill(database_url)
    assert shown(database_url)[0] == rows[0]


def test_what_an_older_program_would_take_for_usable_is_not_taken_down(
    database_url: str, fill: Callable[[str], None], new_release: Any, change: dict[str, Any]
) -> None:
    upgrade(database_url)
    fill(database_url)
    database = Database.open(database_url)
    with database.write() as session:
        register_release(session, new_release("draft", gates=None), **change)
    database.close()
    with pytest.raises(RuntimeError, match="1 releases are drafts or retired"):
        go_to(database_url, OLDER_REVISIONS[-1])
    assert schema_state(database_url).revision == LATEST


def events_of_the_first_schema(count: int, *, gap: bool) -> list[dict[str, Any]]:
    """Events as the first schema's programs wrote them, with gaps in their ids as PostgreSQL leaves them."""
    at = datetime(2026, 5, 1, 9, 30, 0, 250_000, tzinfo=UTC)
    return [
        {
            "id": number + (number // 3 if gap else 0),
            "occurred_at": at + timedelta(seconds=(number * 7) % 5),
            "actor": f"actor-{number % 3}",
            "action": "version.register",
            "object": f"version rte/{number}",
            "before": None if number % 2 else {"number": number},
            "after": {
                "metrics": {"accuracy": number / 7},
                "text": 'ü \u2028 \\ " \U0001f600',
                "none": None,
                "n": 10**20,
            },
        }
        for number in range(1, count + 1)
    ]


@pytest.mark.parametrize("gap", [False, True])
@pytest.mark.parametrize("count", [0, 1, 1_203])
def test_events_that_are_there_are_chained(database_url: str, count: int, gap: bool) -> None:
    go_to(database_url, FIRST)
    old = sqlalchemy.Table(
        "audit_events",
        sqlalchemy.MetaData(),
        *(
            sqlalchemy.Column(column.name, column.type)
            for column in Schema.metadata.tables["audit_events"].columns
            if column.name != "hash"
        ),
    )
    rows = events_of_the_first_schema(count, gap=gap)
    with migrating(database_url) as connection:
        if rows:
            connection.execute(insert(old), rows)
    upgrade(database_url)
    database = Database.open(database_url)
    with database.read() as session:
        report = chain_report(session)
        assert (report.events, report.head.number, report.breaks) == (count, count, ())
        kept = [
            (event.occurred_at, event.actor, event.action, event.object, event.before, event.after)
            for event in reversed(list_events(session))
        ]
    assert kept == [tuple(row[name] for name in list(row)[1:]) for row in rows]
    with database.write() as session:
        create_team(session, "nlu", actor="ann", at=datetime(2026, 5, 2, tzinfo=UTC))
    with database.read() as session:
        assert (chain_report(session).head.number, chain_report(session).breaks) == (count + 1, ())
    database.close()
    go_to(database_url, FIRST)
    with migrating(database_url) as connection:
        assert connection.scalars(select(old.c.id).order_by(old.c.id)).all() == list(range(1, count + 2))
        connection.execute(
            text("INSERT INTO audit_events (occurred_at, actor, action, object) VALUES (:at, 'ann', 'x', 'y')"),
            {"at": "2026-05-01 00:00:00"},
        )
        assert connection.scalar(select(func.max(old.c.id))) == count + 2


def test_upgrading_what_is_up_to_date_changes_nothing(registry: Database, database_url: str) -> None:
    before = shown(database_url)
    done = upgrade(database_url)
    assert (done.before, done.after) == (LATEST, LATEST)
    assert shown(database_url) == before
    assert registry.location == done.location


def test_processes_that_upgrade_at_once_do_it_once(
    database_url: str, together: Callable[..., list[Any]], fill: Callable[[str], None]
) -> None:
    upgrade(database_url)
    fill(database_url)
    rows = shown(database_url)
    go_to(database_url, FIRST)
    done = together(4, lambda _: upgrade(database_url).before)
    assert sorted(done) == sorted([FIRST, LATEST, LATEST, LATEST])
    assert shown(database_url) == rows


def test_an_upgrade_waits_for_another_one_only_so_long(database_url: str) -> None:
    with migrating(database_url), pytest.raises(StorageError, match=r"the database was busy for 0\.2 seconds"):
        upgrade(database_url, lock_timeout=0.2)
    assert upgrade(database_url, lock_timeout=0.2).before is None


def test_an_upgrade_waits_for_those_who_use_the_tables_only_so_long(
    registry: Database, database_url: str, backend: str
) -> None:
    registry.close()
    go_to(database_url, FIRST)
    engine = create_engine(database_url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.execute(text("UPDATE counters SET next_number = 2"))
        with pytest.raises(StorageError, match=r"the database was busy for 0\.2 seconds"):
            upgrade(database_url, lock_timeout=0.2)
    engine.dispose()
    assert schema_state(database_url).revision == FIRST
    assert upgrade(database_url).before == FIRST


def kill_after(statements: int) -> None:
    """From now on this process is killed as soon as the database has done so many statements."""

    @event.listens_for(sqlalchemy.Engine, "after_cursor_execute")
    def _count(*_: Any) -> None:
        nonlocal statements
        statements -= 1
        if statements == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def test_an_upgrade_that_is_killed_anywhere_changes_nothing(
    database_url: str, killed: Callable[[Callable[[], None]], None], fill: Callable[[str], None]
) -> None:
    upgrade(database_url)
    fill(database_url)
    rows = shown(database_url)
    go_to(database_url, FIRST)
    before = described(database_url)

    def work(statements: int) -> None:
        kill_after(statements)
        arm(lambda place: os.kill(os.getpid(), signal.SIGKILL) if place == "upgrade.migrated" else None)
        upgrade(database_url)

    for statements in (*range(1, 60, 9), 10**6):
        killed(functools.partial(work, statements))
        assert schema_state(database_url).revision == FIRST
        assert described(database_url) == before
    upgrade(database_url)
    assert schema_differences(database_url) == []
    assert shown(database_url) == rows


def test_a_creation_that_is_killed_leaves_nothing(
    database_url: str, killed: Callable[[Callable[[], None]], None]
) -> None:
    def work() -> None:
        @event.listens_for(sqlalchemy.Engine, "after_cursor_execute")
        def _stop(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if "CREATE TABLE releases" in statement:
                os.kill(os.getpid(), signal.SIGKILL)

        upgrade(database_url)

    killed(work)
    assert schema_state(database_url).revision is None
    with migrating(database_url) as connection:
        assert inspect(connection).get_table_names() == []
    upgrade(database_url)
    assert schema_differences(database_url) == []


def test_an_upgrade_that_would_leave_dangling_references_is_undone(tmp_path: Path) -> None:
    """On SQLite migrations rebuild tables with foreign keys off: what they leave is checked before it is committed."""
    path = tmp_path / "other.db"
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE parents (id INTEGER PRIMARY KEY)")
        connection.exec_driver_sql("CREATE TABLE children (parent INTEGER REFERENCES parents (id))")
        connection.exec_driver_sql("INSERT INTO children VALUES (7)")
    with pytest.raises(SchemaError, match=r"would leave dangling references: .*children"):
        Database.open(f"sqlite:///{path}")
    assert inspect(engine).get_table_names() == ["children", "parents"]
    engine.dispose()


def test_a_database_that_lacks_characters_is_refused(postgresql: PostgresqlServer) -> None:
    name = postgresql.create(options="ENCODING 'SQL_ASCII' LOCALE 'C'")
    with pytest.raises(StorageError, match="keeps text as SQL_ASCII, which lacks characters: create the database with"):
        upgrade(postgresql.url(name))
    postgresql.drop(name)


def spoil(url: str, statement: str) -> list[str]:
    """Makes an up-to-date schema, runs the statement on it, and returns what is then found."""
    upgrade(url)
    with migrating(url) as connection:
        connection.exec_driver_sql(statement)
    return schema_differences(url)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("ALTER TABLE teams ADD COLUMN motto text", "teams: column motto is not known: TEXT null"),
        ("DROP INDEX ix_tasks_team_id", "tasks: index ix_tasks_team_id is missing"),
        ("CREATE INDEX ix_of_my_own ON tasks (state)", "tasks: index ix_of_my_own is not known"),
        ("DROP TABLE idempotency_keys", "idempotency_keys: column key is missing"),
    ],
)
def test_what_somebody_did_to_the_schema_is_found(database_url: str, statement: str, said: str) -> None:
    assert any(line.startswith(said) for line in spoil(database_url, statement))


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DROP TRIGGER versions_no_update", "versions: trigger versions_no_update is missing"),
        ("CREATE TRIGGER mine AFTER INSERT ON teams BEGIN SELECT 1; END", "teams: trigger mine is not known"),
    ],
)
def test_what_somebody_did_to_the_triggers_of_sqlite_is_found(tmp_path: Path, statement: str, said: str) -> None:
    (found,) = spoil(f"sqlite:///{tmp_path / 'registry.db'}", statement)
    assert found.startswith(said)


CHANGED_FUNCTION = (
    "CREATE OR REPLACE FUNCTION trunkline_refuse_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'"
)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DROP TRIGGER versions_no_change ON versions", "trigger versions_no_change is missing"),
        ("ALTER TABLE versions DISABLE TRIGGER versions_no_change", "trigger versions_no_change is .* enabled D as"),
        ("ALTER TABLE versions ENABLE REPLICA TRIGGER versions_no_truncate", "versions_no_truncate is .* enabled R as"),
        (CHANGED_FUNCTION, "trigger alias_moves_no_change is .*BEGIN RETURN NEW; END, but should be"),
        ("ALTER TABLE teams ALTER COLUMN name TYPE varchar(64)", r"teams: column name is VARCHAR\(64\)"),
        ('ALTER TABLE teams ALTER name TYPE varchar(63) COLLATE "POSIX"', 'should be VARCHAR.63. COLLATE "C"'),
        ("ALTER TABLE tasks ALTER COLUMN state DROP NOT NULL", r"VARCHAR\(32\) null, but should be .* not null"),
        ("ALTER TABLE tasks DROP CONSTRAINT ck_tasks_retired_has_time", "check ck_tasks_retired_has_time is missing"),
        ("ALTER TABLE aliases DROP CONSTRAINT fk_aliases_version_of_same_task", "foreign key .* is missing"),
    ],
)
def test_what_somebody_did_to_a_schema_of_postgresql_is_found(
    postgresql_database: str, statement: str, said: str
) -> None:
    assert re.search(said, "\n".join(spoil(postgresql_database, statement)))
    with migrating(postgresql_database) as connection:
        assert inspect(connection).get_schema_names() == ["information_schema", "public"]


def test_every_name_is_one_that_postgresql_keeps(database_url: str) -> None:
    """PostgreSQL cuts names at 63 bytes; a constraint without a name could not be changed by a migration."""
    upgrade(database_url)
    for item in described(database_url):
        name = item.rpartition(" ")[2]
        assert name != "None"
        assert len(name) <= 63
