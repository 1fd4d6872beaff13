"""What becomes of a release: verified, approved, retired. Each step is journalled, and the database holds the order."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.database.schema import ChannelRow, ReleaseRow
from registry.domain.records import Release
from registry.domain.release_life import LEGAL_MOVES, ReleaseMove, ReleaseState
from registry.errors import NotAllowed, UsageError
from registry.services.release_journal import add_move, moves_of
from registry.services.releases import get_release, lock_release, record_gates

_FIRST = {
    ReleaseState.DRAFT: "run its gates first: `trunkline release verify {name}`",
    ReleaseState.RETIRED: "a retired release stays retired: assemble another one",
}


def record_verification(
    session: Session, reference: str, report: Mapping[str, Any], *, actor: str, at: datetime
) -> Release:
    """Keeps what the gates found: see `releases.record_gates`.

    Args:
        report: says under `passed` whether all did.

    Raises:
        UsageError, NotFound: there is no such release.
        NotAllowed: it is retired.
    """
    row, release = lock_release(session, reference)
    refuse_retired(release)
    return record_gates(session, row, release, report, actor=actor, at=at)


def approve_release(session: Session, reference: str, *, reason: str | None, actor: str, at: datetime) -> Release:
    """Lets a verified release be used; of an approved one nothing changes.

    Raises:
        UsageError, NotFound: there is no such release.
        NotAllowed: it is a draft, retired, or failed its gates the last time.
    """
    row, release = lock_release(session, reference)
    if release.state is ReleaseState.APPROVED:
        return release
    refuse_failed(release)
    _refuse(release, ReleaseState.APPROVED)
    add_move(session, row, ReleaseState.APPROVED, reason=reason, actor=actor, at=at)
    return get_release(session, release.name)


def retire_release(session: Session, reference: str, *, reason: str, actor: str, at: datetime) -> Release:
    """Ends a release; of a retired one nothing changes.

    Raises:
        UsageError, NotFound: there is no such release, or no reason.
        NotAllowed: it is live on a channel.
    """
    if not reason.strip():
        raise UsageError("a release is retired for a reason: say which with --reason")
    row, release = lock_release(session, reference)
    if release.state is ReleaseState.RETIRED:
        return release
    live = session.scalars(select(ChannelRow.name).where(ChannelRow.release_id == row.id).order_by(ChannelRow.name))
    if channels := list(live):
        raise NotAllowed(
            f"release {release.name} is live on {', '.join(channels)}: promote another one there first, or revert"
        )
    add_move(session, row, ReleaseState.RETIRED, reason=reason, actor=actor, at=at)
    return get_release(session, release.name)


def release_moves(session: Session, reference: str) -> list[ReleaseMove]:
    """The journal of a release, oldest first; raises UsageError or NotFound."""
    name = get_release(session, reference).name
    return moves_of(session, session.scalars(select(ReleaseRow.id).where(ReleaseRow.number == int(name[1:]))).one())


def refuse_retired(release: Release) -> None:
    """Raises NotAllowed."""
    if release.state is ReleaseState.RETIRED:
        raise NotAllowed(f"release {release.name} is retired; {_FIRST[ReleaseState.RETIRED]}")


def refuse_failed(release: Release) -> None:
    """Raises NotAllowed where the gates failed when they were last run."""
    if release.gates is not None and not release.gates.get("passed", True):
        raise NotAllowed(
            f"release {release.name} failed its gates the last time: `trunkline release show {release.name}` tells "
            "which; another selection may pass, or the same with other limits (`trunkline release update`)"
        )


def _refuse(release: Release, wanted: ReleaseState) -> None:
    if wanted not in LEGAL_MOVES[release.state]:
        what_first = _FIRST[release.state].format(name=release.name)
        raise NotAllowed(f"release {release.name} is {release.state}, and cannot become {wanted}; {what_first}")
