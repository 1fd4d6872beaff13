"""What only PostgreSQL does: a server that is elsewhere, and may not be there."""

import threading
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from sqlalchemy import insert, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from registry.database.backend import backend_of
from registry.database.engine import Database
from registry.database.schema import RELEASE_COUNTER, SWEEP_COUNTER, CounterRow, TeamRow
from registry.database.schema_state import schema_differences, schema_state
from registry.database.upgrade import upgrade
from registry.errors import Conflict, InvalidInput, SchemaError, StorageError, TrunklineError, UsageError
from registry.fault_points import arm
from registry.services.audit import chain_report
from registry.services.teams import create_team, list_teams
from tests.postgresql import PostgresqlServer

AT = datetime(2026, 5, 1, tzinfo=UTC)
SECRET = "Xq7-never-to-be-shown"  # noqa: S105


@pytest.fixture(scope="session")
def backend() -> str:
    return "postgresql"


@pytest.fixture
def name(database_url: str) -> str:
    """The database's name on the server."""
    return str(backend_of(database_url).location.rpartition("/")[2])


@pytest.fixture
def disarmed() -> Iterator[None]:
    yield
    arm(None)


def create(database: Database, team: str) -> None:
    with database.write() as session:
        create_team(session, team, actor="ann", at=AT)


def teams(database: Database) -> list[str]:
    with database.read() as session:
        report = chain_report(session)
        names = [team.name for team in list_teams(session)]
    assert report.breaks == ()
    assert report.events == len(names)
    return names


def test_both_ways_to_write_the_url_are_understood(database: Database, database_url: str) -> None:
    create(database, "nlu")
    other = Database.open(database_url.replace("postgresql://", "postgresql+psycopg://"))
    assert teams(other) == ["nlu"]
    other.close()


def test_libpqs_parameters_are_passed_on_and_ours_hold_beside_them(database: Database, database_url: str) -> None:
    tuned = Database.open(f"{database_url}&application_name=mine&options=-c%20work_mem%3D7MB&sslmode=disable")
    with tuned.read() as session:
        settings = ("application_name", "work_mem", "timezone", "transaction_isolation", "transaction_read_only")
        shown = [session.scalar(text(f"SHOW {setting}")) for setting in settings]
    with tuned.write() as session:
        shown += [session.scalar(text(f"SHOW {setting}")) for setting in (*settings[3:], "lock_timeout")]
    assert shown == ["mine", "7MB", "UTC", "repeatable read", "on", "read committed", "off", "30s"]
    tuned.close()


@pytest.mark.parametrize(
    ("place", "hosts", "ports", "shown"),
    [
        ("ann@/r?host=a:6498&host=b:6499", "a,b", "6498,6499", "a:6498,b:6499"),
        ("ann@/r?host=a:6498,b", "a,b", "6498,", "a:6498,b"),
        ("ann@/r?host=a&host=b&port=1&port=2", "a,b", "1,2", "a:1,b:2"),
        ("ann@/r?host=a,b&port=6498", "a,b", "6498,6498", "a:6498,b:6498"),
        ("ann@[::1]:6498/r", "::1", "6498", "[::1]:6498"),
        ("ann@/r?host=[::1]:6498&host=[::2]", "::1,::2", "6498,", "[::1]:6498,[::2]"),
        ("ann@/r?host=::1", "::1", None, "[::1]"),
        ("ann@:6498/r?host=/run/pg", "/run/pg", "6498", "/run/pg:6498"),
        ("ann@a:6498/r", "a", "6498", "a:6498"),
        ("ann@/r", None, None, ""),
    ],
)
def test_several_hosts_and_all_kinds_of_them_are_understood_and_shown(
    place: str, hosts: str | None, ports: str | None, shown: str
) -> None:
    backend = backend_of(f"postgresql://{place}")
    reader, _ = backend.engines()
    _, passed_on = reader.dialect.create_connect_args(reader.url)
    assert (passed_on.get("host"), passed_on.get("port")) == (hosts, ports)
    assert backend.location == f"postgresql://ann@{shown}/r"


@pytest.mark.parametrize("parameters", ["host=a,b&port=1,2,3", "host=a:secret", "host=a&port=secret"])
def test_ports_that_fit_no_hosts_are_refused_without_showing_them(parameters: str) -> None:
    with pytest.raises(UsageError, match="does not name a port, a number, for each host, or one for all") as refused:
        backend_of(f"postgresql://ann@/r?{parameters}")
    assert "secret" not in str(refused.value)


def test_nothing_of_ours_lies_in_what_a_pooler_does_not_keep(database: Database) -> None:
    """In transaction mode it refuses startup options, and what is set for a session is lost, or comes to another's."""
    names = ["timezone", "datestyle", "jit", "lock_timeout", "default_transaction_isolation", "transaction_read_only"]
    show = [text(f"SHOW {name}") for name in names]
    engine = database._writer
    with engine.connect() as connection:
        assert [connection.scalar(one) for one in show] == ["UTC", "ISO, MDY", "off", "30s", "read committed", "off"]
        driver = connection.connection.driver_connection
        assert driver is not None
        assert "options" not in driver.info.get_parameters()
        connection.commit()
        outside = driver.execute("SELECT current_setting('jit'), current_setting('lock_timeout')").fetchone()
    assert outside == ("on", "0")


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("failed to resolve host 'database': [Errno -2] Name or service not known", "see that the server runs"),
        ("failed to resolve host 'password-store.invalid': [Errno -5] No address", "see that the server runs"),
        ('connection to server at "too many" failed: Connection refused', "see that the server runs"),
        (
            'FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "a", database "role"',
            "have the server's pg_hba.conf",
        ),
        ('FATAL:  permission denied for database "role"', "let the database's owner GRANT CONNECT"),
        ('FATAL:  database "password" does not exist', "create it (CREATE DATABASE"),
        ('FATAL:  role "too many clients" does not exist', "check the user in"),
        ('FATAL:  role "database" does not exist', "check the user in"),
        ('FATAL:  password authentication failed for user "role"', "check user and password in"),
        ("FATAL:  unsupported startup parameter: options", "a pooler takes no such parameter: leave it out"),
        ("FATAL:  no such database: role", "check the database's name"),
        ("FATAL:  remaining connection slots are reserved for roles", "try again later"),
        ("FATAL:  the database system is starting up", "try again in a moment"),
        ('invalid sslmode value: "database"', "check what follows the ?"),
    ],
)
def test_advice_is_chosen_by_what_is_said_and_not_by_a_name_in_it(reason: str, advice: str) -> None:
    said = f'connection failed: connection to server at "10.0.0.1", port 5432 failed: {reason}'
    error = DBAPIError(None, None, psycopg.OperationalError(reason if "resolve" in reason else said))  # type: ignore[arg-type]
    told = str(backend_of("postgresql://ann@host/registry").translated(error))
    assert told.rpartition("; ")[2].startswith(advice)


@pytest.mark.usefixtures("ann")
def test_a_schema_that_the_user_may_not_use_is_not_an_empty_one(
    database: Database, database_url: str, postgresql: PostgresqlServer, name: str
) -> None:
    as_ann = database_url.replace("postgres@", f"ann:{SECRET}@")
    postgresql.run("REVOKE USAGE ON SCHEMA public FROM PUBLIC", database=name)
    for attempt in (Database.open, schema_state):
        with pytest.raises(StorageError, match=r'may not look into schema public .* GRANT USAGE ON SCHEMA "public" to'):
            attempt(as_ann)
    with pytest.raises(StorageError, match="let an owner GRANT USAGE, CREATE ON SCHEMA"):
        upgrade(as_ann)
    postgresql.run("GRANT USAGE ON SCHEMA public TO ann", database=name)
    with pytest.raises(StorageError, match="permission denied for table trunkline_schema_version"):
        Database.open(as_ann)


def test_a_database_that_holds_no_registry_is_refused_with_the_command_that_makes_one(database_url: str) -> None:
    with pytest.raises(SchemaError, match=r"holds no registry yet: `trunkline db upgrade` makes one"):
        Database.open(database_url)
    assert upgrade(database_url).before is None
    Database.open(database_url).close()


def unreachable(url: str) -> dict[str, tuple[str, str]]:
    """Situation -> a URL with our password in it, and what must be said."""
    at_server = url.replace("postgres@", f"ann:{SECRET}@")
    return {
        "nobody listens": (
            f"postgresql://ann:{SECRET}@127.0.0.1:1/registry",
            r"cannot connect to postgresql://ann@127\.0\.0\.1:1/registry: Connection refused; see that the server runs",
        ),
        "no such host": (
            f"postgresql://ann:{SECRET}@no-such-host.invalid/registry",
            r"cannot connect to postgresql://ann@no-such-host\.invalid/registry: .*; see that the server runs",
        ),
        "wrong password": (
            at_server.replace(SECRET, f"{SECRET}-but-wrong"),
            'password authentication failed for user "ann"; check user and password in TRUNKLINE_DATABASE_URL',
        ),
        "password as a parameter": (
            f"{url.replace('postgres@', 'ann@')}&password={SECRET}-but-wrong",
            'password authentication failed for user "ann"; check user and password in TRUNKLINE_DATABASE_URL',
        ),
        "no such user": (
            url.replace("postgres@", f"bob:{SECRET}@"),
            'role "bob" does not exist; check the user in TRUNKLINE_DATABASE_URL',
        ),
        "no such database": (
            at_server.replace("/test_", "/no_test_"),
            'database "no_test_.*" does not exist; create it .* then run `trunkline db upgrade`',
        ),
        "an unknown parameter": (
            f"{at_server}&passwrod={SECRET}",
            'invalid connection option "passwrod"; check what follows the .* in TRUNKLINE_DATABASE_URL',
        ),
        "a parameter that cannot be read": (
            f"{at_server}&connect_timeout=soon",
            "bad value for connect_timeout: 'soon'; check what follows the .* in TRUNKLINE_DATABASE_URL",
        ),
        "an option that the server does not know": (
            f"{at_server}&options=-c%20no_such=1",
            'unrecognized configuration parameter "no_such"; check what follows the',
        ),
    }


@pytest.fixture(scope="session")
def ann(postgresql: PostgresqlServer) -> None:
    """A user who must know a password."""
    postgresql.add_user("ann", SECRET)


@pytest.mark.usefixtures("ann")
@pytest.mark.parametrize("situation", unreachable(""))
@pytest.mark.parametrize("command", [Database.open, upgrade, schema_state])
def test_a_database_that_cannot_be_reached_says_what_to_do_and_no_password(
    database_url: str, situation: str, command: Callable[[str], Any]
) -> None:
    url, said = unreachable(database_url)[situation]
    with pytest.raises(StorageError, match=said) as refused:
        command(url)
    assert len(str(refused.value).splitlines()) == 1
    told = [str(refused.value), repr(refused.value)]
    if situation != "an unknown parameter":  # psycopg itself repeats nothing but the name
        told += traceback.format_exception(refused.value)
    assert not [line for line in told if SECRET in line]


@pytest.mark.usefixtures("ann")
def test_no_password_is_shown_by_what_a_database_says_of_itself(
    database: Database, database_url: str, postgresql: PostgresqlServer, name: str
) -> None:
    postgresql.run("GRANT SELECT ON ALL TABLES IN SCHEMA public TO ann", database=name)
    opened = Database.open(database_url.replace("postgres@", f"ann:{SECRET}@"))
    assert SECRET not in f"{opened.location} {opened!r} {vars(opened)} {opened._reader!r} {opened._writer!r}"
    assert opened.location.startswith("postgresql://ann@/")
    repeating = text(f"DO $$ BEGIN RAISE EXCEPTION 'nobody knows {SECRET}'; END $$")
    with pytest.raises(StorageError, match=r"nobody knows \*\*\*;"), opened.read() as session:
        session.execute(repeating)
    opened.close()


@pytest.mark.usefixtures("ann")
def test_a_right_that_the_user_lacks_is_said(
    database: Database, database_url: str, postgresql: PostgresqlServer, name: str
) -> None:
    as_ann = database_url.replace("postgres@", f"ann:{SECRET}@")
    with pytest.raises(StorageError, match=r"permission denied for table trunkline_schema_version.*: the user lacks"):
        Database.open(as_ann)
    postgresql.run("GRANT SELECT ON ALL TABLES IN SCHEMA public TO ann", database=name)
    opened = Database.open(as_ann)
    with pytest.raises(StorageError, match=r"refused \(permission denied for table teams\): the user lacks a right"):
        create(opened, "nlu")
    opened.close()


def fail_with(state: str) -> Any:
    return text(f"DO $$ BEGIN RAISE EXCEPTION 'on purpose' USING ERRCODE = '{state}'; END $$")


@pytest.mark.parametrize(
    ("state", "error", "said"),
    [
        ("40001", Conflict, "another change came in between, and this one was undone: try again"),
        ("53100", StorageError, r"refused \(on purpose\): its disk is full: nothing was changed; free some space"),
        ("57014", StorageError, "it cancelled the statement: nothing was changed; try again"),
        ("25006", StorageError, "it takes no changes .*: name the primary"),
        ("22003", InvalidInput, "a value for the database: on purpose"),
        ("23505", Conflict, r"the database refused the change \(on purpose\): look at the object again"),
        ("XX000", StorageError, "cannot be used: on purpose; nothing was changed"),
    ],
)
def test_what_the_server_says_becomes_an_error_that_says_what_to_do(
    database: Database, state: str, error: type[TrunklineError], said: str
) -> None:

    def change(session: Session) -> None:
        session.add(TeamRow(name="nlu", created_at=AT))
        session.execute(fail_with(state))

    with pytest.raises(error, match=said), database.write() as session:
        change(session)
    assert teams(database) == []


def test_of_two_changes_that_wait_for_each_other_one_is_told_to_try_again(
    database: Database, database_url: str
) -> None:
    meeting, outcomes = threading.Barrier(2), []

    def change(*counters: str) -> None:
        own = Database.open(database_url)
        try:
            with own.write() as session:
                for counter in counters:
                    session.execute(update(CounterRow).where(CounterRow.name == counter).values(next_number=5))
                    if counter == counters[0]:
                        meeting.wait(timeout=30)
            outcomes.append("made")
        except Conflict as error:
            outcomes.append(str(error))
        own.close()

    both = [RELEASE_COUNTER, SWEEP_COUNTER]
    threads = [threading.Thread(target=change, args=order) for order in (both, both[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["another change came in between, and this one was undone: try again", "made"]


def disconnect_in_the_middle(postgresql: PostgresqlServer, name: str) -> None:
    assert postgresql.end_connections(name) >= 1


def restart_in_the_middle(postgresql: PostgresqlServer, name: str) -> None:
    postgresql.stop()
    postgresql.start()


@pytest.mark.parametrize("fault", [disconnect_in_the_middle, restart_in_the_middle])
@pytest.mark.parametrize("place", ["team.row-written", "write.flushed", "write.events-appended"])
@pytest.mark.usefixtures("disarmed")
def test_a_server_that_goes_away_in_mid_transaction_and_comes_back_has_changed_nothing(
    database: Database, postgresql: PostgresqlServer, name: str, fault: Callable[..., None], place: str
) -> None:
    create(database, "before")
    arm(lambda reached: fault(postgresql, name) if reached == place else None)
    said = (
        "was lost while the change was being committed: it may have been made or not; look before you repeat it"
        if place == "write.events-appended"
        else r"the connection to postgresql://.* was lost \(.*\): nothing was changed; try again"
    )
    with pytest.raises(StorageError, match=said):
        create(database, "lost")
    arm(None)
    assert teams(database) == ["before"]
    create(database, "after")
    assert teams(database) == ["after", "before"]


def test_a_server_that_is_down_is_named_and_found_again_when_it_is_up(
    database: Database, postgresql: PostgresqlServer
) -> None:
    create(database, "before")
    postgresql.stop()
    try:
        for attempt in (teams, lambda database: create(database, "meanwhile")):
            with pytest.raises(StorageError, match=r"cannot connect to .*; see that the server runs"):
                attempt(database)
    finally:
        postgresql.start()
    assert teams(database) == ["before"]


def test_a_connection_that_was_lost_while_it_was_idle_is_made_again_unnoticed(
    database: Database, postgresql: PostgresqlServer, name: str
) -> None:
    create(database, "before")
    assert postgresql.end_connections(name) == 1  # reading and writing share what is kept open
    create(database, "after")
    assert teams(database) == ["after", "before"]


def test_a_reader_whose_server_goes_away_is_told_so(
    database: Database, postgresql: PostgresqlServer, name: str
) -> None:
    def look_twice(session: Session) -> None:
        list_teams(session)
        postgresql.end_connections(name)
        list_teams(session)

    with pytest.raises(StorageError, match=r"the connection .* was lost"), database.read() as session:
        look_twice(session)
    assert teams(database) == []


def test_a_database_with_too_many_visitors_says_so(
    database_url: str, postgresql: PostgresqlServer, name: str, database: Database
) -> None:
    database.close()
    postgresql.run(f"ALTER DATABASE {name} CONNECTION LIMIT 0")
    postgresql.run("CREATE ROLE visitor LOGIN")
    try:
        with pytest.raises(StorageError, match=r"too many connections for database .*; try again later"):
            Database.open(database_url.replace("postgres@", "visitor@"))
    finally:
        postgresql.run("DROP ROLE visitor")


def test_a_database_that_is_open_goes_on_after_an_upgrade_under_it(
    database: Database, postgresql: PostgresqlServer, name: str
) -> None:
    """What a server has prepared for a connection would refuse to run once a column has another type."""
    for number in range(12):
        create(database, f"team-{number}")
    postgresql.run('ALTER TABLE audit_events ALTER COLUMN hash TYPE text COLLATE "C"', database=name)
    create(database, "after")
    assert len(teams(database)) == 13


def test_a_session_does_not_outlive_its_error(database: Database) -> None:
    """After a failed statement PostgreSQL takes no other in the same transaction: the next one begins anew."""

    def twice(session: Session) -> None:
        session.execute(insert(TeamRow).values(name="nlu", created_at=AT))
        session.execute(insert(TeamRow).values(name="nlu", created_at=AT))

    for _ in range(3):
        with pytest.raises(Conflict, match="uq_teams_name"), database.write() as session:
            twice(session)
    with database.read() as session:
        assert session.scalars(select(TeamRow)).all() == []


def test_a_schema_with_any_name_is_compared(postgresql_database: str, postgresql: PostgresqlServer) -> None:
    name = backend_of(postgresql_database).location.rpartition("/")[2]
    postgresql.run('CREATE SCHEMA "Our Registry"', database=name)
    postgresql.run(f'ALTER DATABASE {name} SET search_path TO "Our Registry", public')
    upgrade(postgresql_database)
    assert schema_differences(postgresql_database) == []
    postgresql.run('DROP TRIGGER versions_no_change ON "Our Registry".versions', database=name)
    assert [line.partition(":")[0] for line in schema_differences(postgresql_database)] == ["versions"]


@pytest.mark.usefixtures("ann")
def test_who_may_not_compare_schemas_is_told_the_right_that_it_takes(
    database: Database, database_url: str, postgresql: PostgresqlServer, name: str
) -> None:
    postgresql.run("GRANT SELECT ON ALL TABLES IN SCHEMA public TO ann", database=name)
    as_ann = database_url.replace("postgres@", f"ann:{SECRET}@")
    with pytest.raises(StorageError, match=f'GRANT CREATE ON DATABASE "{name}" to the user, or check as the owner'):
        schema_differences(as_ann)
    postgresql.run(f"GRANT CREATE ON DATABASE {name} TO ann")
    assert schema_differences(as_ann) == []
    postgresql.run(f"REVOKE CREATE ON DATABASE {name} FROM ann")
