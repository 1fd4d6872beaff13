from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, inspect
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session

from registry.database.engine import Database
from registry.database.schema import SCHEMA_REVISION, VERSION_TABLE, Schema
from registry.database.upgrade import migration_config, upgrade
from registry.domain.references import VersionReference
from registry.errors import SchemaError
from registry.services.aliases import promote
from registry.services.audit import list_events
from registry.services.releases import register_release
from registry.services.versions import register_version


@pytest.fixture
def fill(
    populate: Callable[[Session], None], new_version: Any, new_release: Any, change: dict[str, Any]
) -> Callable[[Session], None]:
    """Puts at least one row into every table."""

    def work(session: Session) -> None:
        populate(session)
        register_version(session, new_version(), **change)
        promote(session, VersionReference(task="rte", number=1), "champion", expect=None, **change)
        register_release(session, new_release(), **change)

    return work


@pytest.fixture
def connection(registry: Database, tmp_path: Path) -> Iterator[Connection]:
    """A connection to the same file, as the migrations get it."""
    engine = create_engine(f"sqlite:///{tmp_path / 'registry.db'}")
    with engine.begin() as opened:
        yield opened
    engine.dispose()


def described(engine: Engine | Connection) -> dict[str, Any]:
    """Everything that the tables promise: columns, keys, indexes and the text of every CHECK."""
    inspector = inspect(engine)

    def listed(items: Any) -> list[str]:
        return sorted(str({key: str(value) for key, value in sorted(item.items())}) for item in items)

    return {
        table: {
            "columns": listed(inspector.get_columns(table)),
            "primary key": str(inspector.get_pk_constraint(table)),
            "unique": listed(inspector.get_unique_constraints(table)),
            "foreign keys": listed(inspector.get_foreign_keys(table)),
            "indexes": listed(inspector.get_indexes(table)),
            "checks": listed(inspector.get_check_constraints(table)),
        }
        for table in inspector.get_table_names()
        if table != VERSION_TABLE
    }


def test_the_migrations_make_the_tables_that_the_classes_describe(connection: Connection) -> None:
    context = MigrationContext.configure(connection, opts={"compare_type": True, "version_table": VERSION_TABLE})
    assert compare_metadata(context, Schema.metadata) == []
    straight = create_engine("sqlite://")
    Schema.metadata.create_all(straight)
    assert described(connection) == described(straight)
    straight.dispose()


def test_the_latest_migration_is_the_one_that_the_program_expects(connection: Connection) -> None:
    assert ScriptDirectory.from_config(migration_config(connection)).get_heads() == [SCHEMA_REVISION]


def test_populated_tables_go_down_and_up_again(
    database: Database, tmp_path: Path, fill: Callable[[Session], None]
) -> None:
    with database.write() as session:
        fill(session)
        events = len(list_events(session))
        counts = [session.query(table).count() for table in Schema.metadata.sorted_tables]
        assert all(counts)
    database.close()
    engine = create_engine(f"sqlite:///{tmp_path / 'registry.db'}")
    with engine.begin() as connection:
        before = described(connection)
        command.downgrade(migration_config(connection), "base")
        assert set(inspect(connection).get_table_names()) == {VERSION_TABLE}
    with engine.begin() as connection:
        command.upgrade(migration_config(connection), "head")
        assert described(connection) == before
    engine.dispose()
    with database.write() as session:
        fill(session)
        assert len(list_events(session)) == events


def test_a_database_that_went_down_is_upgraded_when_it_is_opened(
    database: Database, tmp_path: Path, fill: Callable[[Session], None]
) -> None:
    database.close()
    engine = create_engine(f"sqlite:///{tmp_path / 'registry.db'}")
    with engine.begin() as connection:
        command.downgrade(migration_config(connection), "base")
    engine.dispose()
    opened = Database.open(f"sqlite:///{tmp_path / 'registry.db'}")
    with opened.write() as session:
        fill(session)
    opened.close()


def test_upgrading_what_is_up_to_date_changes_nothing(registry: Database, tmp_path: Path) -> None:
    upgrade(create_engine(f"sqlite:///{tmp_path / 'registry.db'}"))
    with registry.read() as session:
        assert len(list_events(session)) == 5


def test_an_upgrade_that_would_leave_dangling_references_is_undone(tmp_path: Path) -> None:
    """Migrations rebuild tables with foreign keys off: what they leave is checked before it is committed."""
    path = tmp_path / "registry.db"
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE parents (id INTEGER PRIMARY KEY)")
        connection.exec_driver_sql("CREATE TABLE children (parent INTEGER REFERENCES parents (id))")
        connection.exec_driver_sql("INSERT INTO children VALUES (7)")
    with pytest.raises(SchemaError, match=r"would leave dangling references: .*children"):
        Database.open(f"sqlite:///{path}")
    assert inspect(engine).get_table_names() == ["children", "parents"]
    engine.dispose()


def test_every_constraint_has_a_name_that_postgresql_keeps(connection: Connection) -> None:
    """PostgreSQL cuts names at 63 bytes; a constraint without a name could not be changed by a migration."""
    inspector = inspect(connection)
    for table in Schema.metadata.tables:
        constraints = [
            inspector.get_pk_constraint(table),
            *inspector.get_unique_constraints(table),
            *inspector.get_foreign_keys(table),
            *inspector.get_check_constraints(table),
            *inspector.get_indexes(table),
        ]
        for constraint in constraints:
            assert constraint["name"], (table, constraint)
            assert len(constraint["name"]) <= 63
