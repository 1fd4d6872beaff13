"""Creating and upgrading the schema. Imports Alembic: import this module only where it is used."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import inspect
from sqlalchemy.engine import Connection

import migrations
from registry.database.backend import BUSY_SECONDS, backend_of, translating
from registry.database.schema import OLDER_REVISIONS, SCHEMA_REVISION, VERSION_TABLE
from registry.database.schema_state import recorded_revision, schema_error
from registry.domain.plain_data import Plain
from registry.fault_points import reached


class Upgrade(Plain):
    """What an upgrade did: nothing, where the two revisions are the same."""

    location: str
    before: str | None
    """None where there was no registry."""
    after: str


def migration_config(connection: Connection) -> Config:
    """Alembic's settings for running our migrations on this connection, in its transaction."""
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(Path(migrations.__file__).parent).replace("%", "%%"))
    return config


def upgrade(url: str, *, lock_timeout: float = BUSY_SECONDS) -> Upgrade:
    """Brings a database to SCHEMA_REVISION in one transaction, or leaves it as it was.

    Of several processes that upgrade at once one does it, the others wait and find it done.

    Args:
        lock_timeout: seconds to wait for another upgrade, and for each table that others are using.
    Raises:
        UsageError: the URL names no database that can be used.
        SchemaError: the schema is newer than this program, or the migrations would leave dangling references.
        StorageError: the database cannot be used, or others used it for longer than the timeout.
    """
    backend = backend_of(url, busy_seconds=lock_timeout)
    with translating(backend):
        with backend.upgrading() as connection:
            reached("upgrade.locked")
            before = recorded_revision(connection) if inspect(connection).has_table(VERSION_TABLE) else None
            if before not in (None, SCHEMA_REVISION, *OLDER_REVISIONS):
                raise schema_error(backend.location, before)
            command.upgrade(migration_config(connection), SCHEMA_REVISION)
            reached("upgrade.migrated")
        reached("upgrade.committed")
    return Upgrade(location=backend.location, before=before, after=SCHEMA_REVISION)
