"""The rows against each other: what no foreign key and no CHECK can say."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from registry.database.schema import (
    AUDIT_COUNTER,
    RELEASE_COUNTER,
    SWEEP_COUNTER,
    AliasMoveRow,
    AliasRow,
    CounterRow,
    ReleaseRow,
    SpecRevisionRow,
    TaskRow,
    VersionRow,
)
from registry.domain.alias_journal import MoveKind
from registry.domain.digests import prefix_digests
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
    """Replaying the journal gives the alias table, and every move leaves the version where the one before had come."""
    names = {row.id: row.name for row in session.execute(select(TaskRow.id, TaskRow.name))}
    journal: dict[tuple[int, str], list[AliasMoveRow]] = defaultdict(list)
    for move in session.scalars(select(AliasMoveRow).order_by(AliasMoveRow.id)):
        journal[move.task_id, move.alias].append(move)
    pointing = {(row.task_id, row.name): row.version_number for row in session.scalars(select(AliasRow))}
    for key in sorted(journal.keys() | pointing.keys()):
        task_id, alias = key
        subject = f"alias {names.get(task_id)}@{alias}"
        stack: list[int] = []
        for move in journal[key]:
            current = stack[-1] if stack else None
            if move.from_version != current:
                problem = f"move {move.id} leaves version {move.from_version}, but it was at {current}"
                yield Finding(subject=subject, problem=problem, remedy=ROWS_WERE_CHANGED)
            if move.kind is MoveKind.ROLLBACK and stack:
                stack.pop()
            if not stack or stack[-1] != move.to_version:
                if move.kind is MoveKind.ROLLBACK:
                    problem = f"move {move.id} rolls back to version {move.to_version}, which was not the one before"
                    yield Finding(subject=subject, problem=problem, remedy=ROWS_WERE_CHANGED)
                stack.append(move.to_version)
        last = stack[-1] if stack else None
        if last != pointing.get(key):
            problem = f"points at version {pointing.get(key)}, but its journal leads to {last}"
            yield Finding(subject=subject, problem=problem, remedy=ROWS_WERE_CHANGED)


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
