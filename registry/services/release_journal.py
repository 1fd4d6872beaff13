"""The journal of releases' states: written by `releases` and `release_states`, read for every record of a release."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry.database.schema import ReleaseMoveRow, ReleaseRow
from registry.domain.release_life import ReleaseMove, ReleaseState
from registry.fault_points import reached
from registry.services.audit import record_event


class Standing(NamedTuple):
    state: ReleaseState
    report: Mapping[str, Any] | None
    """Of the last time that the gates were run."""


def begin_journal(
    session: Session, release: ReleaseRow, *, report: Mapping[str, Any] | None, actor: str, at: datetime
) -> ReleaseState:
    """Writes that a new release is a draft, and verified where the gates passed already; returns which."""
    _add_row(session, release, ReleaseState.DRAFT, report=None, reason=None, actor=actor, at=at)
    if report is None:
        return ReleaseState.DRAFT
    _add_row(session, release, ReleaseState.VERIFIED, report=report, reason=None, actor=actor, at=at)
    return ReleaseState.VERIFIED


def add_move(
    session: Session,
    release: ReleaseRow,
    state: ReleaseState,
    *,
    report: Mapping[str, Any] | None = None,
    reason: str | None = None,
    actor: str,
    at: datetime,
) -> None:
    """Writes the next entry and its audit event; nobody else may be writing one of this release meanwhile.

    What may follow what is the caller's to say in words; the database refuses the rest.
    """
    before = _add_row(session, release, state, report=report, reason=reason, actor=actor, at=at)
    record_event(
        session,
        "release.verify" if report is not None else _ACTIONS[state],
        f"release r{release.number}",
        actor=actor,
        at=at,
        before={"state": before},
        after={"state": state, **({} if reason is None else {"reason": reason})},
    )


_ACTIONS = {ReleaseState.APPROVED: "release.approve", ReleaseState.RETIRED: "release.retire"}


def _add_row(
    session: Session,
    release: ReleaseRow,
    state: ReleaseState,
    *,
    report: Mapping[str, Any] | None,
    reason: str | None,
    actor: str,
    at: datetime,
) -> ReleaseState | None:
    """Returns the state before."""
    query = select(ReleaseMoveRow).where(ReleaseMoveRow.release_id == release.id)
    last = session.scalar(query.order_by(ReleaseMoveRow.number.desc()).limit(1))
    session.add(
        ReleaseMoveRow(
            release_id=release.id,
            number=1 if last is None else last.number + 1,
            previous_number=None if last is None else last.number,
            from_state=None if last is None else last.to_state,
            to_state=state,
            report=None if report is None else dict(report),
            reason=reason,
            actor=actor,
            # Clocks of two machines differ: no entry may seem older than the one before it.
            moved_at=at if last is None else max(at, last.moved_at),
        )
    )
    session.flush()
    reached("release.moved")
    return None if last is None else last.to_state


def standings(session: Session, releases: Collection[int]) -> dict[int, Standing]:
    """Release's id -> where it stands; two queries, however many there are."""
    numbered = (
        select(ReleaseMoveRow.release_id, func.max(ReleaseMoveRow.number).label("number"))
        .where(ReleaseMoveRow.release_id.in_(releases))
        .group_by(ReleaseMoveRow.release_id)
    )
    last, reported = numbered.subquery(), numbered.where(ReleaseMoveRow.report.is_not(None)).subquery()
    states = session.execute(
        select(ReleaseMoveRow.release_id, ReleaseMoveRow.to_state).join(
            last, (last.c.release_id == ReleaseMoveRow.release_id) & (last.c.number == ReleaseMoveRow.number)
        )
    )
    found = session.execute(
        select(ReleaseMoveRow.release_id, ReleaseMoveRow.report).join(
            reported,
            (reported.c.release_id == ReleaseMoveRow.release_id) & (reported.c.number == ReleaseMoveRow.number),
        )
    )
    reports = {one.release_id: one.report for one in found}
    return {release: Standing(state, reports.get(release)) for release, state in states}


def moves_of(session: Session, release: int) -> list[ReleaseMove]:
    """Of the release with this id, the oldest first."""
    query = select(ReleaseMoveRow).where(ReleaseMoveRow.release_id == release).order_by(ReleaseMoveRow.number)
    return [
        ReleaseMove(
            from_state=row.from_state,
            to_state=row.to_state,
            report=row.report,
            reason=row.reason,
            actor=row.actor,
            moved_at=row.moved_at,
        )
        for row in session.scalars(query)
    ]
