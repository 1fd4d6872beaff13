"""The rows against each other: what no foreign key and no CHECK can say."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from registry.database.schema import (
    AUDIT_COUNTER,
    RELEASE_COUNTER,
    SWEEP_COUNTER,
    AliasMoveRow,
    AliasRow,
    ChannelRow,
    CounterRow,
    PlacementRow,
    ReleaseRow,
    SpecRevisionRow,
    TaskRow,
    VersionRow,
)
from registry.domain.alias_journal import MoveKind
from registry.domain.digests import prefix_digests
from registry.domain.release_life import PlacementKind
from registry.domain.task_specs import parse_task_spec
from registry.errors import InvalidInput
from registry.housekeeping.findings import Finding
from registry.services.backbones import list_backbones

ROWS_WERE_CHANGED = (
    "a row was changed outside of Trunkline: find out by whom, and restore a backup (`trunkline restore`)"
)


def row_findings(session: Session) -> Iterator[Finding]:
    """Every contradiction between the registry's rows, the audit trail aside."""
    yield from _number_findings(session)
    yield from _spec_findings(session)
    yield from _alias_findings(session)
    yield from _channel_findings(session)
    yield from _prefix_findings(session)


def _number_findings(session: Session) -> Iterator[Finding]:
    """Numbers are given without gaps, and the counter stands behind the last one."""
    for numbered, kind, counter in (
        (VersionRow, "version", TaskRow.next_version),
        (SpecRevisionRow, "spec revision", TaskRow.next_spec_revision),
    ):
        given = _grouped(session, numbered.task_id, numbered.number)
        for task_id, name, next_number in session.execute(select(TaskRow.id, TaskRow.name, counter)):
            yield from gap_findings(f"task {name}", kind, given.get(task_id, []), next_number)
    releases = session.scalars(select(ReleaseRow.number)).all()
    counters = {row.name: row.next_number for row in session.scalars(select(CounterRow))}
    for lost in sorted({RELEASE_COUNTER, SWEEP_COUNTER, AUDIT_COUNTER} - counters.keys()):
        yield Finding(subject="the registry", problem=f"has lost its counter {lost!r}", remedy=ROWS_WERE_CHANGED)
    yield from gap_findings("the registry", "release", releases, counters.get(RELEASE_COUNTER, 1))


def gap_findings(subject: str, kind: str, numbers: Iterable[int], next_number: int) -> Iterator[Finding]:
    """Numbers from 1 that are not there, and those that have not been given yet."""
    found, expected = set(numbers), set(range(1, next_number))
    if missing := sorted(expected - found):
        yield Finding(subject=subject, problem=f"has lost {kind} {_listed(missing)}", remedy=ROWS_WERE_CHANGED)
    if extra := sorted(found - expected):
        problem = f"has {kind} {_listed(extra)}, but gives {next_number} to the next one"
        yield Finding(subject=subject, problem=problem, remedy=ROWS_WERE_CHANGED)


def _spec_findings(session: Session) -> Iterator[Finding]:
    query = select(TaskRow.name, SpecRevisionRow).join(TaskRow, TaskRow.id == SpecRevisionRow.task_id)
    for task, row in session.execute(query.order_by(TaskRow.name, SpecRevisionRow.number)):
        subject = f"spec revision {row.number} of task {task}"
        try:
            spec = parse_task_spec(row.definition, subject)
        except InvalidInput as error:
            yield Finding(
                subject=subject, problem=f"cannot be read: {'; '.join(error.problems)}", remedy=ROWS_WERE_CHANGED
            )
            continue
        if spec.digest() != row.digest:
            yield Finding(subject=subject, problem="its definition does not have its digest", remedy=ROWS_WERE_CHANGED)
        if spec.task != task:
            yield Finding(subject=subject, problem=f"it defines task {spec.task}", remedy=ROWS_WERE_CHANGED)


def _alias_findings(session: Session) -> Iterator[Finding]:
    names = {row.id: row.name for row in session.execute(select(TaskRow.id, TaskRow.name))}
    journal: dict[tuple[int, str], list[_Step]] = defaultdict(list)
    for move in session.scalars(select(AliasMoveRow).order_by(AliasMoveRow.id)):
        is_back = move.kind is MoveKind.ROLLBACK
        journal[move.task_id, move.alias].append(_Step(move.id, is_back, move.from_version, move.to_version))
    pointing = {(row.task_id, row.name): row.version_number for row in session.scalars(select(AliasRow))}
    for key in sorted(journal.keys() | pointing.keys()):
        task_id, alias = key
        yield from _journal_findings(f"alias {names.get(task_id)}@{alias}", "version", journal[key], pointing.get(key))


def _channel_findings(session: Session) -> Iterator[Finding]:
    numbers = {row.id: row.number for row in session.execute(select(ReleaseRow.id, ReleaseRow.number))}
    journal: dict[int, list[_Step]] = defaultdict(list)
    for one in session.scalars(select(PlacementRow).order_by(PlacementRow.id)):
        left = None if one.from_release_id is None else numbers.get(one.from_release_id)
        is_back = one.kind is PlacementKind.REVERT
        journal[one.channel_id].append(_Step(one.id, is_back, left, numbers.get(one.to_release_id, 0)))
    for row in session.scalars(select(ChannelRow).order_by(ChannelRow.name)):
        live = None if row.release_id is None else numbers.get(row.release_id)
        yield from _journal_findings(f"channel {row.name}", "release", journal[row.id], live)


class _Step(NamedTuple):
    """One move of what points at one of several numbered things."""

    row: int
    is_back: bool
    left: int | None
    came_to: int


def _journal_findings(subject: str, thing: str, steps: Iterable[_Step], pointing: int | None) -> Iterator[Finding]:
    """Replaying a journal leads to where it points, and every move leaves what the one before had come to."""

    def finding(problem: str) -> Finding:
        return Finding(subject=subject, problem=problem, remedy=ROWS_WERE_CHANGED)

    stack: list[int] = []
    for step in steps:
        current = stack[-1] if stack else None
        if step.left != current:
            yield finding(f"move {step.row} leaves {thing} {step.left}, but it was at {current}")
        if step.is_back and stack:
            stack.pop()
        if not stack or stack[-1] != step.came_to:
            if step.is_back:
                yield finding(f"move {step.row} goes back to {thing} {step.came_to}, which was not the one before")
            stack.append(step.came_to)
    last = stack[-1] if stack else None
    if last != pointing:
        yield finding(f"points at {thing} {pointing}, but its journal leads to {last}")


def _prefix_findings(session: Session) -> Iterator[Finding]:
    for backbone in list_backbones(session):
        if backbone.prefix_digests != prefix_digests(backbone.prefix_root, backbone.layer_digests):
            problem = "P(0)..P(N) are not those of its root and its layers' digests"
            yield Finding(subject=f"backbone {backbone.name}", problem=problem, remedy=ROWS_WERE_CHANGED)


def _grouped(
    session: Session, group: InstrumentedAttribute[int], number: ColumnElement[int] | InstrumentedAttribute[int]
) -> dict[int, list[int]]:
    grouped: dict[int, list[int]] = defaultdict(list)
    for key, value in session.execute(select(group, number)):
        grouped[key].append(value)
    return grouped


def _listed(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:5]))
    return f"{shown} and {len(numbers) - 5} more" if len(numbers) > 5 else shown
