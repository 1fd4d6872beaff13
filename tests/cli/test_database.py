import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy.engine import make_url

from registry.database.backend import backend_of
from registry.database.schema import OLDER_REVISIONS, SCHEMA_REVISION
from registry.database.upgrade import migration_config
from tests.postgresql import PostgresqlServer

FIRST = OLDER_REVISIONS[0]


def take_down(url: str) -> None:
    """Leaves the schema as an older program made it."""
    with backend_of(url).upgrading() as connection:
        command.downgrade(migration_config(connection), FIRST)


@pytest.fixture
def on_postgresql(trunkline: Any, postgresql_database: str) -> str:
    """The command's registry is to be in an empty PostgreSQL database; gives its URL."""
    trunkline.environ["TRUNKLINE_DATABASE_URL"] = postgresql_database
    return postgresql_database


def test_an_empty_postgresql_database_is_made_a_registry_when_it_is_asked_for(
    trunkline: Any, on_postgresql: str
) -> None:
    location = backend_of(on_postgresql).location
    refused = trunkline("team", "list")
    assert (refused.code, refused.problem) == (1, f"{location} holds no registry yet: `trunkline db upgrade` makes one")
    assert trunkline("db", "current", "--json").json == {
        "location": location,
        "revision": None,
        "expected": SCHEMA_REVISION,
    }
    assert trunkline("db", "check").problem == refused.problem
    made = trunkline.done("db", "upgrade")
    assert made == f"created a registry with schema {SCHEMA_REVISION} in {location}\n"
    assert trunkline.done("db", "upgrade") == f"{location} has schema {SCHEMA_REVISION} already\n"
    assert trunkline.done("db", "check") == "the schema is as this program describes it, triggers included\n"
    assert trunkline("db", "current", "--json").json["revision"] == SCHEMA_REVISION
    trunkline.done("team", "create", "nlu")  # and says nothing of a new registry
    assert trunkline("team", "list", "--json").json[0]["name"] == "nlu"
    assert not (trunkline.home / "registry.db-wal").exists()


@pytest.mark.usefixtures("on_postgresql")
def test_the_whole_job_of_a_registry_is_done_on_postgresql(
    trunkline: Any, task_file: Callable[..., Path], model_folder: Callable[..., Path]
) -> None:
    trunkline.done("db", "upgrade")
    trunkline.done("team", "create", "nlu")
    trunkline.done("backbone", "pin", "small", model_folder("small", layers=[1, 2, 3]))
    trunkline.done("task", "register", task_file("rte"), "--team", "nlu")
    trunkline.done("task", "retire", "rte", "--reason", "merged", "--sunset", "2027-03-31")
    shown = trunkline("task", "show", "rte", "--json").json
    assert (shown["state"], shown["retirement"]["sunset_on"]) == ("retired", "2027-03-31")
    assert trunkline("audit", "verify", "--json").json["events"] == 4
    assert trunkline("team", "create", "nlu").code == 5


def test_an_older_sqlite_file_is_refused_until_it_is_upgraded(trunkline: Any, versions: Any) -> None:
    before = trunkline("task", "list", "--json").json
    take_down(f"sqlite:///{trunkline.home / 'registry.db'}")
    refused = trunkline("task", "list")
    assert refused.code == 1
    assert f"has schema {FIRST}, which is older than this program's" in refused.problem
    assert "`trunkline db upgrade`" in refused.problem
    assert FIRST in trunkline.done("db", "current")
    assert trunkline("db", "check").problem == refused.problem
    upgraded = trunkline("db", "upgrade", "--json").json
    assert (upgraded["before"], upgraded["after"]) == (FIRST, SCHEMA_REVISION)
    assert trunkline("task", "list", "--json").json == before
    assert trunkline("audit", "verify").code == 0


def test_a_new_home_is_looked_at_without_making_it(trunkline: Any, tmp_path: Path) -> None:
    home = tmp_path / "new"
    assert trunkline("--home", home, "db", "current", "--json").json["revision"] is None
    assert "holds no registry yet" in trunkline("--home", home, "db", "check").problem
    assert not home.exists()
    assert trunkline("--home", home, "db", "upgrade").code == 0
    assert trunkline("--home", home, "team", "list").err == ""


def test_a_new_registry_that_is_not_at_home_is_said_to_be_where_it_is(trunkline: Any, tmp_path: Path) -> None:
    trunkline.environ["TRUNKLINE_DATABASE_URL"] = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    assert trunkline("team", "create", "nlu").err == f"created a new registry in {tmp_path / 'elsewhere.db'}\n"
    assert trunkline("team", "list").err == ""


def test_a_schema_that_somebody_changed_is_listed_and_ends_with_1(trunkline: Any) -> None:
    with sqlite3.connect(trunkline.home / "registry.db") as connection:
        connection.execute("DROP TRIGGER versions_no_update")
        connection.execute("CREATE INDEX mine ON teams (created_at)")
    connection.close()
    answer = trunkline("db", "check")
    assert (answer.code, answer.err) == (1, "")
    assert [line.split(":")[0] for line in answer.out.splitlines()] == ["teams", "versions"]
    answer = trunkline("db", "check", "--json")
    assert (answer.code, len(answer.json["differences"])) == (1, 2)


def test_an_upgrade_that_others_are_in_the_way_of_gives_up_in_time(trunkline: Any, on_postgresql: str) -> None:
    trunkline.done("db", "upgrade")
    take_down(on_postgresql)
    with backend_of(on_postgresql).upgrading():
        answer = trunkline("db", "upgrade", "--lock-timeout", "0.2")
    assert answer.code == 1
    assert answer.problem.startswith("the database was busy for 0.2 seconds")
    assert trunkline("db", "current", "--json").json["revision"] == FIRST
    assert trunkline("db", "upgrade", "--lock-timeout", "0").code == 2


def test_a_server_that_is_not_there_is_one_line_without_a_password(trunkline: Any) -> None:
    trunkline.environ["TRUNKLINE_DATABASE_URL"] = "postgresql://ann:hidden@127.0.0.1:1/registry"
    for arguments in (("team", "list"), ("db", "current"), ("db", "upgrade"), ("db", "check")):
        answer = trunkline(*arguments)
        assert answer.code == 1
        assert answer.problem.startswith(
            "cannot connect to postgresql://ann@127.0.0.1:1/registry: Connection refused; "
        )
        assert "hidden" not in trunkline("--traceback", *arguments).err


@pytest.mark.parametrize(
    "url", ["mysql://ann:hidden@localhost/registry", "postgresql://ann:hid@den:hidden@localhost/registry", "sqlite://"]
)
@pytest.mark.parametrize("command", [("team", "list"), ("team", "create", "nlu"), ("status",)])
def test_a_url_that_names_no_database_is_a_usage_error_without_a_password(
    trunkline: Any, url: str, command: tuple[str, ...]
) -> None:
    trunkline.environ["TRUNKLINE_DATABASE_URL"] = url
    answer = trunkline(*command)
    assert answer.code == 2
    assert "hidden" not in answer.problem


def test_a_home_whose_name_no_disk_takes_is_no_registry(trunkline: Any) -> None:
    assert "there is no registry at" in trunkline("--home", "h" * 300, "team", "list").problem


SESSION = """
import sys
from cli.main import main
from registry import fault_points

def at(place):
    if place == sys.argv[1]:
        print("waiting", flush=True)
        sys.stdin.readline()

fault_points.arm(at)
sys.exit(main(sys.argv[2:]))
"""


def test_a_command_whose_database_goes_away_says_so_and_works_when_it_is_back(
    trunkline: Any, on_postgresql: str, postgresql: PostgresqlServer
) -> None:
    trunkline.done("db", "upgrade")
    arguments = ["team.row-written", "team", "create", "nlu", "--idempotency-key", "k"]
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", SESSION, *arguments],
        env=os.environ | trunkline.environ,
        cwd=trunkline.folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    postgresql.end_connections(make_url(on_postgresql).database)
    out, err = process.communicate("go on\n", timeout=60)
    assert (process.returncode, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("error: the connection to postgresql://")
    assert err.endswith("nothing was changed; try again\n")
    assert trunkline("team", "list", "--json").json == []
    trunkline.done(*arguments[1:])
    assert [team["name"] for team in trunkline("team", "list", "--json").json] == ["nlu"]


def test_answers_in_json_are_json(trunkline: Any) -> None:
    for arguments in (("db", "current"), ("db", "upgrade"), ("db", "check")):
        assert json.loads(trunkline.done(*arguments, "--json"))
