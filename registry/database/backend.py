"""The kinds of database that a registry can live in, told apart by the URL."""

from contextlib import AbstractContextManager
from typing import Final, Protocol

from sqlalchemy import Engine
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from registry.errors import TrunklineError, UsageError

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

    def is_without_registry(self, error: DBAPIError) -> bool:
        """Whether reading the schema's revision failed because there is no registry yet."""

    def translated(self, error: DBAPIError) -> TrunklineError:
        """What the driver's error means to us; never with a password in it."""


def backend_of(url: str, *, busy_seconds: float = BUSY_SECONDS) -> Backend:
    """The database that a URL names.

    Args:
        busy_seconds: how long to wait for others before giving up.
    Raises:
        UsageError: the URL names neither an SQLite file nor a PostgreSQL database.
    """
    from registry.database.postgresql import PostgresqlDatabase
    from registry.database.sqlite import SqliteFile

    wanted = "write sqlite:///PATH or postgresql://USER:PASSWORD@HOST/DATABASE"
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # Not shown: what cannot be read may hold a password anywhere.
        raise UsageError(f"the database's URL cannot be read: {wanted}") from None
    match parsed.drivername:
        case "sqlite" if parsed.database not in (None, "", ":memory:"):
            return SqliteFile(parsed, busy_seconds=busy_seconds)
        case "postgresql" | "postgresql+psycopg" if parsed.database:
            return PostgresqlDatabase(parsed, busy_seconds=busy_seconds)
        case scheme:
            raise UsageError(f"the database's URL ({scheme}:…) names no file or database that can be used: {wanted}")
