"""The database of one registry: opened, and used in units of work that read or that write."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from registry.database.audit_log import append_events
from registry.database.backend import BUSY_SECONDS, Backend, backend_of, translating
from registry.database.schema import SCHEMA_REVISION
from registry.database.schema_state import found_revision, schema_error
from registry.errors import StorageError
from registry.fault_points import reached


class Database:
    """Readers and writers have engines of their own: they begin their transactions differently."""

    def __init__(self, backend: Backend, *, reader: Engine, writer: Engine) -> None:
        self._backend = backend
        self._reader = reader
        self._writer = writer
        self.is_new = False
        """Whether opening it made it."""

    @classmethod
    def open(cls, url: str, *, busy_seconds: float = BUSY_SECONDS) -> "Database":
        """Opens the database; an SQLite file that holds no registry yet becomes a new one.

        Args:
            url: sqlite:///PATH or postgresql://USER:PASSWORD@HOST/DATABASE, with libpq's parameters after a `?`.
            busy_seconds: how long a transaction waits for the others.
        Raises:
            UsageError: the URL names no database that can be used.
            SchemaError: the schema is not the one that this program knows; says how to change that.
            StorageError: it cannot be reached, created, read or written, or is no database.
        """
        backend = backend_of(url, busy_seconds=busy_seconds)
        reader, writer = backend.engines()
        database = cls(backend, reader=reader, writer=writer)
        try:
            database._be_current(url)
        except BaseException:
            database.close()
            raise
        return database

    @property
    def location(self) -> str:
        """Where it is, to be shown: a path, or a URL without password and parameters."""
        return self._backend.location

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session in which everything is read as of one moment, and nothing can be written."""
        with Session(self._reader, autoflush=False) as session, translating(self._backend):
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A session whose changes are committed together at the end, or not at all after any exception.

        The audit events of the transaction are appended as its last act.
        """
        with Session(self._writer) as session, translating(self._backend):
            yield session
            session.flush()
            reached("write.flushed")
            append_events(session)
            reached("write.events-appended")
            with self._committing():
                session.commit()
            reached("write.committed")

    def close(self) -> None:
        self._reader.dispose()
        self._writer.dispose()

    @contextmanager
    def _committing(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            raise StorageError(
                f"the connection to {self.location} was lost while the change was being committed: it may have been "
                "made or not; look before you repeat it"
            ) from error

    def _be_current(self, url: str) -> None:
        found = found_revision(self._backend, self._reader)
        if found == SCHEMA_REVISION:
            return
        if found is None and self._backend.makes_itself:
            from registry.database.upgrade import upgrade  # imports Alembic: only when there is something to do

            self.is_new = upgrade(url).before is None
            return
        raise schema_error(self.location, found)
