"""The database of one registry: opened, brought up to date, and used in units of work that read or that write."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sqlalchemy import Engine, String, column, create_engine, event, select, table
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, OperationalError
from sqlalchemy.orm import Session

from registry.database.schema import SCHEMA_REVISION, VERSION_TABLE
from registry.domain.plain_data import canonical_json
from registry.errors import Conflict, StorageError, UsageError

BUSY_SECONDS: Final = 30
"""How long a writer waits for the other writers."""


class Database:
    """Readers and writers have engines of their own: on SQLite they must begin their transactions differently."""

    def __init__(self, reader: Engine, writer: Engine) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    def open(cls, url: str) -> "Database":
        """Opens the database, creating it or upgrading its schema when that is due.

        Raises:
            UsageError: the URL is not that of an SQLite file.
            SchemaError: the schema is newer than this program.
            StorageError: the file cannot be created, read or written, or is not a database.
        """
        location = _sqlite_file(url)
        try:
            Path(str(location.database)).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot create the folder of {location.database}: {error.strerror}") from error
        database = cls(
            reader=_sqlite_engine(location, begin="BEGIN", pragmas=("foreign_keys = ON", "query_only = ON")),
            writer=_sqlite_engine(location, begin="BEGIN IMMEDIATE", pragmas=("foreign_keys = ON",)),
        )
        try:
            if not database._is_current():
                from registry.database.upgrade import upgrade  # imports Alembic: only when there is something to do

                upgrade(
                    _sqlite_engine(
                        location, begin="BEGIN IMMEDIATE", pragmas=("foreign_keys = OFF", "journal_mode = WAL")
                    )
                )
        except (DBAPIError, sqlite3.Error) as error:
            database.close()
            raise _translated(error) from error
        except OSError as error:
            database.close()
            raise StorageError(f"cannot create or upgrade {location.database}: {error.strerror}") from error
        except BaseException:
            database.close()
            raise
        return database

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session in which everything is read as of one moment, and nothing can be written."""
        with Session(self._reader, autoflush=False) as session, _translating():
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A session whose changes are committed together at the end, or not at all after any exception."""
        with Session(self._writer) as session, _translating():
            yield session
            session.commit()

    def close(self) -> None:
        self._reader.dispose()
        self._writer.dispose()

    def _is_current(self) -> bool:
        try:
            with self._reader.connect() as connection:
                return recorded_revision(connection) == SCHEMA_REVISION
        except OperationalError:
            # No such table, or another process is creating it just now: `upgrade` waits its turn and looks again.
            return False


def recorded_revision(connection: Connection) -> str | None:
    """The schema's revision: one SELECT instead of importing Alembic at every start."""
    recorded = table(VERSION_TABLE, column("version_num", String))
    return connection.scalar(select(recorded.c.version_num))


def _sqlite_file(url: str) -> URL:
    try:
        location = make_url(url)
    except ArgumentError:
        raise UsageError(f"{url!r} is no database URL: write sqlite:///PATH") from None
    if location.get_backend_name() != "sqlite" or location.database in (None, "", ":memory:"):
        raise UsageError(f"{location.render_as_string()} is not an SQLite file: write sqlite:///PATH")
    return location


def _sqlite_engine(location: URL, *, begin: str, pragmas: tuple[str, ...]) -> Engine:
    engine = create_engine(
        location,
        connect_args={"timeout": BUSY_SECONDS},
        json_serializer=lambda value: canonical_json(value).decode(),
    )

    @event.listens_for(engine, "connect")
    def _set_up(connection: sqlite3.Connection, _record: object) -> None:
        # The driver would begin transactions by itself, late and deferred: a deferred transaction that turns into
        # a writer fails with "database is locked" at once, however long it was told to wait.
        connection.isolation_level = None
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


@contextmanager
def _translating() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        raise _translated(error) from error


def _translated(error: DBAPIError | sqlite3.Error) -> Conflict | StorageError:
    # A pragma that fails while a connection is being set up arrives as the driver's own error.
    reason = str(error.orig if isinstance(error, DBAPIError) else error)
    if isinstance(error, IntegrityError):
        return Conflict(f"the database refused the change ({reason}): look at the object again, then repeat")
    if "locked" in reason or "busy" in reason:
        return StorageError(f"the database was busy for {BUSY_SECONDS} seconds: another process is writing; try again")
    if "full" in reason:
        return StorageError("the disk is full: nothing was changed; free some space and try again")
    return StorageError(f"the database cannot be used: {reason}; nothing was changed")
