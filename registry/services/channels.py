"""Channels: which release is live where. Moved by compare-and-swap, every placement journalled."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from registry.database.schema import ChannelRow, PlacementRow, ReleaseMemberRow, ReleaseRow
from registry.domain.records import Release
from registry.domain.references import check_name
from registry.domain.release_life import Channel, Placement, PlacementKind, ReleaseState, Taken, stack_of
from registry.errors import AlreadyExists, LostRace, NotAllowed, NotFound
from registry.fault_points import reached
from registry.services.audit import record_event
from registry.services.lookups import find_channel, find_task, first_of_its_name
from registry.services.release_states import refuse_failed
from registry.services.releases import get_release, lock_release

Expectation = str | Literal["none"] | None
"""What a caller expects to replace: a release by its name, nothing yet, or None for whatever is there."""


def create_channel(session: Session, name: str, *, takes: Taken, actor: str, at: datetime) -> Channel:
    """Makes a channel on which nothing is live yet.

    Raises:
        UsageError: the name is none.
        AlreadyExists: there is one of this name.
    """
    check_name("channel", name)
    taken = f"there is a channel {name} already: `trunkline channel list` shows what is live on it"
    if session.scalar(select(ChannelRow.id).where(ChannelRow.name == name)) is not None:
        raise AlreadyExists(taken)
    with first_of_its_name(taken):
        row = ChannelRow(name=name, takes=takes, release_id=None, created_at=at, created_by=actor)
        session.add(row)
        session.flush()
    record_event(session, "channel.create", f"channel {name}", actor=actor, at=at, after={"takes": takes})
    return _record(row)


def promote_release(
    session: Session, reference: str, channel: str, *, expect: Expectation, actor: str, at: datetime
) -> Placement:
    """Makes a release live; where it is already, returns the placement that brought it there.

    A caller who was cut off before the answer came may ask again: when the last placement is the one that is asked
    for, by the same actor, it counts as this one.

    Raises:
        UsageError, NotFound: there is no such release or channel.
        NotAllowed: the release is not in a state that the channel takes, or failed its gates the last time.
        LostRace: another release is live than the caller expected.
    """
    release_row, release = lock_release(session, reference)
    row = _lock_channel(session, channel)
    if row.release_id == release_row.id:
        last = _last_placement(session, row)
        if not _is_repeated(session, last, PlacementKind.PROMOTE, expect, actor):
            _check_expectation(session, row, expect)
        return _placement(session, last, row).model_copy(update={"repeated": True})
    _check_expectation(session, row, expect)
    refuse_failed(release)
    _refuse_state(row, release)
    return _place(session, row, PlacementKind.PROMOTE, release_row, actor=actor, at=at)


def revert_channel(
    session: Session, channel: str, *, expect: Expectation = None, actor: str, at: datetime
) -> Placement:
    """Makes the release live that was so before the promotion in force; again goes one further back.

    With an expectation, it may be asked for again as `promote_release` may: that does not go back twice.

    Raises:
        UsageError, NotFound: there is no such channel.
        NotAllowed: no release was there before, or it is no longer in a state that the channel takes.
        LostRace: another release is live than the caller expected.
    """
    found = find_channel(session, channel)
    stack = _stack(session, found)
    # Releases are locked before channels, everywhere; whether it is still this one is looked at once both are.
    target = lock_release(session, f"r{stack[-2]}") if len(stack) > 1 else None
    row = _lock_channel(session, channel)
    if row.release_id is not None and expect is not None:
        last = _last_placement(session, row)
        if _is_repeated(session, last, PlacementKind.REVERT, expect, actor):
            return _placement(session, last, row).model_copy(update={"repeated": True})
    _check_expectation(session, row, expect)
    if _stack(session, row) != stack:
        raise LostRace(
            f"channel {channel} was moved meanwhile; look at `trunkline channel history {channel}`, then decide again"
        )
    if target is None:
        live = f"{_name(session, row.release_id)} is the first release it had" if stack else "nothing is live on it"
        raise NotAllowed(f"channel {channel} cannot go back: {live}")
    _refuse_state(row, target[1])
    return _place(session, row, PlacementKind.REVERT, target[0], actor=actor, at=at)


def list_channels(session: Session) -> list[Channel]:
    """By name."""
    query = _channels().outerjoin(ReleaseRow, ReleaseRow.id == ChannelRow.release_id)
    return [_record(*row) for row in session.execute(query.order_by(ChannelRow.name))]


def get_channel(session: Session, name: str) -> Channel:
    """Raises UsageError or NotFound."""
    row = find_channel(session, name)
    query = _channels().outerjoin(ReleaseRow, ReleaseRow.id == ChannelRow.release_id)
    return _record(*session.execute(query.where(ChannelRow.id == row.id)).one())


def live_release(session: Session, channel: str) -> Release:
    """What is live on a channel now; raises UsageError or NotFound."""
    found = get_channel(session, channel)
    if found.release is None:
        raise NotFound(f"nothing is live on channel {channel} yet: `trunkline release promote` places a release")
    return get_release(session, found.release)


def channels_with(session: Session, task: str) -> list[Channel]:
    """The channels whose live release holds a task, by name; raises UsageError or NotFound."""
    owner = find_task(session, task)
    holding = select(ReleaseMemberRow.release_id).where(ReleaseMemberRow.task_id == owner.id)
    query = _channels().join(ReleaseRow, ReleaseRow.id == ChannelRow.release_id)
    found = session.execute(query.where(ChannelRow.release_id.in_(holding)).order_by(ChannelRow.name))
    return [_record(*row) for row in found]


def history(session: Session, channel: str, *, until: datetime | None = None) -> list[Placement]:
    """The placements on a channel, oldest first, up to and including a moment; raises UsageError or NotFound."""
    row = find_channel(session, channel)
    rows = session.scalars(_placements(row, until)).all()
    numbers = _numbers(session, rows)
    return [_placed(one, row, numbers) for one in rows]


def _lock_channel(session: Session, name: str) -> ChannelRow:
    found = find_channel(session, name)
    query = select(ChannelRow).where(ChannelRow.id == found.id).with_for_update()
    return session.scalars(query.execution_options(populate_existing=True)).one()


def _refuse_state(row: ChannelRow, release: Release) -> None:
    if not _record(row).accepts(release.state):
        first = {
            ReleaseState.DRAFT: f"`trunkline release verify {release.name}` runs its gates",
            ReleaseState.VERIFIED: f"`trunkline release approve {release.name}` approves it",
        }.get(release.state, "promote another one")
        raise NotAllowed(
            f"channel {row.name} takes {row.takes} releases, and {release.name} is {release.state}: {first}"
        )


def _check_expectation(session: Session, row: ChannelRow, expect: Expectation) -> None:
    if expect is None:
        return
    wanted = None if expect == "none" else get_release(session, expect).name
    live = _name(session, row.release_id)
    if live != wanted:
        raise LostRace(
            f"{live or 'nothing'} is live on channel {row.name}, but {wanted or 'nothing'} was expected: somebody was "
            f"first; look at `trunkline channel history {row.name}`, then decide again"
        )


def _is_repeated(session: Session, last: PlacementRow, kind: PlacementKind, expect: Expectation, actor: str) -> bool:
    """Whether the last placement is the one that the same actor asks for now."""
    expected = None if expect in (None, "none") else get_release(session, str(expect)).name
    return (last.kind, _name(session, last.from_release_id), last.actor) == (kind, expected, actor)


def _place(
    session: Session, row: ChannelRow, kind: PlacementKind, release: ReleaseRow, *, actor: str, at: datetime
) -> Placement:
    before = row.release_id
    placement = PlacementRow(
        channel_id=row.id,
        kind=kind,
        from_release_id=before,
        to_release_id=release.id,
        actor=actor,
        # Clocks of two machines differ: no placement may seem older than the one before it.
        placed_at=at if before is None else max(at, _last_placement(session, row).placed_at),
    )
    row.release_id = release.id
    session.flush()
    reached("channel.moved")
    session.add(placement)
    session.flush()
    reached("channel.journalled")
    left = _name(session, before)
    record_event(
        session,
        f"channel.{kind}",
        f"channel {row.name}",
        actor=actor,
        at=at,
        before=None if left is None else {"release": left},
        after={"release": f"r{release.number}"},
    )
    return _placement(session, placement, row)


def _placements(row: ChannelRow, until: datetime | None = None) -> Select[PlacementRow]:
    query = select(PlacementRow).where(PlacementRow.channel_id == row.id).order_by(PlacementRow.id)
    return query if until is None else query.where(PlacementRow.placed_at <= until)


def _last_placement(session: Session, row: ChannelRow) -> PlacementRow:
    return session.scalars(_placements(row).order_by(None).order_by(PlacementRow.id.desc()).limit(1)).one()


def _stack(session: Session, row: ChannelRow) -> list[int]:
    """The numbers of the releases that the channel can go back through, the live one last."""
    query = (
        select(PlacementRow.kind, ReleaseRow.number)
        .join(ReleaseRow, ReleaseRow.id == PlacementRow.to_release_id)
        .where(PlacementRow.channel_id == row.id)
        .order_by(PlacementRow.id)
    )
    return stack_of((kind, number) for kind, number in session.execute(query))


def _name(session: Session, release_id: int | None) -> str | None:
    number = session.scalar(select(ReleaseRow.number).where(ReleaseRow.id == release_id))
    return None if number is None else f"r{number}"


def _numbers(session: Session, rows: Sequence[PlacementRow]) -> dict[int, int]:
    ids = {number for row in rows for number in (row.from_release_id, row.to_release_id) if number is not None}
    found = session.execute(select(ReleaseRow.id, ReleaseRow.number).where(ReleaseRow.id.in_(ids)))
    return {one.id: one.number for one in found}


def _placement(session: Session, one: PlacementRow, row: ChannelRow) -> Placement:
    return _placed(one, row, _numbers(session, [one]))


def _placed(one: PlacementRow, row: ChannelRow, numbers: dict[int, int]) -> Placement:
    return Placement(
        channel=row.name,
        kind=one.kind,
        from_release=None if one.from_release_id is None else f"r{numbers[one.from_release_id]}",
        to_release=f"r{numbers[one.to_release_id]}",
        actor=one.actor,
        placed_at=one.placed_at,
    )


def _channels() -> Select[ChannelRow, int | None, datetime | None]:
    """Channels with the number of what is live and since when; the release is to be joined."""
    since = select(func.max(PlacementRow.placed_at)).where(PlacementRow.channel_id == ChannelRow.id).scalar_subquery()
    return select(ChannelRow, ReleaseRow.number, since)


def _record(row: ChannelRow, number: int | None = None, since: datetime | None = None) -> Channel:
    return Channel.model_validate(
        {
            "name": row.name,
            "takes": row.takes,
            "release": None if number is None else f"r{number}",
            "since": since,
            "created_at": row.created_at,
            "created_by": row.created_by,
        }
    )
