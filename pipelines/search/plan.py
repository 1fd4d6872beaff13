"""Which runs a search wants next, and what it chooses: a pure function of what is known of its trials.

Nothing here depends on which run ended first, so that a search that was interrupted, or that runs on more workers,
asks for the same runs and ends with the same choice. `docs/search.md` explains the rungs.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, NamedTuple

from registry.domain.searches import (
    Initialisation,
    LedgerTrial,
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
    configurations: int
    """How many configurations reach it."""
    seeds: int
    """Runs of each."""
    stride: int = 1
    """Of so many neighbouring depths one is run, and both ends; the others are judged by those beside them."""


@dataclass(frozen=True)
class Configuration:
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
    return run.until_epoch < trial.epochs and run.until_epoch in trial.curve


@dataclass(frozen=True)
class _Standing:
    """What is known of the trials so far."""

    trials: Mapping[TrialShape, LedgerTrial]

    def has_reached(self, run: Run) -> bool:
        trial = self.trials.get(run.shape)
        return trial is not None and has_reached(trial, run)

    def values(self, configuration: Configuration, rung: Rung) -> list[float]:
        """The configuration's metric at a rung, of every seed that reached it, whatever became of it later."""
        runs = (self.trials[configuration.shape(seed)] for seed in range(rung.seeds))
        return [_value(trial, rung.until_epoch) for trial in runs if not _failed_before(trial, rung.until_epoch)]

    def cannot_reach(self, configuration: Configuration, rung: Rung) -> bool:
        """Whether every run of it failed before it was there."""
        runs = [self.trials.get(configuration.shape(seed)) for seed in range(rung.seeds)]
        return all(trial is not None and _failed_before(trial, rung.until_epoch) for trial in runs)

    def finished(self, configuration: Configuration, seeds: int) -> list[LedgerTrial]:
        found = (self.trials.get(configuration.shape(seed)) for seed in range(seeds))
        return [trial for trial in found if trial is not None and trial.state is TrialState.FINISHED]


def teacher_rungs(configurations: int, *, seeds: int, epochs: int, stride: int = 1) -> list[Rung]:
    """Successive halving over the teachers' configurations (Jamieson and Talwalkar, 2016), a third kept each time.

    All of them for a fifth of the epochs, a third for three fifths (where the paper's recipe is scored for the first
    time), and to the end a ninth, but two at least: the rule of choice needs something to choose from. Each with a
    fifth of the seeds; see `_Stage.contenders` for the others.

    Args:
        stride: of the first rung.
    """
    early, middle, few = math.ceil(epochs / 5), math.ceil(3 * epochs / 5), _first_runs(seeds)
    rungs = [
        Rung(early, configurations, few, stride),
        Rung(middle, min(configurations, max(2, math.ceil(configurations / 3))), few),
        Rung(epochs, min(configurations, max(2, math.ceil(configurations / 9))), few),
    ]
    return [rung for rung, later in zip(rungs, [*rungs[1:], None], strict=True) if later is None or _saves(rung, later)]


def student_rungs(configurations: int, *, seeds: int, epochs: int) -> list[Rung]:
    """The depths of one number of layers: each for a fifth of the epochs, the best one to the end.

    With one fifth of the seeds; see `_Stage.contenders` for the others.
    """
    few = _first_runs(seeds)
    rungs = [Rung(math.ceil(epochs / 5), configurations, few), Rung(epochs, 1, few)]
    return rungs if _saves(*rungs) else rungs[1:]


def _first_runs(seeds: int) -> int:
    return math.ceil(seeds / 5)


def most_runs(seeds: int) -> int:
    """Runs that halving gives a configuration at most: two fifths of what the exhaustive protocol gives each."""
    return math.ceil(2 * seeds / 5)


def depth_stride(layers: Sequence[int]) -> int:
    """Of five neighbouring depths or more the first rung runs every other one: the metric rises and levels off."""
    return 2 if len(layers) >= 5 and max(layers) - min(layers) == len(layers) - 1 else 1


def _saves(rung: Rung, later: Rung) -> bool:
    return rung.until_epoch < later.until_epoch and rung.configurations > later.configurations


def default_student_depths(teacher_depth: int, layers: int, backbone_layers: int) -> tuple[int, ...]:
    """k' from the teacher's own depth to the highest that l layers fit above, with the one half way."""
    highest = backbone_layers - layers
    middle = teacher_depth + math.ceil((highest - teacher_depth) / 2)
    return tuple(sorted({depth for depth in (teacher_depth, middle, highest) if depth >= teacher_depth}))


def student_depths(options: SearchOptions, teacher_depth: int, layers: int, backbone_layers: int) -> tuple[int, ...]:
    """The depths k' that students of so many layers are tried at, below a teacher that leaves after `teacher_depth`."""
    if options.student_depths is None:
        return default_student_depths(teacher_depth, layers, backbone_layers)
    return tuple(depth for depth in options.student_depths if teacher_depth <= depth <= backbone_layers - layers)


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
    teachers = _teacher_stage(options, backbone_layers)
    if (wanted := teachers.next_runs(standing)) is not None:
        return wanted
    chosen = _chosen(teachers.survivors(standing), standing, options.seeds, options.rule)
    if chosen is None:
        return Step(failure=_failure("teacher", trials))
    best = _best_run(standing.finished(chosen.configuration, options.seeds))
    stages = list(_student_stages(options, backbone_layers, chosen.configuration, best))
    unfinished = [step for stage in stages if (step := stage.next_runs(standing)) is not None]
    if unfinished:
        runs = [run for step in unfinished for run in step.wanted]
        return Step(_longest_first(runs), stage=f"students of teacher /{best.version}")
    students: dict[int, int] = {}
    for layers in options.students:
        candidates = [
            configuration for stage in stages for configuration in stage.survivors(standing) if stage.layers == layers
        ]
        picked = _chosen(candidates, standing, options.seeds, "mean")
        if picked is None:
            tried = [one for stage in stages if stage.layers == layers for one in stage.configurations]
            if any(one.attempts for one in _failed_of(tried, standing, options.seeds)):
                return Step(failure=_failure(f"student of {layers} layers", trials))
            continue  # none fits, or all of them diverged, which they would again
        run = _best_run(standing.finished(picked.configuration, options.seeds))
        assert run.version is not None  # noqa: S101 - it is finished
        students[layers] = run.version
    assert best.version is not None  # noqa: S101 - it is finished
    return Step(
        choice=SearchChoice(
            layers=chosen.configuration.layers,
            learning_rate=chosen.configuration.learning_rate,
            teacher=best.version,
            statistic=chosen.statistic,
            students=students,
        )
    )


def _teacher_stage(options: SearchOptions, backbone_layers: int) -> "_Stage":
    configurations = [
        Configuration(layers, backbone_layers - layers, rate)
        for layers in options.layers
        for rate in options.learning_rates
    ]
    count, epochs = len(configurations), options.recipe["epochs"]
    if options.strategy == "exhaustive":
        return _Stage("teachers", configurations, [Rung(epochs, count, options.seeds)])
    rungs = teacher_rungs(count, seeds=options.seeds, epochs=epochs, stride=depth_stride(options.layers))
    return _Stage("teachers", configurations, rungs, smooth=True, seeds=most_runs(options.seeds), rule=options.rule)


def _student_stages(
    options: SearchOptions, backbone_layers: int, taught: Configuration, teacher: LedgerTrial
) -> Iterator["_Stage"]:
    epochs, rate = options.student_recipe["epochs"], taught.learning_rate
    for layers in options.students:
        if layers > taught.layers:
            continue  # no student is larger than its teacher
        depths = student_depths(options, taught.frozen_depth, layers, backbone_layers)
        for initialisation in options.initialisations:
            configurations = [Configuration(layers, depth, rate, teacher.version, initialisation) for depth in depths]
            rungs = (
                [Rung(epochs, len(configurations), options.seeds)]
                if options.strategy == "exhaustive"
                else student_rungs(len(configurations), seeds=options.seeds, epochs=epochs)
            )
            if configurations:
                seeds, enough = most_runs(options.seeds), _score(teacher)
                yield _Stage(f"students of {layers}", configurations, rungs, seeds=seeds, enough=enough)


@dataclass(frozen=True)
class _Stage:
    """Successive halving over some configurations, and more runs of those that may still be chosen."""

    name: str
    configurations: Sequence[Configuration]
    rungs: Sequence[Rung]
    smooth: bool = False
    """Whether neighbouring depths speak for each other."""
    seeds: int = 0
    """Runs of a contender, where the last rung has fewer."""
    rule: Literal["parsimonious", "best", "mean"] = "mean"
    """How one of the survivors will be chosen."""
    enough: float = math.inf
    """A score that no further run need surpass."""

    @property
    def layers(self) -> int:
        return self.configurations[0].layers

    def next_runs(self, standing: _Standing) -> Step | None:
        """The first rung that has not been reached; None when the last one has, with all the runs of contenders."""
        for number, rung in enumerate(self.rungs):
            configurations = self._at(number, standing)
            runs = _runs(_measured(configurations, rung), rung.until_epoch, rung.seeds)
            if rung is self.rungs[-1]:
                runs += _runs(self._certain_contenders(configurations), rung.until_epoch, self.seeds)
            if not all(standing.has_reached(run) for run in runs):
                return Step(_longest_first(runs), stage=f"{self.name}, rung {number + 1} of {len(self.rungs)}")
        runs = _runs(self.contenders(standing), self.rungs[-1].until_epoch, self.seeds)
        if not all(standing.has_reached(run) for run in runs):
            return Step(_longest_first(runs), stage=f"{self.name}, more runs of those in question")
        return None

    def survivors(self, standing: _Standing) -> list[Configuration]:
        """Those that reach the last rung."""
        return self._at(len(self.rungs) - 1, standing)

    def contenders(self, standing: _Standing) -> list[Configuration]:
        """Of the survivors those of which more runs could change what is chosen, or better it.

        By the parsimonious rule none whose mean is reached with fewer layers: more runs of it would cost most, and are
        worth having only if those of the smaller one fall below it. Whoever once was a contender stays one.
        """
        survivors = self.survivors(standing)
        if self.rule != "parsimonious":
            first = {one: standing.finished(one, self.rungs[-1].seeds) for one in survivors}
            return [one for one in survivors if max(map(_score, first[one]), default=-math.inf) < self.enough]
        found = set[Configuration]()
        while True:
            runs = {one: self.seeds if one in found else self.rungs[-1].seeds for one in survivors}
            before = len(found)
            found |= _undominated({one: standing.finished(one, count) for one, count in runs.items()})
            # With runs outstanding this is as far as anybody can tell, whichever of them ends first.
            if len(found) == before or not all(
                standing.has_reached(run) for run in _runs(found, self.rungs[-1].until_epoch, self.seeds)
            ):
                return [one for one in survivors if one in found]

    def _certain_contenders(self, survivors: Sequence[Configuration]) -> list[Configuration]:
        """Those that will be contenders whatever their first runs reach, so that nothing need wait for these."""
        if self.rule == "parsimonious":
            fewest = min(one.layers for one in survivors)
            smallest = [one for one in survivors if one.layers == fewest]
            return smallest if len(smallest) == 1 else []
        return list(survivors) if self.enough == math.inf else []

    def _at(self, number: int, standing: _Standing) -> list[Configuration]:
        configurations = list(self.configurations)
        for before, rung in zip(self.rungs[:number], self.rungs[1:], strict=False):
            configurations = _promoted(configurations, before, rung, standing, smooth=self.smooth)
        return configurations


def _undominated(trials: Mapping[Configuration, Sequence[LedgerTrial]]) -> set[Configuration]:
    """Those whose mean none of as few layers or fewer reaches; and those without a run that ended well."""
    means = {one: fmean(map(_score, finished)) for one, finished in trials.items() if finished}
    found, best = set(trials) - means.keys(), -math.inf
    for one in sorted(means, key=lambda one: (one.layers, -means[one], one.learning_rate)):
        if means[one] > best:
            best = means[one]
            found.add(one)
    return found


def _runs(configurations: Iterable[Configuration], until_epoch: int, seeds: int) -> list[Run]:
    return [Run(one.shape(seed), until_epoch) for one in configurations for seed in range(seeds)]


def _measured(configurations: Sequence[Configuration], rung: Rung) -> list[Configuration]:
    """Those that are run at a rung."""
    fewest, most = (end(one.layers for one in configurations) for end in (min, max))
    return [one for one in configurations if one.layers == fewest or (most - one.layers) % rung.stride == 0]


def _promoted(
    configurations: Sequence[Configuration], rung: Rung, later: Rung, standing: _Standing, *, smooth: bool
) -> list[Configuration]:
    """The best configurations of a rung by their mean, as many as the later one has; of equals the one with fewer
    layers. They are in their order."""
    values = {one: standing.values(one, rung) for one in _measured(configurations, rung)}
    scores = {one: _smoothed(one, values, rung.stride) if smooth else _mean(values[one]) for one in configurations}
    # Its place goes to the next best one, its value here stays with its neighbours.
    scores |= {one: -math.inf for one in configurations if standing.cannot_reach(one, later)}
    best = sorted(
        configurations,
        key=lambda one: (-scores[one], one.layers, one.learning_rate, one.frozen_depth),
    )[: later.configurations]
    return [one for one in configurations if one in best]


def _smoothed(configuration: Configuration, values: Mapping[Configuration, Sequence[float]], stride: int) -> float:
    """The mean over the configuration's runs, counted twice, and those of the next depths that were run, counted once.

    One that was not run is judged by the two beside it. The metric rises with L and levels off (the paper's table 1):
    what separates neighbours is mostly noise.
    """
    if configuration in values and not values[configuration]:
        return -math.inf
    total = weight = 0.0
    for other, of_other in values.items():
        distance = abs(other.layers - configuration.layers) / stride
        if distance <= 1 and other.learning_rate == configuration.learning_rate:
            share = 2 - distance
            total, weight = total + share * sum(of_other), weight + share * len(of_other)
    return total / weight if weight else -math.inf


@dataclass(frozen=True)
class _Chosen:
    configuration: Configuration
    statistic: str


def _chosen(
    configurations: Iterable[Configuration],
    standing: _Standing,
    seeds: int,
    rule: Literal["parsimonious", "best", "mean"],
) -> _Chosen | None:
    """The configuration that the rule takes; None where no configuration has a finished run."""
    scores = {
        configuration: [_score(trial) for trial in standing.finished(configuration, seeds)]
        for configuration in configurations
    }
    scores = {configuration: of_one for configuration, of_one in scores.items() if of_one}
    if not scores:
        return None
    if rule == "best":
        configuration = max(scores, key=lambda configuration: (max(scores[configuration]), -configuration.layers))
        return _Chosen(configuration, _statistic("max", scores[configuration]))
    best = max(scores, key=lambda configuration: (fmean(scores[configuration]), -configuration.layers))
    if rule != "parsimonious":
        return _Chosen(best, _statistic("mean", scores[best]))
    within = fmean(scores[best]) - standard_error(scores.values(), len(scores[best]))
    near = [configuration for configuration in scores if fmean(scores[configuration]) >= within]
    configuration = min(near, key=lambda configuration: (configuration.layers, -fmean(scores[configuration])))
    statistic = _statistic("mean", scores[configuration])
    return _Chosen(
        configuration, statistic if configuration == best else f"{statistic}, within one standard error of the best"
    )


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


def _statistic(name: Literal["mean", "max"], scores: Sequence[float]) -> str:
    return "one run" if len(scores) == 1 else f"{name} of {len(scores)} seeds"


def _failed_before(trial: LedgerTrial, epoch: int) -> bool:
    """Whether it failed on its way to the epoch; what it had reached before it failed stays known."""
    return trial.state is TrialState.FAILED and (epoch >= trial.epochs or epoch not in trial.curve)


def _value(trial: LedgerTrial, epoch: int) -> float:
    """The metric when the trial had reached an epoch, whatever it reached later: a rung compares like with like."""
    return _score(trial) if epoch >= trial.epochs else trial.curve[epoch]


def _score(trial: LedgerTrial) -> float:
    assert trial.score is not None  # noqa: S101 - it is finished
    return trial.score


def _best_run(trials: Sequence[LedgerTrial]) -> LedgerTrial:
    """The highest score; of equals the lowest seed."""
    return max(trials, key=lambda trial: (_score(trial), -trial.shape.seed))


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else -math.inf


def _failed_of(configurations: Sequence[Configuration], standing: _Standing, seeds: int) -> Iterator[LedgerTrial]:
    shapes = (one.shape(seed) for one in configurations for seed in range(seeds))
    found = (standing.trials.get(shape) for shape in shapes)
    return (trial for trial in found if trial is not None and trial.state is TrialState.FAILED)


def _longest_first(runs: Iterable[Run]) -> tuple[Run, ...]:
    return tuple(
        sorted(dict.fromkeys(runs), key=lambda run: (-run.layer_epochs, run.shape.seed, run.shape.frozen_depth))
    )


def _failure(what: str, trials: Sequence[LedgerTrial]) -> str:
    errors = sorted({trial.error for trial in trials if trial.state is TrialState.FAILED and trial.error})
    return f"no {what} reached the end: {'; '.join(errors) or 'nothing was run'}"
