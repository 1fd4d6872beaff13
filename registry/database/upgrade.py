"""Creating and upgrading the schema. Imports Alembic: import this module only where it is used."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from filelock import FileLock
from sqlalchemy import Engine, inspect
from sqlalchemy.engine import Connection

import migrations
from registry.database.engine import recorded_revision
from registry.database.schema import SCHEMA_REVISION, VERSION_TABLE
from registry.errors import SchemaError


def migration_config(connection: Connection) -> Config:
    """Alembic's settings for running our migrations on this connection, in its transaction."""
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(Path(migrations.__file__).parent).replace("%", "%%"))
    return config


def upgrade(engine: Engine) -> None:
    """Brings an SQLite file to SCHEMA_REVISION in one transaction; `engine` is disposed of.

    `engine` must not enforce foreign keys (migrations rebuild tables), must begin its transactions IMMEDIATE, and
    switches the file to WAL when it connects.

    Raises:
        SchemaError: the schema is newer than this program, or the migrations would leave dangling references.
    """
    # The lock is for the switch to WAL, which SQLite does not wait for; the upgrade itself is serialised by
    # BEGIN IMMEDIATE: the process that comes second finds nothing left to do.
    try:
        with FileLock(f"{engine.url.database}.upgrading"), engine.begin() as connection:
            _upgrade(connection)
    finally:
        engine.dispose()


def _upgrade(connection: Connection) -> None:
    found = recorded_revision(connection) if inspect(connection).has_table(VERSION_TABLE) else None
    config = migration_config(connection)
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if found is not None and found not in known:
        raise SchemaError(
            f"{connection.engine.url.database} has schema {found}, which is newer than this program "
            f"(it knows up to {SCHEMA_REVISION}): install the newer trunkline"
        )
    command.upgrade(config, SCHEMA_REVISION)
    if dangling := connection.exec_driver_sql("PRAGMA foreign_key_check").all():
        raise SchemaError(f"upgrading to {SCHEMA_REVISION} would leave dangling references: {dangling[:3]}")
