"""What is finished of the paper's tables: the runs of every shape, read from a home, with their scores."""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from benchmark_tasks import half_rows
from glue_setting import GlueSetting

from pipelines.data.predictions import DevPredictions
from pipelines.planning import Candidate
from pipelines.training.metrics import drawn_metric
from registry.artifacts.local_store import LocalArtifactStore
from registry.database.engine import Database
from registry.domain.references import VersionReference
from registry.domain.searches import LedgerTrial, TrialShape, TrialState
from registry.services import searches, versions

STATISTICS: Mapping[str, Callable[[Sequence[float]], float]] = {"max": max, "mean": fmean}


class Score(NamedTuple):
    """Of one finished run, in points."""

    chosen_by: float
    """On the rows that choose."""
    reported: float
    """On the rows that figures are of; with one dev set the same."""


class Cell(NamedTuple):
    """All runs of one shape."""

    frozen_depth: int
    layers: int
    scores: tuple[Score, ...]

    def chosen_by(self, statistic: str) -> float:
        return STATISTICS[statistic]([score.chosen_by for score in self.scores])

    def reported(self, statistic: str) -> float:
        """The mean of all runs; of the maximum, the run that it chose."""
        if statistic == "max":
            return max(self.scores, key=lambda score: score.chosen_by).reported
        return fmean(score.reported for score in self.scores)

    def branch(self, statistic: str) -> Candidate:
        return Candidate(self.frozen_depth, self.layers, self.chosen_by(statistic))


@dataclass(frozen=True)
class TaskCells:
    """What is finished of one task."""

    teachers: Mapping[int, Cell]
    """By L."""
    taught: Mapping[int, Mapping[tuple[int, int], Cell]]
    """L of the teacher -> (k', l) -> students."""
    full: Cell | None

    def best_teacher(self, statistic: str, within: Sequence[int]) -> Cell | None:
        """Of equals the one with fewer layers."""
        found = [self.teachers[layers] for layers in sorted(within) if layers in self.teachers]
        return max(found, key=lambda cell: cell.chosen_by(statistic), default=None)


@dataclass(frozen=True)
class FinishedRun:
    """One trial that ended as a version."""

    shape: TrialShape
    version: int
    points: float
    """The task's metric on all dev data."""
    predictions: DevPredictions


def finished_runs(setting: GlueSetting, task: str) -> list[FinishedRun]:
    """Those of all searches of a task, each once, with the recipe of this setting."""
    file = setting.home.folder / "registry.db"
    if not file.exists():
        return []
    store = LocalArtifactStore(setting.home.folder / "artifacts")
    database = Database.open(f"sqlite:///{file}")
    try:
        with database.read() as session:
            name = setting.spec(task).task
            return [
                _finished_run(trial, store.read(versions.get_version(session, reference).dev_predictions), reference)
                for trial in _finished_trials(session, setting, name)
                if (reference := VersionReference(task=name, number=trial.version or 0))
            ]
    finally:
        database.close()


def _finished_trials(session: Any, setting: GlueSetting, task: str) -> list[LedgerTrial]:
    found: dict[str, LedgerTrial] = {}
    for search in searches.list_searches(session, task):
        epochs = search.options.recipe["epochs"], search.options.student_recipe["epochs"]
        if epochs == (setting.epochs, setting.student_epochs):
            for trial in searches.get_search(session, task, search.number).trials:
                if trial.state is TrialState.FINISHED and trial.shape.seed < setting.seeds:
                    found[trial.key] = trial
    return list(found.values())


def _finished_run(trial: LedgerTrial, predictions: bytes, reference: VersionReference) -> FinishedRun:
    assert trial.score is not None  # noqa: S101 - it is finished
    kept = DevPredictions.parse(predictions, str(reference))
    return FinishedRun(trial.shape, reference.number, 100 * trial.score, kept)


def on_all_dev(run: FinishedRun) -> Score:
    """As in the paper, one dev set chooses and is reported."""
    return Score(run.points, run.points)


def on_halves(setting: GlueSetting, task: str, split: int) -> Callable[[FinishedRun], Score]:
    """One half of dev chooses, the other is reported; the epoch of a run was chosen on both."""
    rows = setting.files(task).dev
    halves = [np.array(half_rows(rows, half, split)) for half in "ab"]
    spec = setting.spec(task)

    def score(run: FinishedRun) -> Score:
        metric = drawn_metric(spec, run.predictions.gold, run.predictions.predicted)
        return Score(*(100 * metric(half) for half in halves))

    return score


def task_cells(
    runs: Sequence[FinishedRun], score: Callable[[FinishedRun], Score], *, backbone_layers: int, full: Cell | None
) -> TaskCells:
    teachers: dict[int, list[Score]] = defaultdict(list)
    students: dict[tuple[int, int, int], list[Score]] = defaultdict(list)
    layers_of = {run.version: run.shape.task_layers for run in runs if run.shape.teacher is None}
    for run in runs:
        shape = run.shape
        if shape.teacher is None:
            teachers[shape.task_layers].append(score(run))
        elif shape.teacher in layers_of:
            students[layers_of[shape.teacher], shape.frozen_depth, shape.task_layers].append(score(run))
    taught: dict[int, dict[tuple[int, int], Cell]] = defaultdict(dict)
    for (layers, depth, few), scores in students.items():
        taught[layers][depth, few] = Cell(depth, few, tuple(scores))
    return TaskCells(
        {layers: Cell(backbone_layers - layers, layers, tuple(scores)) for layers, scores in teachers.items()},
        taught,
        full,
    )


def full_cell(setting: GlueSetting, task: str) -> Cell | None:
    """Full fine-tuning, each run at the best of its scored epochs."""
    files = [setting.full_file(task, seed) for seed in range(setting.full_seeds)]
    best = [100 * max(json.loads(file.read_bytes())["scores"].values()) for file in files if file.exists()]
    return Cell(0, setting.backbone_layers, tuple(Score(value, value) for value in best)) if best else None
