"""The ledger of trials: each run to its end once, whoever asked for it and whatever was killed.

A trial is held under a lease while somebody runs it. A lease that ran out may be taken over: its trial goes on from
the state that it saved, or, elsewhere, from the beginning.
"""

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from registry.database.schema import SearchRow, SearchTrialRow, TaskRow, TrialRow
from registry.domain.records import Version
from registry.domain.searches import (
    LedgerTrial,
    PlannedTrial,
    Search,
    TrialProgress,
    TrialState,
    state_between_runs,
)
from registry.fault_points import reached
from registry.services.lookups import find_task, lock_task, wanted_pairs


def ask_for(session: Session, search: Search, planned: Sequence[PlannedTrial]) -> None:
    """Enters trials into the ledger and into the search; those that are there already are shared.

    One that `trunkline train` ran is run again, and becomes the version that there is: its curve, which the search
    compares it by, was not kept.
    """
    task = lock_task(session, search.task)
    wanted = {one.key: one for one in planned}
    ours = TrialRow.task_id == task.id, TrialRow.key.in_(wanted)
    known = set(session.scalars(select(TrialRow.key).where(*ours)))
    if unknown := [_waiting(task, one) for one in wanted.values() if one.key not in known]:
        session.execute(insert(TrialRow), unknown)  # all at once; the ORM would add them to SQLite one by one
    trials = {trial.key: trial for trial in session.scalars(select(TrialRow).where(*ours).with_for_update())}
    search_id = session.scalars(
        select(SearchRow.id).where(SearchRow.task_id == task.id, SearchRow.number == search.number)
    ).one()
    members = set(session.scalars(select(SearchTrialRow.trial_id).where(SearchTrialRow.search_id == search_id)))
    added = [trials[key].id for key in wanted if trials[key].id not in members]
    session.add_all(
        SearchTrialRow(search_id=search_id, position=position, trial_id=trial_id)
        for position, trial_id in enumerate(added, start=len(members))
    )
    session.flush()
    reached("search.trials-asked-for")


def claim_trial(
    session: Session,
    task: str,
    key: str,
    *,
    worker: str,
    until: datetime,
    is_gone: Callable[[str], bool],
    at: datetime,
) -> bool:
    """Takes the lease of a trial that is to be run; False where another holds it, or where there is nothing to run."""
    trial = _trial(session, task, key)
    if trial.state in (TrialState.FINISHED, TrialState.FAILED):
        return False
    if trial.state is TrialState.RUNNING and trial.worker is not None and trial.worker != worker:
        assert trial.lease_until is not None  # noqa: S101 - a constraint of the table
        if trial.lease_until > at and not is_gone(trial.worker):
            return False
    trial.state, trial.worker, trial.lease_until = TrialState.RUNNING, worker, until
    session.flush()
    reached("search.trial-claimed")
    return True


def hold_trials(session: Session, task: str, *, worker: str, until: datetime) -> None:
    """Puts off the end of every lease that this worker holds."""
    # One statement, under the task's lock: what was finished or taken over meanwhile is left alone, and no other
    # transaction that locks several trials is met half-way.
    held = update(TrialRow).where(TrialRow.task_id == lock_task(session, task).id, TrialRow.worker == worker)
    session.execute(held.values(lease_until=until))


def pause_trial(session: Session, task: str, key: str, *, worker: str, progress: TrialProgress) -> None:
    """The trial reached its rung, and waits whether it will be promoted."""
    trial = _trial(session, task, key)
    if trial.worker == worker:  # else its lease ran out, and what another does with it counts
        _let_go(trial, TrialState.PAUSED)
        _advance(trial, progress)


def give_back_trial(session: Session, task: str, key: str, *, worker: str, seconds: float, error: str | None) -> None:
    """The attempt broke off; the trial is to be run again.

    Args:
        error: why, where it was not the user's wish.
    """
    trial = _trial(session, task, key)
    if trial.worker == worker:
        _let_go(trial, state_between_runs(trial.epochs_done))
        trial.seconds += seconds
        if error is not None:
            trial.attempts, trial.error = trial.attempts + 1, error


def fail_trial(
    session: Session, task: str, key: str, *, worker: str, seconds: float, error: str, broke_off: bool
) -> None:
    """The trial cannot be finished; the search goes on without it.

    Args:
        broke_off: it might be finished another time: see `forgive_broken_trials`.
    """
    trial = _trial(session, task, key)
    if trial.worker == worker:
        _let_go(trial, TrialState.FAILED)
        trial.seconds += seconds
        trial.error = error
        trial.attempts = trial.attempts + 1 if broke_off else 0  # what diverged after a break diverges again


def forgive_broken_trials(session: Session, search: Search) -> None:
    """Lets trials of a search that failed because their attempts broke off be tried anew.

    Those that diverged would diverge again.
    """
    members = select(SearchTrialRow.trial_id).join(SearchRow, SearchRow.id == SearchTrialRow.search_id)
    ours = members.where(SearchRow.task_id == lock_task(session, search.task).id, SearchRow.number == search.number)
    broken = TrialRow.id.in_(ours), TrialRow.state == TrialState.FAILED, TrialRow.attempts > 0
    for trial in session.scalars(select(TrialRow).where(*broken)):
        trial.attempts = 0
        _let_go(trial, state_between_runs(trial.epochs_done))


def finish_trial(
    session: Session, task: str, key: str, *, version: Version, score: float, progress: TrialProgress
) -> None:
    """The trial became a version, in this same transaction. Whoever held the lease: the outcome is the key's."""
    trial = _trial(session, task, key)
    if trial.state is not TrialState.FINISHED:
        _let_go(trial, TrialState.FINISHED)
        _advance(trial, progress)
        trial.version_number, trial.score, trial.error = version.number, score, None
        session.flush()
        reached("search.trial-finished")


def seconds_spent(session: Session, found: Collection[Version]) -> dict[tuple[str, int], float]:
    """(task, number) -> how long its trial took in all, of those that a search ran: nothing else keeps the time."""
    if not found:
        return {}
    wanted = wanted_pairs({(version.task, version.number) for version in found})
    query = (
        select(TaskRow.name, TrialRow.version_number, TrialRow.seconds)
        .join(TaskRow, TaskRow.id == TrialRow.task_id)
        .join(wanted, (wanted.c.first == TaskRow.name) & (wanted.c.second == TrialRow.version_number))
    )
    return {(task, number): seconds for task, number, seconds in session.execute(query) if number is not None}


def trials_of(session: Session, search_id: int) -> list[LedgerTrial]:
    """The trials of a search, in the order in which it asked for them."""
    rows = session.scalars(
        select(TrialRow)
        .join(SearchTrialRow, SearchTrialRow.trial_id == TrialRow.id)
        .where(SearchTrialRow.search_id == search_id)
        .order_by(SearchTrialRow.position)
    )
    return [
        LedgerTrial.model_validate(
            {
                "key": row.key,
                "shape": row.shape,
                "state": row.state,
                "epochs": row.epochs,
                "epochs_done": row.epochs_done,
                "curve": {int(epoch): value for epoch, value in row.curve.items()},
                "score": row.score,
                "version": row.version_number,
                "error": row.error,
                "attempts": row.attempts,
                "seconds": row.seconds,
                "layer_passes": row.layer_passes,
                "worker": row.worker,
                "lease_until": row.lease_until,
            }
        )
        for row in rows
    ]


def _trial(session: Session, task: str, key: str) -> TrialRow:
    row = find_task(session, task)
    query = select(TrialRow).where(TrialRow.task_id == row.id, TrialRow.key == key).with_for_update()
    return session.scalars(query.execution_options(populate_existing=True)).one()


def _let_go(trial: TrialRow, state: TrialState) -> None:
    trial.state, trial.worker, trial.lease_until = state, None, None


def _advance(trial: TrialRow, progress: TrialProgress) -> None:
    trial.epochs_done = max(trial.epochs_done, progress.epochs_done)
    # What is there stays: rungs were decided by it, and a trial that is begun again elsewhere may differ in a digit.
    trial.curve = {str(epoch): value for epoch, value in progress.curve.items()} | trial.curve
    trial.seconds += progress.seconds
    trial.layer_passes = max(trial.layer_passes, progress.layer_passes)


def _waiting(task: TaskRow, planned: PlannedTrial) -> dict[str, Any]:
    return {
        "task_id": task.id,
        "key": planned.key,
        "shape": planned.shape.model_dump(mode="json"),
        "state": TrialState.WAITING,
        "epochs": planned.epochs,
        "epochs_done": 0,
        "curve": {},
        "attempts": 0,
        "seconds": 0.0,
        "layer_passes": 0.0,
    }
