"""The kinds of database that a registry can live in, told apart by the URL."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final, Protocol

from sqlalchemy import Engine
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from registry.database.description import Description
from registry.errors import StorageError, TrunklineError, UsageError

BUSY_SECONDS: Final = 30.0
"""How long one transaction waits for the others."""


class Backend(Protocol):
    """One database, before it is opened."""

    @property
    def location(self) -> str:
        """The URL as it may be shown: without password and parameters."""

    @property
    def makes_itself(self) -> bool:
        """Whether a registry is made where there is none, without being asked."""

    def engines(self) -> tuple[Engine, Engine]:
        """An engine for reading and one for writing.

        Raises:
            StorageError: the place where the database is to be cannot be made.
        """

    def upgrading(self) -> AbstractContextManager[Connection]:
        """A transaction that may change the schema, while no other process does; committed at the end.

        Raises:
            SchemaError: it would leave dangling references.
            StorageError: it cannot be had, or the database cannot hold a registry.
        """

    def descriptions(self) -> tuple[Description, Description]:
        """The schema that is there, and the one that the classes describe."""

    def exists(self) -> bool:
        """Whether there is anything to connect to, as far as that can be told without connecting."""

    def is_without_registry(self, error: DBAPIError) -> bool:
        """Whether reading the schema's revision failed because there is no registry yet.

        Raises:
            StorageError: there is one, which this user may not see.
        """

    def translated(self, error: DBAPIError) -> TrunklineError:
        """What the driver's error means to us; never with a password in it."""


def backend_of(url: str, *, busy_seconds: float = BUSY_SECONDS) -> Backend:
    """The database that a URL names.

    Args:
        busy_seconds: how long to wait for others before giving up.
    Raises:
        UsageError: the URL names neither an SQLite file nor a PostgreSQL database, or not without doubt.
    """
    from registry.database.postgresql import PostgresqlDatabase
    from registry.database.sqlite import SqliteFile

    wanted = "write sqlite:///PATH or postgresql://USER:PASSWORD@HOST/DATABASE"
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # Not shown: what cannot be read may hold a password anywhere.
        raise UsageError(f"the database's URL cannot be read: {wanted}") from None
    # One sets off the user from the host. What follows an unescaped one in a password would be taken for the host.
    place, _, parameters = url.partition("?")
    allowed = 0 if parsed.username is None else 1
    if parsed.get_backend_name() == "postgresql" and (place.count("@") > allowed or "@" in parameters):
        raise UsageError(
            "the database's URL has an '@' too many: percent-encode user, password and parameters ('@' as %40, '/' as "
            "%2F, ':' as %3A, '?' as %3F), or leave the password to PGPASSWORD or PGPASSFILE"
        )
    match parsed.drivername:
        case "sqlite" if parsed.database not in (None, "", ":memory:") and "uri" not in parsed.query:
            return SqliteFile(parsed, busy_seconds=busy_seconds)
        case "postgresql" | "postgresql+psycopg" if parsed.database:
            return PostgresqlDatabase(parsed, busy_seconds=busy_seconds)
        case scheme:
            raise UsageError(f"the database's URL ({scheme}:…) names no file or database that can be used: {wanted}")


@contextmanager
def translating(backend: Backend) -> Iterator[None]:
    """Lets the errors of SQLAlchemy and its drivers leave as our own."""
    try:
        yield
    except DBAPIError as error:
        raise backend.translated(error) from error
    except StatementError as error:
        if isinstance(error.orig, TrunklineError):  # a column's type refused a value
            raise error.orig from None
        raise
    except PoolTimeout as error:
        raise StorageError(f"no connection to {backend.location} became free: close some sessions first") from error


def sqlite_file(url: str) -> Path | None:
    """The file that an SQLite URL names; None for every other URL, whether it can be used or not."""
    try:
        location = make_url(url)
    except (ArgumentError, ValueError):
        return None
    if location.get_backend_name() != "sqlite" or location.database in (None, "", ":memory:"):
        return None
    return Path(location.database)
