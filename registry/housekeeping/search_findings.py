"""Searches and the ledger of trials against the versions that came of them: what no foreign key can say."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, select
from sqlalchemy.orm import Session

from registry.database.schema import SearchRow, SearchTrialRow, SpecRevisionRow, TaskRow, TrialRow, VersionRow
from registry.housekeeping.findings import Finding
from registry.housekeeping.row_findings import ROWS_WERE_CHANGED, gap_findings

_LONG_AGO = timedelta(days=1)
_GO_ON = "nothing need be done: whoever runs the same search again takes the trial over and goes on with it"


def search_findings(session: Session) -> Iterator[Finding]:
    """Every contradiction between searches, their trials, and the versions that these became."""
    tasks = {row.id: row.name for row in session.execute(select(TaskRow.id, TaskRow.name))}
    searches = {row.id: row for row in session.scalars(select(SearchRow).order_by(SearchRow.task_id, SearchRow.number))}
    trials = {row.id: row for row in session.scalars(select(TrialRow).order_by(TrialRow.id))}
    yield from _number_findings(tasks, searches)
    yield from _version_findings(session, tasks, trials)
    asked: dict[int, list[SearchTrialRow]] = defaultdict(list)
    for member in session.scalars(select(SearchTrialRow).order_by(SearchTrialRow.search_id, SearchTrialRow.position)):
        asked[member.search_id].append(member)
    for search in searches.values():
        subject = f"search {tasks.get(search.task_id)}#{search.number}"
        members = [trials[member.trial_id] for member in asked[search.id] if member.trial_id in trials]
        positions = [member.position for member in asked[search.id]]
        for problem in (
            _member_problem(search, members, positions),
            _choice_problem(search, {trial.version_number for trial in members} - {None}),
        ):
            if problem is not None:
                yield Finding(subject=subject, problem=problem, remedy=ROWS_WERE_CHANGED)


def search_notes(session: Session, at: datetime) -> Iterator[Finding]:
    """Trials whose worker has not been heard of for long: it was killed, and nobody went on."""
    forgotten = (
        select(TaskRow.name, TrialRow.key, TrialRow.worker, TrialRow.lease_until)
        .join(TaskRow, TaskRow.id == TrialRow.task_id)
        .where(TrialRow.lease_until < at - _LONG_AGO)
        .order_by(TaskRow.name, TrialRow.key)
    )
    for task, key, worker, until in session.execute(forgotten):
        problem = f"is running, but nothing was heard of {worker} since {until:%Y-%m-%d %H:%M} UTC"
        yield Finding(subject=_trial_name(task, key), problem=problem, remedy=_GO_ON)


def _number_findings(tasks: Mapping[int, str], searches: Mapping[int, SearchRow]) -> Iterator[Finding]:
    given: dict[int, list[int]] = defaultdict(list)
    for search in searches.values():
        given[search.task_id].append(search.number)
    for task_id, numbers in given.items():
        yield from gap_findings(f"task {tasks.get(task_id)}", "search", numbers, max(numbers) + 1)


def _version_findings(session: Session, tasks: Mapping[int, str], trials: Mapping[int, TrialRow]) -> Iterator[Finding]:
    """What finished trials say of their versions, and what the versions say."""
    of_version = and_(SpecRevisionRow.task_id == VersionRow.task_id, SpecRevisionRow.number == VersionRow.spec_revision)
    became = {
        trial_id: (version, definition)
        for trial_id, version, definition in session.execute(
            select(TrialRow.id, VersionRow, SpecRevisionRow.definition)
            .join(
                VersionRow, and_(VersionRow.task_id == TrialRow.task_id, VersionRow.number == TrialRow.version_number)
            )
            .join(SpecRevisionRow, of_version)
        )
    }
    for trial in trials.values():
        if trial.version_number is None:
            continue
        problem = f"there is no version {trial.version_number}, which it became"
        if trial.id in became:
            problem = _version_problem(trial, *became[trial.id])
        if problem:
            name = _trial_name(tasks.get(trial.task_id), trial.key)
            yield Finding(subject=name, problem=problem, remedy=ROWS_WERE_CHANGED)


def _version_problem(trial: TrialRow, version: VersionRow, definition: Mapping[str, Any]) -> str:
    if version.trial_key != trial.key:
        return f"it is said to have become version {version.number}, which is of another trial"
    shape = {
        "frozen_depth": version.frozen_depth,
        "task_layers": version.task_layers,
        "seed": version.seed,
        "teacher": version.teacher_number,
    }
    for name, value in shape.items():
        if trial.shape.get(name) != value:
            return f"its {name} is {trial.shape.get(name)}, but that of its version {version.number} is {value}"
    score = version.metrics.get(str(definition.get("metric")))
    return (
        ""
        if trial.score == score
        else f"its score is {trial.score}, but that of its version {version.number} is {score}"
    )


def _member_problem(search: SearchRow, members: list[TrialRow], positions: list[int]) -> str | None:
    if positions != list(range(len(positions))):
        return "its trials are not counted from 0 without gaps"
    others = sum(trial.task_id != search.task_id for trial in members)
    return f"{others} of its trials are another task's" if others else None


def _choice_problem(search: SearchRow, versions: set[int | None]) -> str | None:
    if search.choice is None:
        return None
    chosen = [search.choice.get("teacher"), *search.choice.get("students", {}).values()]
    strangers = [number for number in chosen if number not in versions]
    return f"it chose version {strangers[0]}, which none of its trials became" if strangers else None


def _trial_name(task: str | None, key: str) -> str:
    return f"trial {key[:12]}… of task {task}"
