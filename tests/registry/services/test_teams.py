from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import event, insert
from sqlalchemy.orm import Session

from registry.database.engine import Database
from registry.database.schema import TeamRow
from registry.errors import AlreadyExists, UsageError
from registry.services.audit import list_events
from registry.services.teams import create_team, list_teams

AT = datetime(2026, 5, 2, tzinfo=UTC)


def test_teams_are_listed_by_name(database: Database) -> None:
    with database.write() as session:
        for name in ("search", "nlu"):
            assert create_team(session, name, actor="ann", at=AT).name == name
    with database.read() as session:
        assert [(team.name, team.created_at) for team in list_teams(session)] == [("nlu", AT), ("search", AT)]


def test_a_team_that_exists_is_not_created_again(database: Database) -> None:
    with database.write() as session:
        create_team(session, "nlu", actor="ann", at=AT)
    with pytest.raises(AlreadyExists, match="team nlu already exists"), database.write() as session:
        create_team(session, "nlu", actor="bob", at=AT)
    with database.read() as session:
        assert [event.actor for event in list_events(session)] == ["ann"]


def test_a_name_with_a_path_in_it_is_refused(database: Database) -> None:
    with pytest.raises(UsageError, match=r"team: '\.\./nlu' is not a name"), database.write() as session:
        create_team(session, "../nlu", actor="ann", at=AT)


def test_a_creation_that_comes_second_is_told_so(database: Database) -> None:
    """On a server two transactions may both find the name free; here the rival's row comes between."""

    def create(session: Session) -> None:
        @event.listens_for(session, "before_flush", once=True)
        def _rival(*_: Any) -> None:
            session.connection().execute(insert(TeamRow).values(name="nlu", created_at=AT))

        create_team(session, "nlu", actor="ann", at=AT)

    with pytest.raises(AlreadyExists, match="team nlu already exists"), database.write() as session:
        create(session)
    with database.read() as session:
        assert list_teams(session) == []
