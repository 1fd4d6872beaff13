"""Which schema a database has, and whether it is the one that this program needs."""

from sqlalchemy import Engine, String, column, select, table
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from registry.database.backend import Backend, backend_of, translating
from registry.database.description import differences
from registry.database.schema import OLDER_REVISIONS, SCHEMA_REVISION, VERSION_TABLE
from registry.domain.plain_data import Plain
from registry.errors import SchemaError


class SchemaState(Plain):
    """Which schema a database has, and which one this program knows."""

    location: str
    revision: str | None
    """None where there is no registry yet."""
    expected: str = SCHEMA_REVISION


def schema_state(url: str) -> SchemaState:
    """Looks, and neither makes nor changes anything.

    Raises:
        UsageError: the URL names no database that can be used.
        StorageError: it cannot be reached or read.
    """
    backend = backend_of(url)
    if not backend.exists():
        return SchemaState(location=backend.location, revision=None)
    reader, writer = backend.engines()
    try:
        return SchemaState(location=backend.location, revision=found_revision(backend, reader))
    finally:
        reader.dispose()
        writer.dispose()


def schema_differences(url: str) -> list[str]:
    """How the schema that is there differs from the one that this program describes, item by item.

    Raises:
        SchemaError: it is of another revision.
        UsageError, StorageError: as of `schema_state`.
    """
    state = schema_state(url)
    if state.revision != SCHEMA_REVISION:
        raise schema_error(state.location, state.revision)
    backend = backend_of(url)
    with translating(backend):
        return differences(*backend.descriptions())


def found_revision(backend: Backend, reader: Engine) -> str | None:
    """The schema's revision, or None where there is no registry; raises StorageError."""
    with translating(backend):
        try:
            with reader.connect() as connection:
                return recorded_revision(connection)
        except DBAPIError as error:
            if backend.is_without_registry(error):
                return None
            raise


def recorded_revision(connection: Connection) -> str | None:
    """The schema's revision: one SELECT instead of importing Alembic at every start."""
    recorded = table(VERSION_TABLE, column("version_num", String))
    return connection.scalar(select(recorded.c.version_num))


def schema_error(location: str, found: str | None) -> SchemaError:
    """What is wrong with a schema of this revision, and what to do about it."""
    if found is None:
        return SchemaError(f"{location} holds no registry yet: `trunkline db upgrade` makes one")
    if found in OLDER_REVISIONS:
        how = "with pg_dump" if location.startswith("postgresql:") else "by copying the file while nobody uses it"
        return SchemaError(
            f"{location} has schema {found}, which is older than this program's ({SCHEMA_REVISION}): "
            f"back it up {how}, or by `trunkline backup` of the version that wrote it, then run `trunkline db upgrade`"
        )
    return SchemaError(
        f"{location} has schema {found}, which is newer than this program (it knows up to {SCHEMA_REVISION}): "
        "install the newer trunkline"
    )
