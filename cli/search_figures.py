"""What the pictures of a search show, as plain figures: nothing here draws.

Scores are the task's metric as registered, as fractions. Those of runs that were stopped early are a point of their
curve, in the training precision, and are kept apart from registered ones everywhere.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, quantiles, stdev

from cli.charts import Scale, scale_of
from pipelines.search.choice import standard_error
from registry.domain.searches import Initialisation, LedgerTrial, Search, TrialState


@dataclass(frozen=True)
class Spread:
    """Scores of finished runs that differ in their seed, ascending; at least one."""

    scores: tuple[float, ...]

    @property
    def count(self) -> int:
        return len(self.scores)

    @property
    def lowest(self) -> float:
        return self.scores[0]

    @property
    def highest(self) -> float:
        return self.scores[-1]

    @property
    def mean(self) -> float:
        return fmean(self.scores)

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation (n - 1); None of one run, which has no spread."""
        return stdev(self.scores) if self.count > 1 else None

    @property
    def quartiles(self) -> tuple[float, float, float]:
        """The median in the middle; of one run three times its score."""
        if self.count == 1:
            return self.mean, self.mean, self.mean
        first, median, third = quantiles(self.scores, n=4, method="inclusive")
        return first, median, third


@dataclass(frozen=True)
class Stopped:
    """Runs that are not finished and stand after the same epoch: paused at a rung, or still running."""

    state: TrialState
    epoch: int
    """Of the last score of their curves."""
    epochs: int
    """Of the whole run."""
    values: tuple[float, ...]
    """The curves' last scores, ascending."""


@dataclass(frozen=True)
class Runs:
    """All runs of one configuration, finished and not."""

    finished: Spread | None
    stopped: tuple[Stopped, ...]
    unscored: tuple[tuple[TrialState, int], ...]
    """How many failed, and how many of the others have no score yet, by state."""


@dataclass(frozen=True)
class TeacherRow:
    """One configuration of teachers."""

    layers: int
    """L."""
    learning_rate: float
    runs: Runs
    chosen: bool


@dataclass(frozen=True)
class Band:
    """One standard error around the best mean, as the parsimonious rule reckons it."""

    low: float
    high: float


@dataclass(frozen=True)
class Teachers:
    """The metric by L: Table 1, drawn."""

    rows: tuple[TeacherRow, ...]
    """L ascending, then the learning rate."""
    best: Band | None
    """None while no configuration has two finished runs."""

    @property
    def learning_rates(self) -> int:
        return len({row.learning_rate for row in self.rows})

    @property
    def scale(self) -> Scale:
        """Holds every finished run and the band; points of curves only as far as they do not squeeze those."""
        scored = [score for row in self.rows if row.runs.finished for score in row.runs.finished.scores]
        points = [value for row in self.rows for group in row.runs.stopped for value in group.values]
        if self.best is not None:
            scored += [self.best.low, self.best.high]
        return scale_of(scored or points, points) if points or scored else Scale(0.0, 1.0)


@dataclass(frozen=True)
class StudentCell:
    runs: Runs
    share: float | None
    """The finished runs' mean over the teacher's score; None without either, or where the teacher's is not above 0."""
    chosen: int | None
    """The version that the search chose among them."""


@dataclass(frozen=True)
class StudentGrid:
    """Students of one teacher over (k', l), all begun in one way and with one learning rate."""

    teacher: int
    """Version number."""
    teacher_score: float | None
    """One run's; None where the teacher is not among the search's trials."""
    initialisation: Initialisation | None
    learning_rate: float
    depths: tuple[int, ...]
    """k', ascending."""
    layers: tuple[int, ...]
    """l, ascending."""
    cells: dict[tuple[int, int], StudentCell]
    """By (k', l); a student that the search did not ask for is left out."""


@dataclass(frozen=True)
class InitialisationPair:
    """Students of l layers, begun from their teacher and from the backbone (Fig. 2).

    Only those that have a counterpart: same teacher, depth and learning rate, at least one run of each finished. A
    search stops poor students early, so without this the two sides would stand at different depths.
    """

    layers: int
    """l."""
    teacher: Spread
    backbone: Spread
    depths: tuple[int, ...]
    """k' of the students compared, ascending."""


@dataclass(frozen=True)
class Cost:
    """Layer passes per training example: a layer's forward counts 1, its backward 2."""

    teachers: float
    students: float
    exhaustive: float
    """The paper's protocol over the same grid."""
    seconds: float
    """Spent on all trials."""
    teacher_states: tuple[tuple[TrialState, int], ...]
    student_states: tuple[tuple[TrialState, int], ...]

    @property
    def spent(self) -> float:
        return self.teachers + self.students

    @property
    def share(self) -> float | None:
        """Spent of what the exhaustive protocol costs."""
        return self.spent / self.exhaustive if self.exhaustive > 0 else None


def is_student(trial: LedgerTrial) -> bool:
    return trial.shape.teacher is not None


def teachers_of(search: Search) -> Teachers:
    groups: dict[tuple[int, float], list[LedgerTrial]] = {}
    for trial in search.trials:
        if not is_student(trial):
            groups.setdefault((trial.shape.task_layers, trial.shape.learning_rate), []).append(trial)
    choice = search.choice and (search.choice.layers, search.choice.learning_rate)
    rows = tuple(TeacherRow(*key, _runs(trials), chosen=key == choice) for key, trials in sorted(groups.items()))
    return Teachers(rows, _band([row.runs.finished for row in rows if row.runs.finished is not None]))


def _band(spreads: Sequence[Spread]) -> Band | None:
    if all(spread.count == 1 for spread in spreads):
        return None
    best = max(spreads, key=lambda spread: spread.mean)
    error = standard_error([spread.scores for spread in spreads], best.count)
    return Band(best.mean - error, best.mean + error)


def student_grids(search: Search) -> tuple[StudentGrid, ...]:
    """One for each teacher, initialisation and learning rate: usually one or two. In the order of the trials."""
    groups: dict[tuple[int, Initialisation | None, float], list[LedgerTrial]] = {}
    for trial in search.trials:
        if (teacher := trial.shape.teacher) is not None:
            groups.setdefault((teacher, trial.shape.initialisation, trial.shape.learning_rate), []).append(trial)
    scores = {trial.version: trial.score for trial in search.trials if not is_student(trial)}
    chosen = frozenset(search.choice.students.values()) if search.choice else frozenset[int]()
    grids = []
    for (teacher, initialisation, learning_rate), trials in groups.items():
        score = scores.get(teacher)
        members: dict[tuple[int, int], list[LedgerTrial]] = {}
        for trial in trials:
            members.setdefault((trial.shape.frozen_depth, trial.shape.task_layers), []).append(trial)
        grids.append(
            StudentGrid(
                teacher,
                score,
                initialisation,
                learning_rate,
                depths=tuple(sorted({depth for depth, _ in members})),
                layers=tuple(sorted({layers for _, layers in members})),
                cells={place: _cell(cell, score, chosen) for place, cell in members.items()},
            )
        )
    return tuple(grids)


def initialisation_pairs(search: Search) -> tuple[InitialisationPair, ...]:
    """By l, ascending; none where the search has not finished students of both beginnings."""
    finished: dict[int, dict[tuple[int | None, int, float], dict[Initialisation | None, list[float]]]] = {}
    for trial in search.trials:
        shape = trial.shape
        if is_student(trial) and (score := _score(trial)) is not None:
            condition = (shape.teacher, shape.frozen_depth, shape.learning_rate)
            sides = finished.setdefault(shape.task_layers, {}).setdefault(condition, {})
            sides.setdefault(shape.initialisation, []).append(score)
    pairs = []
    for layers, conditions in sorted(finished.items()):
        both = {condition: sides for condition, sides in conditions.items() if {"teacher", "backbone"} <= sides.keys()}
        if both:
            pairs.append(
                InitialisationPair(
                    layers,
                    teacher=_spread(score for sides in both.values() for score in sides["teacher"]),
                    backbone=_spread(score for sides in both.values() for score in sides["backbone"]),
                    depths=tuple(sorted({depth for _, depth, _ in both})),
                )
            )
    return tuple(pairs)


def cost_of(search: Search) -> Cost:
    students = [trial for trial in search.trials if is_student(trial)]
    teachers = [trial for trial in search.trials if not is_student(trial)]
    return Cost(
        teachers=sum(trial.layer_passes for trial in teachers),
        students=sum(trial.layer_passes for trial in students),
        exhaustive=search.exhaustive_layer_passes,
        seconds=sum(trial.seconds for trial in search.trials),
        teacher_states=_states(teachers),
        student_states=_states(students),
    )


def _cell(trials: Sequence[LedgerTrial], teacher_score: float | None, chosen: frozenset[int]) -> StudentCell:
    runs = _runs(trials)
    share = None
    if runs.finished is not None and teacher_score is not None and teacher_score > 0:
        share = runs.finished.mean / teacher_score
    return StudentCell(runs, share, next((trial.version for trial in trials if trial.version in chosen), None))


def _runs(trials: Sequence[LedgerTrial]) -> Runs:
    scores = [score for trial in trials if (score := _score(trial)) is not None]
    stopped: dict[tuple[TrialState, int, int], list[float]] = {}
    unscored = []
    for trial in trials:
        if _score(trial) is not None:
            continue
        if trial.state is TrialState.FAILED or not trial.curve:
            unscored.append(trial)
            continue
        epoch = max(trial.curve)
        stopped.setdefault((trial.state, epoch, trial.epochs), []).append(trial.curve[epoch])
    return Runs(
        finished=_spread(scores) if scores else None,
        stopped=tuple(Stopped(*key, tuple(sorted(values))) for key, values in sorted(stopped.items())),
        unscored=_states(unscored),
    )


def _score(trial: LedgerTrial) -> float | None:
    return trial.score if trial.state is TrialState.FINISHED else None


def _spread(scores: Iterable[float]) -> Spread:
    return Spread(tuple(sorted(scores)))


def _states(trials: Iterable[LedgerTrial]) -> tuple[tuple[TrialState, int], ...]:
    """In the order in which a trial goes through them; those with none are left out."""
    counts = Counter(trial.state for trial in trials)
    return tuple((state, counts[state]) for state in TrialState if counts[state])
