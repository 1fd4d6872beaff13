"""Tasks: registered by a team, redefined by new spec revisions, retired and revived."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Row, Select, exists, func, select
from sqlalchemy.orm import Session, aliased

from registry.database.schema import AliasRow, AuditEventRow, SpecRevisionRow, TaskRow, TeamRow, VersionRow
from registry.domain.records import PastTask, Retirement, Task, TaskSearch, TaskState
from registry.domain.task_specs import TaskSpec
from registry.errors import AlreadyExists, NotAllowed, NotFound, UsageError
from registry.fault_points import reached
from registry.services.aliases import aliases_at
from registry.services.audit import record_event
from registry.services.lookups import find_task, find_team, first_of_its_name, lock_task

_Successor = aliased(TaskRow)

_RETIRE, _REVIVE = "task.retire", "task.revive"

_RESERVED = {"truncated": "a server calls an output so that says which texts lost their end"}


def register_task(session: Session, spec: TaskSpec, *, team: str, actor: str, at: datetime) -> Task:
    """Creates the task that the spec names, with the spec as revision 1.

    Raises:
        UsageError: a task cannot have this name.
        NotFound: there is no such team.
        AlreadyExists: there is a task of this name.
    """
    refuse_unless_free(session, spec.task, team=team)
    task = TaskRow(
        name=spec.task,
        team_id=find_team(session, team).id,
        state=TaskState.ACTIVE,
        next_version=1,
        next_spec_revision=1,
        created_at=at,
    )
    with first_of_its_name(_taken(spec.task)):
        session.add(task)
        session.flush()
    reached("task.row-written")
    _add_revision(session, task, spec, at)
    after = {"team": team, "spec_revision": 1, "spec": spec.digest()}
    record_event(session, "task.register", f"task {task.name}", actor=actor, at=at, after=after)
    return get_task(session, task.name)


def refuse_unless_free(session: Session, name: str, *, team: str) -> None:
    """Raises what `register_task` would for the task's name and its team."""
    if name in _RESERVED:
        raise UsageError(f"task {name}: {_RESERVED[name]}; choose another name")
    find_team(session, team)
    if session.scalar(select(exists().where(TaskRow.name == name))):
        raise AlreadyExists(_taken(name))


def update_task(session: Session, spec: TaskSpec, *, actor: str, at: datetime) -> Task:
    """Adds a spec revision; a definition that changes nothing adds none.

    Raises:
        NotFound: there is no such task.
    """
    task = lock_task(session, spec.task)
    current = _find_revision(session, task, task.next_spec_revision - 1)
    if current.digest != spec.digest():
        before = {"spec_revision": current.number, "spec": current.digest}
        # Clocks of two machines differ: what was in force at a moment must not go back to an older revision.
        number = _add_revision(session, task, spec, max(at, current.created_at))
        after = {"spec_revision": number, "spec": spec.digest()}
        record_event(session, "task.update", f"task {task.name}", actor=actor, at=at, before=before, after=after)
    return get_task(session, task.name)


def get_task(session: Session, name: str) -> Task:
    """The task as it is now; raises UsageError or NotFound."""
    task = find_task(session, name)
    row = session.execute(_with_parts().where(TaskRow.id == task.id)).one()
    aliases = session.scalars(select(AliasRow).where(AliasRow.task_id == task.id).order_by(AliasRow.name))
    return _record(row, {alias.name: alias.version_number for alias in aliases})


def list_tasks(session: Session) -> list[Task]:
    """All tasks, by name."""
    return find_tasks(session, TaskSearch()).tasks


class FoundTasks(NamedTuple):
    tasks: list[Task]
    found: int
    """How many there are: more than `tasks` when there is a limit."""


def find_tasks(session: Session, search: TaskSearch, *, limit: int | None = None) -> FoundTasks:
    """Tasks by name, the first so many only when there is a limit.

    Raises:
        UsageError, NotFound: the team is no name, or there is none of this name.
    """
    ids = _ids_found(session, search)
    shown = ids[:limit]
    aliases: dict[int, dict[str, int]] = {}
    for alias in session.scalars(select(AliasRow).where(AliasRow.task_id.in_(shown)).order_by(AliasRow.name)):
        aliases.setdefault(alias.task_id, {})[alias.name] = alias.version_number
    rows = session.execute(_with_parts().where(TaskRow.id.in_(shown)).order_by(TaskRow.name))
    return FoundTasks([_record(row, aliases.get(row.TaskRow.id, {})) for row in rows], len(ids))


def task_at(session: Session, name: str, at: datetime) -> PastTask:
    """What the task was at a moment, from what is never changed: revisions, versions, the journal, the audit trail.

    Raises:
        UsageError, NotFound: it is no name, or there is no such task now.
    """
    task = find_task(session, name)
    team = session.scalars(select(TeamRow.name).where(TeamRow.id == task.team_id)).one()
    revision = session.scalar(
        select(SpecRevisionRow)
        .where(SpecRevisionRow.task_id == task.id, SpecRevisionRow.created_at <= at)
        .order_by(SpecRevisionRow.number.desc())
        .limit(1)
    )
    versions = select(func.count()).where(VersionRow.task_id == task.id, VersionRow.created_at <= at)
    retirement = _retirement_at(session, name, at)
    state = None if revision is None else TaskState.ACTIVE if retirement is None else TaskState.RETIRED
    return PastTask(
        task=name,
        team=team,
        at=at,
        state=state,
        retirement=retirement,
        spec_revision=None if revision is None else revision.number,
        spec=None if revision is None else TaskSpec.model_validate(revision.definition),
        version_count=session.scalars(versions).one(),
        aliases=aliases_at(session, name, at),
    )


def _retirement_at(session: Session, name: str, at: datetime) -> Retirement | None:
    """The retirement that was in force at a moment; None: the task was active."""
    after = session.scalar(
        select(AuditEventRow.after)
        .where(AuditEventRow.object == f"task {name}", AuditEventRow.action.in_((_RETIRE, _REVIVE)))
        .where(AuditEventRow.occurred_at <= at)
        .order_by(AuditEventRow.id.desc())
        .limit(1)
    )
    if after is None or after["state"] == TaskState.ACTIVE:
        return None
    return Retirement.model_validate({field: value for field, value in after.items() if field != "state"})


def get_spec(session: Session, name: str, revision: int) -> TaskSpec:
    """One revision of a task's definition; raises UsageError or NotFound."""
    return TaskSpec.model_validate(_find_revision(session, find_task(session, name), revision).definition)


def retire_task(session: Session, name: str, retirement: Retirement, *, actor: str, at: datetime) -> Task:
    """Ends the task: from now on it takes no new version and no move of an alias, and no place in a new release from
    the day of its sunset on, or where it has none, from now on.

    Raises:
        NotFound: there is no such task, or no such successor.
        NotAllowed: it is retired already, or would supersede itself.
    """
    task = lock_task(session, name)
    if task.state is TaskState.RETIRED:
        raise NotAllowed(f"task {name} is retired already ({task.retired_reason})")
    if retirement.superseded_by == name:
        raise NotAllowed(f"task {name} cannot supersede itself: name the task that takes its place")
    if retirement.superseded_by is not None:
        task.superseded_by_id = find_task(session, retirement.superseded_by).id
    task.state = TaskState.RETIRED
    task.retired_at = at
    task.retired_reason = retirement.reason
    task.sunset_on = retirement.sunset_on
    _record_state(session, task, retirement, TaskState.ACTIVE, actor=actor, at=at)
    return get_task(session, name)


def revive_task(session: Session, name: str, *, actor: str, at: datetime) -> Task:
    """Undoes a retirement; raises NotFound, or NotAllowed when the task is active."""
    task = lock_task(session, name)
    retirement = get_task(session, name).retirement
    if retirement is None:
        raise NotAllowed(f"task {name} is not retired: there is nothing to revive")
    task.state = TaskState.ACTIVE
    task.retired_at = task.retired_reason = task.sunset_on = task.superseded_by_id = None
    _record_state(session, task, retirement, TaskState.RETIRED, actor=actor, at=at)
    return get_task(session, name)


def _record_state(
    session: Session, task: TaskRow, retirement: Retirement, was: TaskState, *, actor: str, at: datetime
) -> None:
    active = {"state": TaskState.ACTIVE.value}
    retired = {"state": TaskState.RETIRED.value, **retirement.model_dump(mode="json")}
    action, before, after = (_RETIRE, active, retired) if was is TaskState.ACTIVE else (_REVIVE, retired, active)
    record_event(session, action, f"task {task.name}", actor=actor, at=at, before=before, after=after)


def _add_revision(session: Session, task: TaskRow, spec: TaskSpec, at: datetime) -> int:
    number = task.next_spec_revision
    task.next_spec_revision = number + 1
    session.add(
        SpecRevisionRow(
            task_id=task.id,
            number=number,
            definition=spec.model_dump(mode="json"),
            digest=spec.digest(),
            created_at=at,
        )
    )
    session.flush()
    reached("task.revision-written")
    return number


def _find_revision(session: Session, task: TaskRow, number: int) -> SpecRevisionRow:
    row = session.scalar(
        select(SpecRevisionRow).where(SpecRevisionRow.task_id == task.id, SpecRevisionRow.number == number)
    )
    if row is None:
        raise NotFound(
            f"task {task.name} has no spec revision {number}: it has 1 to {task.next_spec_revision - 1}, "
            f"see `trunkline task show {task.name}`"
        )
    return row


def _ids_found(session: Session, search: TaskSearch) -> list[int]:
    """The tasks that are looked for, by name."""
    query = select(TaskRow.id).order_by(TaskRow.name)
    if search.team is not None:
        query = query.where(TaskRow.team_id == find_team(session, search.team).id)
    if search.state is not None:
        query = query.where(TaskRow.state == search.state)
    if search.alias is not None:
        query = query.where(exists().where(AliasRow.task_id == TaskRow.id, AliasRow.name == search.alias))
    if search.type is None and not search.words:
        return list(session.scalars(query))
    defined = query.add_columns(TaskRow.name, SpecRevisionRow.definition).join(SpecRevisionRow, _current_revision())
    if search.type is not None:
        defined = defined.where(SpecRevisionRow.definition["type"].as_string() == search.type)
    # Compared here, not in SQL: what "in any case" means beyond a to z is not the same in every database.
    return [
        task
        for task, name, definition in session.execute(defined)
        if _has_words(search.words, (name, definition["description"], *definition["labels"]))
    ]


def _has_words(words: Collection[str], texts: Sequence[str]) -> bool:
    folded = [text.casefold() for text in texts]
    return all(any(word.casefold() in text for text in folded) for word in words)


def _current_revision() -> ColumnElement[bool]:
    return (SpecRevisionRow.task_id == TaskRow.id) & (SpecRevisionRow.number == TaskRow.next_spec_revision - 1)


def _with_parts() -> Select[Any]:
    """A task with its team, its current definition, its successor and how many versions it has: one query."""
    versions = select(func.count()).select_from(VersionRow).where(VersionRow.task_id == TaskRow.id).scalar_subquery()
    return (
        select(
            TaskRow,
            TeamRow.name.label("team"),
            SpecRevisionRow,
            _Successor.name.label("superseded_by"),
            versions.label("version_count"),
        )
        .join(TeamRow, TeamRow.id == TaskRow.team_id)
        .join(SpecRevisionRow, _current_revision())
        .outerjoin(_Successor, _Successor.id == TaskRow.superseded_by_id)
    )


def _record(row: Row[Any], aliases: Mapping[str, int]) -> Task:
    task: TaskRow = row.TaskRow
    retirement = None
    if task.retired_reason is not None:
        retirement = Retirement(reason=task.retired_reason, sunset_on=task.sunset_on, superseded_by=row.superseded_by)
    return Task(
        name=task.name,
        team=row.team,
        state=task.state,
        retirement=retirement,
        retired_at=task.retired_at,
        spec=TaskSpec.model_validate(row.SpecRevisionRow.definition),
        spec_revision=row.SpecRevisionRow.number,
        version_count=row.version_count,
        aliases=aliases,
        created_at=task.created_at,
    )


def _taken(name: str) -> str:
    return f"task {name} already exists: to redefine it, run `trunkline task update` with the same file"
