"""Aliases: moved by compare-and-swap, every move journalled, so that any past moment can be told."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.database.schema import AliasMoveRow, AliasRow, TaskRow
from registry.domain.alias_journal import MoveKind, replay
from registry.domain.records import AliasMove
from registry.domain.references import VersionReference, check_alias
from registry.errors import LostRace, NotAllowed, NotFound, UsageError
from registry.fault_points import reached
from registry.services.audit import record_event
from registry.services.lookups import find_task, find_version, lock_task, refuse_if_retired

Expectation = VersionReference | Literal["none"] | None
"""What a caller expects to replace: a version, no alias of this name yet, or None for whatever is there."""


def promote(
    session: Session,
    reference: VersionReference,
    alias: str,
    *,
    expect: Expectation,
    actor: str,
    at: datetime,
) -> AliasMove:
    """Points the alias at the version; where it points there already, returns the move that brought it there.

    A caller who was cut off before the answer came may ask again: when the last move is the one that is asked for, by
    the same actor, it counts as this one.

    Raises:
        NotFound: there is no such task or version.
        NotAllowed: the task is retired.
        LostRace: the alias is not where the caller expected it.
        UsageError: the alias is not one, or the expected version is of another task.
    """
    check_alias(alias)
    task = lock_task(session, reference.task)
    refuse_if_retired(task, "no promotions")
    find_version(session, task, reference.number)
    row = _find_alias(session, task, alias)
    if row is not None and row.version_number == reference.number:
        last = _last_move(session, task, alias)
        if not _is_repeated(last, MoveKind.PROMOTE, expect, actor):
            _check_expectation(task, alias, row, expect)
        return _record(last, task.name)
    _check_expectation(task, alias, row, expect)
    return _move(session, task, alias, row, MoveKind.PROMOTE, reference.number, actor=actor, at=at)


def rollback(
    session: Session, task: str, alias: str, *, expect: Expectation = None, actor: str, at: datetime
) -> AliasMove:
    """Points the alias at the version that it had before the promotion in force; again goes one further back.

    With an expectation, it may be asked for again as `promote` may: that does not go back twice.

    Raises:
        NotFound: there is no such task or alias.
        NotAllowed: the task is retired, or there was no version before.
        LostRace: the alias is not where the caller expected it.
        UsageError: the alias is not one, or the expected version is of another task.
    """
    check_alias(alias)
    owner = lock_task(session, task)
    refuse_if_retired(owner, "no rollbacks")
    row = _find_alias(session, owner, alias)
    if row is not None and expect is not None:
        last = _last_move(session, owner, alias)
        if _is_repeated(last, MoveKind.ROLLBACK, expect, actor):
            return _record(last, owner.name)
    _check_expectation(owner, alias, row, expect)
    if row is None:
        raise NotFound(f"task {task} has no alias {alias!r}: `trunkline task show {task}` lists them")
    stack = _replay(_moves(session, owner, alias))
    if len(stack) < 2:
        raise NotAllowed(f"{task}@{alias} cannot go back: {task}/{row.version_number} is the first version it had")
    return _move(session, owner, alias, row, MoveKind.ROLLBACK, stack[-2], actor=actor, at=at)


def history(session: Session, task: str, *, alias: str | None = None, until: datetime | None = None) -> list[AliasMove]:
    """The moves of a task's aliases in the order in which they were made, up to and including a moment."""
    if alias is not None:
        check_alias(alias)
    owner = find_task(session, task)
    return [_record(row, owner.name) for row in _moves(session, owner, alias, until)]


def aliases_at(session: Session, task: str, at: datetime) -> dict[str, int]:
    """Alias -> version number as of a moment, from the journal alone."""
    owner = find_task(session, task)
    moves: dict[str, list[AliasMoveRow]] = {}
    for row in _moves(session, owner, until=at):
        moves.setdefault(row.alias, []).append(row)
    return {alias: _replay(rows)[-1] for alias, rows in sorted(moves.items())}


def _find_alias(session: Session, task: TaskRow, alias: str) -> AliasRow | None:
    query = select(AliasRow).where(AliasRow.task_id == task.id, AliasRow.name == alias)
    # As it is now, even where the caller has looked at it before the task was locked.
    return session.scalar(query.execution_options(populate_existing=True))


def _check_expectation(task: TaskRow, alias: str, row: AliasRow | None, expect: Expectation) -> None:
    if expect is None:
        return
    if expect != "none" and expect.task != task.name:
        raise UsageError(f"expected version {expect} is of another task: name a version of {task.name}, or 'none'")
    current = None if row is None else row.version_number
    wanted = None if expect == "none" else expect.number
    if current != wanted:
        there = "not set" if current is None else f"{task.name}/{current}"
        expected = "not to be set" if wanted is None else f"to be {expect}"
        raise LostRace(
            f"{task.name}@{alias} is {there}, but was expected {expected}: somebody moved it first; "
            f"look at `trunkline task history {task.name}`, then decide again"
        )


def _is_repeated(last: AliasMoveRow, kind: MoveKind, expect: Expectation, actor: str) -> bool:
    """Whether the last move is the one that the same actor asks for now."""
    expected = expect.number if isinstance(expect, VersionReference) else None
    return (last.kind, last.from_version, last.actor) == (kind, expected, actor)


def _move(
    session: Session,
    task: TaskRow,
    alias: str,
    row: AliasRow | None,
    kind: MoveKind,
    number: int,
    *,
    actor: str,
    at: datetime,
) -> AliasMove:
    move = AliasMoveRow(
        task_id=task.id,
        alias=alias,
        kind=kind,
        from_version=None if row is None else row.version_number,
        to_version=number,
        actor=actor,
        # Clocks of two machines differ: were a move stamped before the one it follows, a replay up to a moment
        # between them would see the second without the first.
        moved_at=at if row is None else max(at, _last_move(session, task, alias).moved_at),
    )
    if row is None:
        session.add(AliasRow(task_id=task.id, name=alias, version_number=number))
    else:
        row.version_number = number
    session.flush()
    reached("alias.moved")
    session.add(move)
    session.flush()
    reached("alias.journalled")
    record_event(
        session,
        f"alias.{kind}",
        f"alias {task.name}@{alias}",
        actor=actor,
        at=at,
        before=None if move.from_version is None else {"version": move.from_version},
        after={"version": number},
    )
    return _record(move, task.name)


def _moves(
    session: Session, task: TaskRow, alias: str | None = None, until: datetime | None = None
) -> Sequence[AliasMoveRow]:
    query = select(AliasMoveRow).where(AliasMoveRow.task_id == task.id).order_by(AliasMoveRow.id)
    if alias is not None:
        query = query.where(AliasMoveRow.alias == alias)
    if until is not None:
        query = query.where(AliasMoveRow.moved_at <= until)
    return session.scalars(query).all()


def _last_move(session: Session, task: TaskRow, alias: str) -> AliasMoveRow:
    query = select(AliasMoveRow).where(AliasMoveRow.task_id == task.id, AliasMoveRow.alias == alias)
    return session.scalars(query.order_by(AliasMoveRow.id.desc()).limit(1)).one()


def _replay(moves: Sequence[AliasMoveRow]) -> list[int]:
    return replay((move.kind, move.to_version) for move in moves)


def _record(row: AliasMoveRow, task: str) -> AliasMove:
    return AliasMove(
        task=task,
        alias=row.alias,
        kind=row.kind,
        from_version=row.from_version,
        to_version=row.to_version,
        actor=row.actor,
        moved_at=row.moved_at,
    )
