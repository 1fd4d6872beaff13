"""Depth searches: one for everything that decides its outcome, driven by one process at a time."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy import Select, and_, func, select
from sqlalchemy.orm import Session

from registry.database.schema import BackboneRow, SearchRow, SearchTrialRow, SpecRevisionRow, TaskRow, TrialRow
from registry.domain.searches import NewSearch, Search, SearchChoice, SearchState, TrialState, process_words
from registry.domain.task_specs import TaskSpec
from registry.errors import Conflict, LostRace, NotAllowed, NotFound
from registry.fault_points import reached
from registry.services.audit import record_event
from registry.services.lookups import find_backbone, find_task, lock_task, refuse_if_retired
from registry.services.trials import trials_of

_Found = Select[SearchRow, str, str, int, dict[str, Any]]

IsGone = Callable[[str], bool]
"""Whether a process that holds a lease is known to be gone, so that nobody need wait for the lease to end."""


def begin_search(
    session: Session, new: NewSearch, *, runner: str, until: datetime, is_gone: IsGone, actor: str, at: datetime
) -> Search:
    """The search of this key, driven by `runner` from now on: a new one, or the one that was interrupted.

    One that is finished is given back as it is.

    Raises:
        Conflict: another process drives it.
        NotFound, NotAllowed: there is no such task or backbone, or the task is retired.
    """
    task = lock_task(session, new.task)
    refuse_if_retired(task, "no searches")
    row = session.scalar(select(SearchRow).where(SearchRow.task_id == task.id, SearchRow.key == new.key))
    if row is None:
        # Searches are never deleted and the task is locked: the next number is one more than their count.
        count = session.scalars(select(func.count()).where(SearchRow.task_id == task.id)).one()
        row = SearchRow(
            task_id=task.id,
            number=count + 1,
            key=new.key,
            spec_revision=new.spec_revision,
            backbone_id=find_backbone(session, new.backbone).id,
            train_digest=new.train_digest,
            dev_digest=new.dev_digest,
            options=new.options.model_dump(mode="json"),
            state=SearchState.RUNNING,
            exhaustive_layer_passes=new.exhaustive_layer_passes,
            created_at=at,
            created_by=actor,
        )
        session.add(row)
        session.flush()
        reached("search.row-written")
        record_event(
            session,
            "search.begin",
            f"search {task.name}#{row.number}",
            actor=actor,
            at=at,
            after=new.model_dump(mode="json", include={"spec_revision", "backbone", "options"}),
        )
    elif row.runner not in (None, runner) and _holds(row, at) and not is_gone(str(row.runner)):
        raise Conflict(
            f"search {task.name}#{row.number} is being run by {process_words(str(row.runner))}: wait for it, or stop "
            f"it; `trunkline search show {task.name}` shows how far it is"
        )
    if row.state is SearchState.RUNNING:
        row.runner, row.runner_until = runner, until
        session.flush()
    return _record(session, row)


def hold_search(session: Session, search: Search, *, until: datetime) -> None:
    """Says that the runner lives, and finds out whether the task still is what it searches for.

    Raises:
        LostRace: the lease ran out, and another process took the search over, or finished it.
        NotAllowed: the task was retired.
        Conflict: the task was redefined.
    """
    task = lock_task(session, search.task)
    row = _row(session, task, search.number)
    if row.runner is None or row.runner != search.runner:
        other = process_words(row.runner) if row.runner else "another process, which has ended"
        raise LostRace(
            f"search {search.task}#{search.number} was taken over by {other}, because this process had not been heard "
            f"of for too long; what it had finished is kept: `trunkline search show {search.task}` shows it"
        )
    _refuse_if_changed(session, task, search)
    row.runner_until = until


def leave_search(session: Session, search: Search) -> None:
    """Gives the search back, to be gone on with by anybody; one that another process took over is left alone."""
    row = _row(session, lock_task(session, search.task), search.number)
    if row.runner == search.runner:
        row.runner = row.runner_until = None


def name_mlflow_run(session: Session, search: Search, run: str) -> None:
    """Keeps the search's parent run; the first one that is named stays."""
    row = _row(session, lock_task(session, search.task), search.number)
    row.mlflow_run = row.mlflow_run or run


def finish_search(session: Session, search: Search, choice: SearchChoice, *, actor: str, at: datetime) -> Search:
    """Writes down what was chosen; a search that is finished already is left as it is.

    Raises:
        NotAllowed, Conflict: the task was retired or redefined.
    """
    task = lock_task(session, search.task)
    row = _row(session, task, search.number)
    if row.state is SearchState.RUNNING:
        _refuse_if_changed(session, task, search)
        row.state, row.choice, row.finished_at = SearchState.FINISHED, choice.model_dump(mode="json"), at
        row.runner = row.runner_until = None
        session.flush()
        reached("search.choice-written")
        record_event(
            session,
            "search.finish",
            f"search {task.name}#{row.number}",
            actor=actor,
            at=at,
            after={"choice": choice.model_dump(mode="json")},
        )
    return _record(session, row)


def can_go_on(session: Session, search: Search) -> bool:
    """Whether the task still is what is searched for."""
    try:
        _refuse_if_changed(session, find_task(session, search.task), search)
    except (NotAllowed, Conflict):
        return False
    return True


def keys_of_no_use(session: Session, task_name: str) -> set[str]:
    """Trials of the task whose saved states nobody will read: those of its finished searches, and of searches for
    definitions that are no longer in force, but for what another search may go on with."""
    task = find_task(session, task_name)
    query = (
        select(TrialRow.key, TrialRow.state, SearchRow.spec_revision, SearchRow.state)
        .join(SearchTrialRow, SearchTrialRow.trial_id == TrialRow.id)
        .join(SearchRow, SearchRow.id == SearchTrialRow.search_id)
        .where(SearchRow.task_id == task.id)
    )
    found = session.execute(query).all()
    in_force = _meaning(session, task, task.next_spec_revision - 1)
    revisions = {revision for _, _, revision, _ in found}
    outdated = {revision for revision in revisions if _meaning(session, task, revision) != in_force}
    wanted = {
        key
        for key, trial_state, revision, state in found
        if state is SearchState.RUNNING and revision not in outdated and trial_state is not TrialState.FINISHED
    }
    return {key for key, *_ in found} - wanted


def get_search(session: Session, task: str, number: int | None = None) -> Search:
    """A search with its trials: the newest of the task, or the one of this number; raises NotFound."""
    found = find_task(session, task)
    if number is not None:
        return _record(session, _row(session, found, number))
    newest = session.scalar(
        select(SearchRow).where(SearchRow.task_id == found.id).order_by(SearchRow.number.desc()).limit(1)
    )
    if newest is None:
        raise NotFound(f"task {task} has not been searched yet: `trunkline search {task}` does")
    return _record(session, newest)


def list_searches(session: Session, task: str | None = None) -> list[Search]:
    """Searches without their trials, by task and number; of one task when it is named."""
    query = _with_names().order_by(TaskRow.name, SearchRow.number)
    if task is not None:
        query = query.where(SearchRow.task_id == find_task(session, task).id)
    return _records(session, query)


def _refuse_if_changed(session: Session, task: TaskRow, search: Search) -> None:
    refuse_if_retired(task, "no new versions")
    current = task.next_spec_revision - 1
    if current != search.spec_revision and _meaning(session, task, current) != _meaning(
        session, task, search.spec_revision
    ):
        raise Conflict(
            f"task {search.task} was redefined (spec revision {current}) while revision {search.spec_revision} was "
            "searched: run the search again for the new definition; what was finished stays registered"
        )


def _holds(row: SearchRow, at: datetime) -> bool:
    return row.runner_until is not None and row.runner_until > at


def _row(session: Session, task: TaskRow, number: int) -> SearchRow:
    query = select(SearchRow).where(SearchRow.task_id == task.id, SearchRow.number == number)
    row = session.scalar(query.execution_options(populate_existing=True))
    if row is None:
        raise NotFound(f"task {task.name} has no search {number}: `trunkline search list {task.name}` lists them")
    return row


def _meaning(session: Session, task: TaskRow, revision: int) -> str:
    definition = session.scalars(
        select(SpecRevisionRow.definition).where(SpecRevisionRow.task_id == task.id, SpecRevisionRow.number == revision)
    ).one()
    return TaskSpec.model_validate(definition).meaning_digest()


def _record(session: Session, row: SearchRow) -> Search:
    (record,) = _records(session, _with_names().where(SearchRow.id == row.id))
    return record.model_copy(update={"trials": tuple(trials_of(session, row.id))})


def _with_names() -> _Found:
    """Searches, each with its task's name, its backbone, and the definition that it searches for."""
    revision = and_(SpecRevisionRow.task_id == SearchRow.task_id, SpecRevisionRow.number == SearchRow.spec_revision)
    return (
        select(SearchRow, TaskRow.name, BackboneRow.name, BackboneRow.layer_count, SpecRevisionRow.definition)
        .join(TaskRow, TaskRow.id == SearchRow.task_id)
        .join(BackboneRow, BackboneRow.id == SearchRow.backbone_id)
        .join(SpecRevisionRow, revision)
    )


def _records(session: Session, query: _Found) -> list[Search]:
    return [
        Search.model_validate(
            {
                "task": task,
                "number": row.number,
                "key": row.key,
                "spec_revision": row.spec_revision,
                "backbone": backbone,
                "backbone_layers": layer_count,
                "metric": definition["metric"],
                "train_digest": row.train_digest,
                "dev_digest": row.dev_digest,
                "options": row.options,
                "state": row.state,
                "choice": row.choice,
                "exhaustive_layer_passes": row.exhaustive_layer_passes,
                "mlflow_run": row.mlflow_run,
                "runner": row.runner,
                "runner_until": row.runner_until,
                "created_at": row.created_at,
                "created_by": row.created_by,
                "finished_at": row.finished_at,
            }
        )
        for row, task, backbone, layer_count, definition in session.execute(query)
    ]
