"""A registry in an SQLite file: WAL, writers begin IMMEDIATE, readers cannot write."""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, cast

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL, Connection
from sqlalchemy.exc import DBAPIError, DisconnectionError, IntegrityError
from sqlalchemy.pool import ConnectionPoolEntry

from registry.database.columns import json_text
from registry.database.description import Description, describe
from registry.database.schema import Schema
from registry.errors import Conflict, SchemaError, StorageError, TrunklineError

_WRITING: Final = "BEGIN IMMEDIATE"
_ASK_AGAIN_SECONDS: Final = 0.004


class SqliteFile:
    """See `registry.database.backend.Backend`."""

    makes_itself = True

    def __init__(self, url: URL, *, busy_seconds: float) -> None:
        # As it is now: a relative one would be another file in another folder.
        self._url = url.set(database=str(Path(cast(str, url.database)).absolute()))
        self._busy_seconds = busy_seconds
        self._was_there = False

    @property
    def location(self) -> str:
        return str(self._url.database)

    def engines(self) -> tuple[Engine, Engine]:
        self._make_folder()
        reader = self._engine("BEGIN", "foreign_keys = ON", "query_only = ON")
        # Recursive triggers: INSERT OR REPLACE would else delete a row without asking the trigger that refuses it.
        writer = self._engine(_WRITING, "foreign_keys = ON", "recursive_triggers = ON")
        return reader, writer

    @contextmanager
    def upgrading(self) -> Iterator[Connection]:
        from filelock import FileLock, Timeout

        # Migrations rebuild tables: foreign keys are not enforced meanwhile, but checked before the commit. The lock
        # is for the switch to WAL, which SQLite does not wait for.
        self._make_folder()
        engine = self._engine(_WRITING, "foreign_keys = OFF", "journal_mode = WAL")
        try:
            with FileLock(f"{self.location}.upgrading", timeout=self._busy_seconds), engine.begin() as connection:
                yield connection
                if dangling := connection.exec_driver_sql("PRAGMA foreign_key_check").all():
                    raise SchemaError(f"upgrading {self.location} would leave dangling references: {dangling[:3]}")
        except Timeout:
            raise self._busy() from None
        except OSError as error:
            raise StorageError(f"cannot create or upgrade {self.location}: {error.strerror}") from error
        finally:
            engine.dispose()

    def descriptions(self) -> tuple[Description, Description]:
        reader, _ = self.engines()
        described = create_engine("sqlite://")
        try:
            Schema.metadata.create_all(described)
            with reader.connect() as there, described.connect() as expected:
                return describe(there), describe(expected)
        finally:
            reader.dispose()
            described.dispose()

    def exists(self) -> bool:
        return Path(self.location).exists()

    def is_without_registry(self, error: DBAPIError) -> bool:
        return "no such table" in str(error.orig)

    def translated(self, error: DBAPIError) -> TrunklineError:
        reason = str(error.orig)
        if isinstance(error, IntegrityError):
            return Conflict(f"the database refused the change ({reason}): look at the object again, then repeat")
        if "locked" in reason or "busy" in reason:
            return self._busy()
        if self._cannot_be_written(error):
            return StorageError(
                f"{self.location} or its folder cannot be written, and SQLite writes beside a file even to read it: "
                "copy it to a folder that can be written, or have the rights changed"
            )
        if "full" in reason:
            return StorageError("the disk is full: nothing was changed; free some space and try again")
        return StorageError(f"the database {self.location} cannot be used: {reason}; nothing was changed")

    def _make_folder(self) -> None:
        try:
            Path(self.location).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot create the folder of {self.location}: {error.strerror}") from error

    def _cannot_be_written(self, error: DBAPIError) -> bool:
        code = _primary(getattr(error.orig, "sqlite_errorcode", 0))
        path = Path(self.location)
        writable = os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
        return code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY) and path.is_file() and not writable

    def _busy(self) -> StorageError:
        return StorageError(
            f"the database was busy for {self._busy_seconds:g} seconds: another process is writing; try again"
        )

    def _engine(self, begin: str, *pragmas: str) -> Engine:
        engine = create_engine(self._url, connect_args={"timeout": self._busy_seconds}, json_serializer=json_text)

        @event.listens_for(engine, "do_connect")
        def _make_none_in_place_of_one_that_has_gone(*_: object) -> None:
            self._refuse_where_gone()

        @event.listens_for(engine, "connect")
        def _set_up(connection: sqlite3.Connection, record: ConnectionPoolEntry) -> None:
            self._was_there = True
            record.info["file"] = self._file()
            # The driver would begin transactions by itself, late and deferred: a deferred transaction that turns into
            # a writer fails with "database is locked" at once, however long it was told to wait.
            connection.isolation_level = None
            for pragma in pragmas:
                connection.execute(f"PRAGMA {pragma}")

        @event.listens_for(engine, "checkout")
        def _leave_another_file(_connection: object, record: ConnectionPoolEntry, _proxy: object) -> None:
            # A connection goes on with the file that it opened, wherever that is by now.
            self._refuse_where_gone()
            if self._file() != record.info["file"]:
                raise DisconnectionError

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            if begin == _WRITING:
                self._wait_to_write(connection)
            else:
                connection.exec_driver_sql(begin)

        return engine

    def _refuse_where_gone(self) -> None:
        if self._was_there and self._file() is None:
            raise StorageError(f"{self.location} has gone or cannot be looked at: nothing was changed; put it back")

    def _file(self) -> tuple[int, int] | None:
        """Which file lies there now; None if there is none."""
        try:
            found = Path(self.location).stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _wait_to_write(self, connection: Connection) -> None:
        """SQLite's own waiting is unfair: it asks the more rarely the longer it has waited, so that whoever came last
        is served first. With 32 writers the slowest of a hundred waited four times as long as they do here."""
        driver = cast(sqlite3.Connection, connection.connection.driver_connection)
        deadline = time.monotonic() + self._busy_seconds
        driver.execute("PRAGMA busy_timeout = 0")
        try:
            while time.monotonic() < deadline:
                try:
                    driver.execute(_WRITING)
                except sqlite3.OperationalError as error:
                    if _primary(error.sqlite_errorcode) != sqlite3.SQLITE_BUSY:
                        break
                    time.sleep(_ASK_AGAIN_SECONDS)
                else:
                    return
            connection.exec_driver_sql(_WRITING)  # once more, for an error as SQLAlchemy gives it
        finally:
            driver.execute(f"PRAGMA busy_timeout = {self._busy_seconds * 1000:.0f}")


def _primary(code: int) -> int:
    """The kind of an error, of which SQLite tells more: SQLITE_BUSY of SQLITE_BUSY_RECOVERY."""
    return code & 0xFF
