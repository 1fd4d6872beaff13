"""Teams: who owns tasks."""

from datetime import datetime

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from registry.database.schema import TeamRow
from registry.domain.records import Team
from registry.domain.references import check_name
from registry.errors import AlreadyExists
from registry.fault_points import reached
from registry.services.audit import record_event
from registry.services.lookups import first_of_its_name


def create_team(session: Session, name: str, *, actor: str, at: datetime) -> Team:
    """Creates a team.

    Raises:
        UsageError: the name is not one.
        AlreadyExists: there is a team of this name.
    """
    check_name("team", name)
    taken = f"team {name} already exists: choose another name, or use it"
    if session.scalar(select(exists().where(TeamRow.name == name))):
        raise AlreadyExists(taken)
    row = TeamRow(name=name, created_at=at)
    with first_of_its_name(taken):
        session.add(row)
        session.flush()
    reached("team.row-written")
    record_event(session, "team.create", f"team {name}", actor=actor, at=at, after={"name": name})
    return Team(name=name, created_at=row.created_at)


def list_teams(session: Session) -> list[Team]:
    """All teams, by name."""
    rows = session.scalars(select(TeamRow).order_by(TeamRow.name))
    return [Team(name=row.name, created_at=row.created_at) for row in rows]
