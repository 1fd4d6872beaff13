"""Finding rows by the names that people write, with an answer that helps when there is none."""

import difflib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TypeVar

from sqlalchemy import CTE, Integer, String, column, select, values
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from registry.database.schema import BackboneRow, ChannelRow, TaskRow, TeamRow, VersionRow
from registry.domain.records import TaskState
from registry.domain.references import check_name
from registry.errors import AlreadyExists, NotAllowed, NotFound

Named = TypeVar("Named", TeamRow, BackboneRow, TaskRow, ChannelRow)


def find_team(session: Session, name: str) -> TeamRow:
    """The team of this name; raises UsageError for what is no name, NotFound for one that nobody has."""
    return _find(session, TeamRow, "team", name)


def find_backbone(session: Session, name: str) -> BackboneRow:
    """The backbone of this name; raises UsageError or NotFound."""
    return _find(session, BackboneRow, "backbone", name)


def find_task(session: Session, name: str) -> TaskRow:
    """The task of this name; raises UsageError or NotFound."""
    return _find(session, TaskRow, "task", name)


def find_channel(session: Session, name: str) -> ChannelRow:
    """The channel of this name; raises UsageError or NotFound."""
    return _find(session, ChannelRow, "channel", name)


def lock_task(session: Session, name: str) -> TaskRow:
    """`find_task`, and nobody else changes the task, its versions or its aliases until this transaction ends."""
    check_name("task", name)
    (row,) = lock_tasks(session, [name])
    return row


def lock_tasks(session: Session, names: Collection[str]) -> list[TaskRow]:
    """`lock_task` of several by one query, by name: in one order everywhere, so that two callers cannot deadlock.

    Others may still refer to the rows: with a stronger lock, two tasks that are retired in favour of each other would
    wait for each other.
    """
    query = select(TaskRow).where(TaskRow.name.in_(names)).order_by(TaskRow.name).with_for_update(key_share=True)
    rows = list(session.scalars(query.execution_options(populate_existing=True)))
    if missing := sorted(set(names) - {row.name for row in rows}):
        find_task(session, missing[0])  # raises what says why
        return lock_tasks(session, names)  # unless it has just been registered
    return rows


def wanted_pairs(pairs: Collection[tuple[str, str | int]] | Collection[tuple[int, int]]) -> CTE:
    """Pairs (at least one) as a table of columns `first` and `second`, to join with.

    SQLite would read a whole table to compare two of its columns with a list of pairs; joined, it uses their index.
    """
    columns = (
        column(name, String() if isinstance(value, str) else Integer())
        for name, value in zip(("first", "second"), next(iter(pairs)), strict=True)
    )
    return values(*columns, name="wanted").data(sorted(pairs)).cte("wanted")


def find_version(session: Session, task: TaskRow, number: int) -> VersionRow:
    """The version of this task; raises NotFound."""
    row = session.scalar(select(VersionRow).where(VersionRow.task_id == task.id, VersionRow.number == number))
    if row is None:
        raise NotFound(f"there is no version {task.name}/{number}: `trunkline task versions {task.name}` lists them")
    return row


def refuse_if_retired(task: TaskRow, change: str) -> None:
    """Raises NotAllowed when the task is retired; `change` says what it then refuses."""
    if task.state is TaskState.RETIRED:
        raise NotAllowed(
            f"task {task.name} is retired ({task.retired_reason}): it takes {change}; "
            f"`trunkline task revive {task.name}` brings it back"
        )


@contextmanager
def first_of_its_name(taken: str) -> Iterator[None]:
    """Flush inside: when somebody else committed the same name meanwhile, raises AlreadyExists saying `taken`."""
    try:
        yield
    except IntegrityError as error:
        raise AlreadyExists(taken) from error


def _find(session: Session, table: type[Named], kind: str, name: str) -> Named:
    check_name(kind, name)
    row = session.scalar(select(table).where(table.name == name))
    if row is None:
        near = difflib.get_close_matches(name, session.scalars(select(table.name).order_by(table.name)).all())
        listing = f"`trunkline {kind} list` shows what there is"
        hint = f"did you mean {', '.join(near)}? {listing}" if near else listing
        raise NotFound(f"there is no {kind} {name!r}: {hint}")
    return row
