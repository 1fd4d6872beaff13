"""Which runs a search wants next, and what it chooses: a pure function of what is known of its trials.

Nothing here depends on which run ended first, so that a search that was interrupted, or that runs on more workers,
asks for the same runs and ends with the same choice. `docs/search.md` explains the rungs.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import NamedTuple

from registry.domain.searches import (
    Initialisation,
    LedgerTrial,
    Rule,
    SearchChoice,
    SearchOptions,
    TrialShape,
    TrialState,
)


class Run(NamedTuple):
    """A trial that is wanted, up to an epoch."""

    shape: TrialShape
    until_epoch: int

    @property
    def layer_epochs(self) -> int:
        return self.shape.task_layers * self.until_epoch


@dataclass(frozen=True)
class Step:
    """What a search does next. Without a run that is wanted and without a choice it has failed."""

    wanted: tuple[Run, ...] = ()
    """All of a rung, those that are there already too; the longest first, so that the last ones to end are short."""
    stage: str = ""
    choice: SearchChoice | None = None
    failure: str | None = None


@dataclass(frozen=True)
class Rung:
    until_epoch: int
    arms: int
    """How many configurations reach it."""
    seeds: int
    """Runs of each."""


@dataclass(frozen=True)
class Arm:
    """A configuration, of which several seeds may run."""

    layers: int
    """L of a teacher, l of a student."""
    frozen_depth: int
    learning_rate: float
    teacher: int | None = None
    initialisation: Initialisation | None = None

    def shape(self, seed: int) -> TrialShape:
        return TrialShape(
            frozen_depth=self.frozen_depth,
            task_layers=self.layers,
            learning_rate=self.learning_rate,
            seed=seed,
            teacher=self.teacher,
            initialisation=self.initialisation,
        )


def has_reached(trial: LedgerTrial, run: Run) -> bool:
    """Whether nothing is left to do for a run."""
    if trial.state in (TrialState.FINISHED, TrialState.FAILED):
        return True
    return run.until_epoch < trial.epochs and trial.epochs_done >= run.until_epoch


@dataclass(frozen=True)
class _Standing:
    """What is known of the trials so far."""

    trials: Mapping[TrialShape, LedgerTrial]

    def has_reached(self, run: Run) -> bool:
        trial = self.trials.get(run.shape)
        return trial is not None and has_reached(trial, run)

    def values(self, arm: Arm, rung: Rung) -> list[float]:
        """The arm's metric at a rung, of every seed that did not fail."""
        runs = (self.trials[arm.shape(seed)] for seed in range(rung.seeds))
        return [_value(trial, rung.until_epoch) for trial in runs if trial.state is not TrialState.FAILED]

    def finished(self, arm: Arm, seeds: int) -> list[LedgerTrial]:
        found = (self.trials.get(arm.shape(seed)) for seed in range(seeds))
        return [trial for trial in found if trial is not None and trial.state is TrialState.FINISHED]


def teacher_rungs(arms: int, *, seeds: int, epochs: int) -> list[Rung]:
    """Successive halving over the teachers' configurations (Jamieson and Talwalkar, 2016), a third kept each time.

    All of them for a fifth of the epochs, a third for three fifths (where the paper's recipe is scored for the first
    time), and to the end a ninth, but two at least: the rule of choice needs something to choose from. Two fifths of
    the seeds at first, three fifths at the end.
    """
    early, middle = math.ceil(epochs / 5), math.ceil(3 * epochs / 5)
    few, more = math.ceil(2 * seeds / 5), math.ceil(3 * seeds / 5)
    rungs = [
        Rung(early, arms, few),
        Rung(middle, min(arms, max(2, math.ceil(arms / 3))), few),
        Rung(epochs, min(arms, max(2, math.ceil(arms / 9))), more),
    ]
    return [rung for rung, later in zip(rungs, [*rungs[1:], None], strict=True) if later is None or _saves(rung, later)]


def student_rungs(arms: int, *, seeds: int, epochs: int) -> list[Rung]:
    """The depths of one number of layers: one run of each for three tenths of the epochs, the best one to the end."""
    rungs = [Rung(math.ceil(3 * epochs / 10), arms, 1), Rung(epochs, 1, math.ceil(3 * seeds / 5))]
    return rungs if _saves(*rungs) else rungs[1:]


def _saves(rung: Rung, later: Rung) -> bool:
    return rung.until_epoch < later.until_epoch and rung.arms > later.arms


def default_student_depths(teacher_depth: int, layers: int, backbone_layers: int) -> tuple[int, ...]:
    """k' from the teacher's own depth to the highest that l layers fit above, with the one half way."""
    highest = backbone_layers - layers
    middle = teacher_depth + math.ceil((highest - teacher_depth) / 2)
    return tuple(sorted({depth for depth in (teacher_depth, middle, highest) if depth >= teacher_depth}))


def exhaustive_layer_passes(options: SearchOptions, backbone_layers: int) -> float:
    """What the paper's protocol over these depths and seeds costs, per training example.

    Every run computes its frozen layers in every epoch (1 a layer) and trains the others (3 a layer: forward 1,
    backward 2); students leave where the teacher does, which is not known before: the middle L stands for it.
    """
    teachers = [backbone_layers - layers + 3 * layers for layers in options.layers for _ in options.learning_rates]
    middle = options.layers[len(options.layers) // 2]
    students = [backbone_layers - middle + 3 * layers for layers in options.students]
    return float(
        options.seeds * (options.recipe["epochs"] * sum(teachers) + options.student_recipe["epochs"] * sum(students))
    )


def next_step(options: SearchOptions, backbone_layers: int, trials: Sequence[LedgerTrial]) -> Step:
    """What the search does next, from its options and what is known of its trials."""
    standing = _Standing({trial.shape: trial for trial in trials})
    arms = [Arm(layers, backbone_layers - layers, rate) for layers in options.layers for rate in options.learning_rates]
    teachers = _Stage("teachers", arms, _rungs(options, len(arms)), smooth=True)
    if (wanted := teachers.next_runs(standing)) is not None:
        return wanted
    chosen = _chosen(teachers.survivors(standing), standing, teachers.rungs[-1].seeds, options.rule)
    if chosen is None:
        return Step(failure=_failure("teacher", trials))
    best = _best_run(standing.finished(chosen.arm, teachers.rungs[-1].seeds))
    stages = list(_student_stages(options, backbone_layers, chosen.arm, best))
    unfinished = [step for stage in stages if (step := stage.next_runs(standing)) is not None]
    if unfinished:
        runs = [run for step in unfinished for run in step.wanted]
        return Step(_longest_first(runs), stage=f"students of teacher /{best.version}")
    students: dict[int, int] = {}
    for layers in options.students:
        candidates = [arm for stage in stages for arm in stage.survivors(standing) if stage.layers == layers]
        seeds = options.seeds
        picked = _chosen(candidates, standing, seeds, "best_mean")
        if picked is None:
            if candidates:
                return Step(failure=_failure(f"student of {layers} layers", trials))
            continue
        run = _best_run(standing.finished(picked.arm, seeds))
        assert run.version is not None  # noqa: S101 - it is finished
        students[layers] = run.version
    assert best.version is not None  # noqa: S101 - it is finished
    return Step(
        choice=SearchChoice(
            layers=chosen.arm.layers,
            learning_rate=chosen.arm.learning_rate,
            teacher=best.version,
            statistic=chosen.statistic,
            students=students,
        )
    )


def _rungs(options: SearchOptions, arms: int) -> list[Rung]:
    epochs = options.recipe["epochs"]
    if options.strategy == "exhaustive":
        return [Rung(epochs, arms, options.seeds)]
    return teacher_rungs(arms, seeds=options.seeds, epochs=epochs)


def _student_stages(
    options: SearchOptions, backbone_layers: int, taught: Arm, teacher: LedgerTrial
) -> Iterator["_Stage"]:
    epochs, rate = options.student_recipe["epochs"], options.student_recipe["learning_rate"]
    for layers in options.students:
        if layers > taught.layers:
            continue  # no student is larger than its teacher
        depths = options.student_depths or default_student_depths(taught.frozen_depth, layers, backbone_layers)
        fitting = [depth for depth in depths if taught.frozen_depth <= depth <= backbone_layers - layers]
        for initialisation in options.initialisations:
            arms = [Arm(layers, depth, rate, teacher.version, initialisation) for depth in fitting]
            rungs = (
                [Rung(epochs, len(arms), options.seeds)]
                if options.strategy == "exhaustive"
                else student_rungs(len(arms), seeds=options.seeds, epochs=epochs)
            )
            if arms:
                yield _Stage(f"students of {layers}", arms, rungs, smooth=False)


@dataclass(frozen=True)
class _Stage:
    """Successive halving over some configurations."""

    name: str
    arms: Sequence[Arm]
    rungs: Sequence[Rung]
    smooth: bool
    """Whether neighbouring depths speak for each other."""
    layers: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", self.arms[0].layers)

    def next_runs(self, standing: _Standing) -> Step | None:
        """The first rung that has not been reached; None when the last one has."""
        for number, rung in enumerate(self.rungs):
            runs = [
                Run(arm.shape(seed), rung.until_epoch)
                for arm in self._at(number, standing)
                for seed in range(rung.seeds)
            ]
            if not all(standing.has_reached(run) for run in runs):
                return Step(_longest_first(runs), stage=f"{self.name}, rung {number + 1} of {len(self.rungs)}")
        return None

    def survivors(self, standing: _Standing) -> list[Arm]:
        """Those that reach the last rung."""
        return self._at(len(self.rungs) - 1, standing)

    def _at(self, number: int, standing: _Standing) -> list[Arm]:
        arms = list(self.arms)
        for before, rung in zip(self.rungs[:number], self.rungs[1:], strict=False):
            arms = _promoted(arms, before, rung.arms, standing, smooth=self.smooth)
        return arms


def _promoted(arms: Sequence[Arm], rung: Rung, count: int, standing: _Standing, *, smooth: bool) -> list[Arm]:
    """The best `count` arms of a rung by their mean, in their order; of equals the one with fewer layers."""
    values = {arm: standing.values(arm, rung) for arm in arms}
    scores = {arm: _smoothed(arm, values) if smooth else _mean(values[arm]) for arm in arms}
    best = sorted(arms, key=lambda arm: (-scores[arm], arm.layers, arm.learning_rate, arm.frozen_depth))[:count]
    return [arm for arm in arms if arm in best]


def _smoothed(arm: Arm, values: Mapping[Arm, Sequence[float]]) -> float:
    """The mean over the arm's runs, counted twice, and those of the depths next to it, counted once.

    The metric rises with L and levels off (the paper's table 1): what separates neighbours is mostly noise.
    """
    if not values[arm]:
        return -math.inf
    total = weight = 0.0
    for other, of_other in values.items():
        distance = abs(other.layers - arm.layers)
        if distance <= 1 and other.learning_rate == arm.learning_rate:
            share = 2 - distance
            total, weight = total + share * sum(of_other), weight + share * len(of_other)
    return total / weight


@dataclass(frozen=True)
class _Chosen:
    arm: Arm
    statistic: str


def _chosen(arms: Iterable[Arm], standing: _Standing, seeds: int, rule: Rule | str) -> _Chosen | None:
    """The arm that the rule takes; None where no arm has a finished run."""
    scores = {arm: [_score(trial) for trial in standing.finished(arm, seeds)] for arm in arms}
    scores = {arm: of_arm for arm, of_arm in scores.items() if of_arm}
    if not scores:
        return None
    if rule == "best":
        arm = max(scores, key=lambda arm: (max(scores[arm]), -arm.layers))
        return _Chosen(arm, f"max of {_seeds(scores[arm])}")
    best = max(scores, key=lambda arm: (fmean(scores[arm]), -arm.layers))
    if rule != "parsimonious":
        return _Chosen(best, f"mean of {_seeds(scores[best])}")
    within = fmean(scores[best]) - standard_error(scores.values(), len(scores[best]))
    near = [arm for arm in scores if fmean(scores[arm]) >= within]
    arm = min(near, key=lambda arm: (arm.layers, -fmean(scores[arm])))
    statistic = f"mean of {_seeds(scores[arm])}"
    return _Chosen(arm, statistic if arm == best else f"{statistic}, within one standard error of the best")


def standard_error(groups: Iterable[Sequence[float]], count: int) -> float:
    """Of a mean over `count` runs: their spread is estimated from all groups together, each around its own mean.

    0 where no group has two runs.
    """
    squares, degrees = 0.0, 0
    for group in groups:
        mean = fmean(group)
        squares += sum((value - mean) ** 2 for value in group)
        degrees += len(group) - 1
    return math.sqrt(squares / degrees / count) if degrees else 0.0


def _seeds(scores: Sequence[float]) -> str:
    return "one run" if len(scores) == 1 else f"{len(scores)} seeds"


def _value(trial: LedgerTrial, epoch: int) -> float:
    """The metric when the trial had reached an epoch."""
    if epoch >= trial.epochs and trial.score is not None:
        return trial.score
    until = [scored for scored in trial.curve if scored <= epoch]
    if until:
        return trial.curve[max(until)]
    return -math.inf if trial.score is None else trial.score


def _score(trial: LedgerTrial) -> float:
    assert trial.score is not None  # noqa: S101 - it is finished
    return trial.score


def _best_run(trials: Sequence[LedgerTrial]) -> LedgerTrial:
    """The highest score; of equals the lowest seed."""
    return max(trials, key=lambda trial: (_score(trial), -trial.shape.seed))


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else -math.inf


def _longest_first(runs: Iterable[Run]) -> tuple[Run, ...]:
    return tuple(sorted(runs, key=lambda run: (-run.layer_epochs, run.shape.seed, run.shape.frozen_depth)))


def _failure(what: str, trials: Sequence[LedgerTrial]) -> str:
    errors = sorted({trial.error for trial in trials if trial.state is TrialState.FAILED and trial.error})
    return f"no {what} reached the end: {'; '.join(errors) or 'nothing was run'}"
