"""What docs/operations.md grants is enough, and no more is needed."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from registry.artifacts.local_store import LocalArtifactStore
from registry.database.engine import Database
from registry.domain.references import VersionReference
from registry.errors import StorageError, TrunklineError
from registry.housekeeping.check import check_registry
from registry.progress import silent
from registry.services.aliases import promote
from registry.services.blobs import refer_to
from registry.services.releases import register_release
from registry.services.searches import begin_search, hold_search
from registry.services.tasks import list_tasks, register_task
from registry.services.teams import create_team
from registry.services.trials import ask_for, claim_trial, hold_trials
from registry.services.versions import register_version

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"


def granted() -> list[str]:
    block = re.search(r"```sql\n(.*?)```", OPERATIONS.read_text(), re.DOTALL)
    assert block is not None
    return [statement.strip() for statement in block[1].split(";") if statement.strip()]


@pytest.fixture
def as_role(postgresql: Any, populated_postgresql_template: str) -> Iterator[Callable[[str], Database]]:
    """Opens a populated registry as one of the roles of the document."""
    name = postgresql.create(template=populated_postgresql_template)
    roles = {"trunkline_writer": "LOGIN", "trunkline_reader": "LOGIN"}
    for role, option in roles.items():
        postgresql.run(f"CREATE ROLE {role} {option}")
    for statement in granted():
        postgresql.run(statement, database=name)
    opened: list[Database] = []

    def open_as(role: str) -> Database:
        opened.append(Database.open(postgresql.url(name, user=role)))
        return opened[-1]

    yield open_as
    for database in opened:
        database.close()
    postgresql.drop(name)
    for role in roles:
        postgresql.run(f"DROP ROLE {role}")


def test_a_writer_can_do_everything_but_delete(
    as_role: Callable[[str], Database],
    new_version: Any,
    new_release: Any,
    new_search: Any,
    planned_trial: Any,
    spec: Any,
    change: dict[str, Any],
    store: LocalArtifactStore,
) -> None:
    database = as_role("trunkline_writer")
    with database.write() as session:
        create_team(session, "new", **change)
        register_task(session, spec("new"), team="new", **change)
    with database.write() as session:
        refer_to(session, store, [])
        register_version(session, new_version(), **change)
        promote(session, VersionReference(task="rte", number=1), "champion", expect="none", **change)
        register_release(session, new_release(), **change)
        lease = {"until": change["at"], "is_gone": lambda _: False}
        search = begin_search(session, new_search(), runner="a:1:1", **lease, **change)
        ask_for(session, search, [planned_trial("new")])
        assert claim_trial(session, "rte", planned_trial("new").key, worker="a:1:1", **lease, at=change["at"])
        hold_search(session, search, until=change["at"])
        hold_trials(session, "rte", worker="a:1:1", until=change["at"])
    with database.read() as session:
        assert len(list_tasks(session)) == 3
    with pytest.raises(TrunklineError, match="permission denied"), database.write() as session:
        session.execute(text("DELETE FROM aliases"))


def test_a_reader_can_look_at_everything_and_change_nothing(
    as_role: Callable[[str], Database], change: dict[str, Any], store: LocalArtifactStore
) -> None:
    database = as_role("trunkline_reader")
    found = check_registry(database, store.location, read_blobs=False, at=change["at"], report=silent)
    assert all("is not in" in finding.problem for finding in found.findings), "the fixture's blobs are in no store"

    def create(session: Session) -> None:
        create_team(session, "new", **change)

    with pytest.raises(StorageError, match="permission denied"), database.write() as session:
        create(session)
