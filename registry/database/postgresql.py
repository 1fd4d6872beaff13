"""A registry in a PostgreSQL database, by psycopg 3.

Readers are REPEATABLE READ and READ ONLY: they see one moment, wait for nobody, and hinder nobody. Writers are READ
COMMITTED and lock the rows that they decide by, so that whoever waited decides by what is there then.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy import Engine, create_engine, event, func, select, text
from sqlalchemy.engine import URL, Connection
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from registry.database.columns import json_text
from registry.database.description import Description, describe
from registry.database.schema import VERSION_TABLE, Schema
from registry.errors import Conflict, InvalidInput, StorageError, TrunklineError, UsageError

_UPGRADE_LOCK: Final = 0x7472756E6B  # "trunk": any number that others who use the same database do not lock by

_EXPECTED: Final = "trunkline_expected"  # a schema that lives while two are compared

_CONNECTION: Final = {
    "application_name": "trunkline",
    "client_encoding": "utf8",
    "connect_timeout": "10",
    # A server that vanished without a word is noticed after a minute, not after two hours.
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
_TRANSACTION: Final = {
    "timezone": "UTC",
    "datestyle": "ISO",
    "jit": "off",  # compiling a query takes longer than any of ours runs
    # And the server, which would go on holding locks for a client that vanished.
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}
"""Set anew in every transaction: a pooler takes no options, and gives every transaction another connection."""

_BEGIN: Final = "trunkline_begin"  # the execution option that says how an engine's transactions begin
_READING: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_WRITING: Final = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"

_UNDEFINED_TABLE: Final = "42P01"
_INSUFFICIENT_PRIVILEGE: Final = "42501"
_LOCK_NOT_AVAILABLE: Final = "55P03"

_UNDONE: Final = "another change came in between, and this one was undone: try again"
_CONFLICTS: Final = {"40001": _UNDONE, "40P01": _UNDONE}  # serialization_failure, deadlock_detected
_FAILURES: Final = {
    "25006": "it takes no changes (a standby, or set to read only): name the primary in TRUNKLINE_DATABASE_URL",
    "3F000": "no schema of the search_path can be used: let an owner GRANT USAGE, CREATE ON SCHEMA … to the user",
    "42501": "the user lacks a right: let the one who owns the registry's tables grant it",
    "53100": "its disk is full: nothing was changed; free some space and try again",
    "57014": "it cancelled the statement: nothing was changed; try again",
}

_BRACKETED: Final = re.compile(r"\[(?P<host>[^]]*)\](:(?P<port>[0-9]+))?")

_LATER: Final = "try again later, or let the server take more connections"
_PARAMETERS: Final = "check what follows the ? in TRUNKLINE_DATABASE_URL"
_CREDENTIALS: Final = "check user and password in TRUNKLINE_DATABASE_URL, or PGPASSWORD and PGPASSFILE"
_ADVICE: Final = tuple(
    (re.compile(pattern), advice)
    for pattern, advice in (
        (
            "unsupported startup parameter",
            "a pooler takes no such parameter: leave it out of TRUNKLINE_DATABASE_URL, or have the pooler ignore it",
        ),
        ("(sorry, )?too many (clients|connections)|no more connections allowed|remaining connection slots", _LATER),
        ("(password|SASL) authentication failed|(fe_sendauth: )?no password supplied|empty password", _CREDENTIALS),
        ('role ".*" (does not exist|is not permitted)|no such user', "check the user in TRUNKLINE_DATABASE_URL"),
        (
            "no pg_hba.conf entry for|pg_hba.conf rejects",
            "have the server's pg_hba.conf let this user in from here, to this database",
        ),
        ("permission denied for database", "let the database's owner GRANT CONNECT ON DATABASE … to the user"),
        ('database ".*" does not exist$', "create it (CREATE DATABASE …), then run `trunkline db upgrade`"),
        ("no such database", "check the database's name in TRUNKLINE_DATABASE_URL, and which ones the pooler knows"),
        ("the database system is (starting up|not yet accepting|in recovery)", "try again in a moment"),
        ("the database system is shutting down", "try again when it is back"),
        ("invalid connection option|bad value for|invalid [a-z_]+ value|invalid value for parameter", _PARAMETERS),
        ("unrecognized configuration parameter|invalid (port number|integer value)", _PARAMETERS),
    )
)
"""How the server, a pooler or the driver begins to say that it refuses a connection -> what to do."""

_REGISTRYS_SCHEMA: Final = text("""
    SELECT nspname FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
    WHERE pg_class.oid = to_regclass(:table)
""")
_UNUSABLE_SCHEMAS: Final = text("""
    SELECT nspname FROM pg_catalog.pg_class JOIN pg_catalog.pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relname = :table AND NOT has_schema_privilege(pg_namespace.oid, 'USAGE') AND nspname IN (
        SELECT trim(BOTH ' "' FROM replace(name, '$user', current_user))
        FROM unnest(string_to_array(current_setting('search_path'), ',')) AS name
    )
""")
"""Those in which there is a table that a query for its bare name does not find, for want of a right."""


class PostgresqlDatabase:
    """See `registry.database.backend.Backend`."""

    makes_itself = False

    def __init__(self, url: URL, *, busy_seconds: float) -> None:
        given = {name: value if isinstance(value, str) else ",".join(value) for name, value in url.query.items()}
        password = given.pop("password", url.password)
        self._hosts = _hosts(url, given.pop("host", ""), given.pop("port", ""))
        given |= {"host": ",".join(host for host, _ in self._hosts)} if any(host for host, _ in self._hosts) else {}
        given |= {"port": ",".join(port for _, port in self._hosts)} if any(port for _, port in self._hosts) else {}
        query = _CONNECTION | given
        self._url = URL.create("postgresql+psycopg", url.username, password, database=url.database, query=query)
        settings = _TRANSACTION | {"lock_timeout": f"{busy_seconds * 1000:.0f}"}
        self._settings = "".join(f"; SET LOCAL {name} = '{value}'" for name, value in settings.items())
        self._busy_seconds = busy_seconds

    @property
    def location(self) -> str:
        user = self._url.username or self._url.query.get("user", "")
        places = (f"[{host}]" if ":" in host and host[0] not in "/@" else host for host, _ in self._hosts)
        with_ports = (
            f"{place}:{port}" if port else place for place, (_, port) in zip(places, self._hosts, strict=True)
        )
        return f"postgresql://{user}{'@' if user else ''}{','.join(with_ports)}/{self._url.database}"

    def engines(self) -> tuple[Engine, Engine]:
        writer = self._engine()
        return writer.execution_options(**{_BEGIN: _READING}), writer

    @contextmanager
    def upgrading(self) -> Iterator[Connection]:
        engine = self._engine()
        try:
            with engine.begin() as connection:
                connection.execute(select(func.pg_advisory_xact_lock(_UPGRADE_LOCK)))
                if (encoding := connection.scalar(select(func.current_setting("server_encoding")))) != "UTF8":
                    raise StorageError(
                        f"{self.location} keeps text as {encoding}, which lacks characters: "
                        "create the database with ENCODING 'UTF8'"
                    )
                yield connection
        finally:
            engine.dispose()

    def descriptions(self) -> tuple[Description, Description]:
        engine = self._engine()
        try:
            with engine.connect() as connection:  # rolled back at the end, and with it what is made to compare with
                there = connection.scalars(_REGISTRYS_SCHEMA, {"table": VERSION_TABLE}).one()
                self._make_schema(connection)
                connection.exec_driver_sql(f"SET LOCAL search_path TO {_EXPECTED}")
                Schema.metadata.create_all(connection)
                return describe(connection, schema=there), describe(connection, schema=_EXPECTED)
        finally:
            engine.dispose()

    def _make_schema(self, connection: Connection) -> None:
        try:
            connection.exec_driver_sql(f"CREATE SCHEMA {_EXPECTED}")
        except DBAPIError as error:
            if _state(error) != _INSUFFICIENT_PRIVILEGE:
                raise
            raise StorageError(
                f"to compare the schema of {self.location}, another one is made beside it for a moment, which this "
                f'user may not: let its owner GRANT CREATE ON DATABASE "{self._url.database}" to the user, '
                "or check as the owner"
            ) from error

    def exists(self) -> bool:
        return True

    def is_without_registry(self, error: DBAPIError) -> bool:
        if _state(error) != _UNDEFINED_TABLE:
            return False
        engine = self._engine()
        try:
            with engine.connect() as connection:
                hidden = connection.scalars(_UNUSABLE_SCHEMAS, {"table": VERSION_TABLE}).first()
        finally:
            engine.dispose()
        if hidden is not None:
            raise StorageError(
                f"the user may not look into schema {hidden} of {self.location}, where the registry is: let the "
                f'schema\'s owner GRANT USAGE ON SCHEMA "{hidden}" to the user'
            )
        return True

    def translated(self, error: DBAPIError) -> TrunklineError:
        state, reason = _state(error), self._reason(error)
        if isinstance(error, IntegrityError):
            return Conflict(f"the database refused the change ({reason}): look at the object again, then repeat")
        if isinstance(error, DataError):
            return InvalidInput("a value for the database", [reason])
        if state in _CONFLICTS:
            return Conflict(_CONFLICTS[state])
        if state == _LOCK_NOT_AVAILABLE:
            return StorageError(
                f"the database was busy for {self._busy_seconds:g} seconds: another process is writing; try again"
            )
        if state in _FAILURES:
            return StorageError(f"the database {self.location} refused ({reason}): {_FAILURES[state]}")
        if error.connection_invalidated:
            return StorageError(
                f"the connection to {self.location} was lost ({reason}): nothing was changed; try again"
            )
        if state is None and error.statement is None:
            return StorageError(f"cannot connect to {self.location}: {reason}; {_advice(reason)}")
        return StorageError(f"the database {self.location} cannot be used: {reason}; nothing was changed")

    def _engine(self) -> Engine:
        engine = create_engine(
            self._url,
            # A prepared statement would outlive the schema that it was prepared for, and the connection of a pooler.
            connect_args={"prepare_threshold": None},
            # The driver would begin transactions by itself, and the settings would take another trip to the server.
            isolation_level="AUTOCOMMIT",
            execution_options={_BEGIN: _WRITING},
            json_serializer=json_text,
            pool_pre_ping=True,
            pool_size=1,  # a training run keeps its connection for hours, and many may run
            use_native_hstore=False,  # or it is asked for at every start
        )

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            connection.exec_driver_sql(connection.get_execution_options()[_BEGIN] + self._settings)

        return engine

    def _reason(self, error: DBAPIError) -> str:
        lines = str(error.orig).strip().splitlines() or [type(error.orig).__name__]
        reason = lines[0].rpartition(" failed: ")[2].removeprefix("FATAL:  ").strip()
        password = str(self._url.password or "")
        # libpq repeats none. Were it ever to: what is shown anyway (a password "postgres" of user postgres) stays.
        return reason.replace(password, "***") if password not in self.location else reason


def _hosts(url: URL, hosts: str, ports: str) -> list[tuple[str, str]]:
    """The servers that a URL names, each with its port or with "" for the usual one: libpq asks one after the other.

    Raises:
        UsageError: it does not name one port for each, or one for all.
    """
    if hosts:
        found = [_host_and_port(one) for one in hosts.split(",")]
    else:
        found = [(host, "") for host in (url.host or "").split(",")]
    given = ports.split(",") if ports else [str(url.port or "")]
    given = given * len(found) if len(given) == 1 else given
    if len(given) != len(found) or not all(port.isdecimal() for port in (*given, *(p for _, p in found)) if port):
        raise UsageError("the database's URL does not name a port, a number, for each host, or one for all of them")
    return [(host, own or port) for (host, own), port in zip(found, given, strict=True)]


def _host_and_port(place: str) -> tuple[str, str]:
    """What HOST, HOST:PORT, [IPV6], [IPV6]:PORT, IPV6 and a socket's folder name."""
    if bracketed := _BRACKETED.fullmatch(place):
        return bracketed["host"], bracketed["port"] or ""
    if place[:1] in ("/", "@") or place.count(":") != 1:
        return place, ""
    host, _, port = place.partition(":")
    return host, port


def _state(error: DBAPIError) -> str | None:
    """The five characters by which SQL tells errors apart; None for what the driver itself found."""
    return getattr(error.orig, "sqlstate", None)


def _advice(reason: str) -> str:
    return next(
        (advice for pattern, advice in _ADVICE if pattern.match(reason)),
        "see that the server runs, and check host, port and user in TRUNKLINE_DATABASE_URL",
    )
