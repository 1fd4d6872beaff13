"""Which runs a search wants next, and what it chooses: a pure function of what is known of its trials.

Nothing here depends on which run ended first, so that a search that was interrupted, or that runs on more workers,
asks for the same runs and ends with the same choice. `docs/search.md` explains the rungs.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from pipelines.search.choice import choose, in_question
from pipelines.search.rungs import (
    Rung,
    depth_stride,
    measured,
    most_runs,
    ranked,
    student_rungs,
    teacher_rungs,
)
from pipelines.search.runs import Configuration, Run, Standing, best_run, runs_of, score
from registry.domain.searches import LedgerTrial, SearchChoice, SearchOptions, TrialState


@dataclass(frozen=True)
class Step:
    """What a search does next. Without a run that is wanted and without a choice it has failed."""

    wanted: tuple[Run, ...] = ()
    """All of a rung, those that are there already too; the longest first, so that the last ones to end are short."""
    stage: str = ""
    choice: SearchChoice | None = None
    failure: str | None = None


def next_step(options: SearchOptions, backbone_layers: int, trials: Sequence[LedgerTrial]) -> Step:
    """What the search does next, from its options and what is known of its trials."""
    standing = Standing({trial.shape: trial for trial in trials})
    teachers = _teacher_stage(options, backbone_layers)
    if (wanted := teachers.next_runs(standing)) is not None:
        return wanted
    runs = teachers.runs(standing)
    chosen = choose(standing.scores(runs), options.rule)
    if chosen is None:
        return Step(failure=_failure("teacher", trials))
    best = best_run(standing.finished(chosen.configuration, runs[chosen.configuration]))
    stages = list(_student_stages(options, backbone_layers, chosen.configuration, best))
    unfinished = [step for stage in stages if (step := stage.next_runs(standing)) is not None]
    if unfinished:
        wanted_of_all = [run for step in unfinished for run in step.wanted]
        return Step(standing.longest_first(wanted_of_all), stage=f"students of teacher /{best.version}")
    students: dict[int, int] = {}
    for layers in options.students:
        of_size = [stage for stage in stages if stage.layers == layers]
        runs = {one: count for stage in of_size for one, count in stage.runs(standing).items()}
        picked = choose(standing.scores(runs), "mean")
        if picked is None:
            tried = [one for stage in of_size for one in stage.configurations]
            if any(one.attempts for one in _failed_of(tried, standing, options.seeds)):
                return Step(failure=_failure(f"student of {layers} layers", trials))
            continue  # none fits, or all of them diverged, which they would again
        run = best_run(standing.finished(picked.configuration, runs[picked.configuration]))
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
                seeds, enough = most_runs(options.seeds), score(teacher)
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

    def next_runs(self, standing: Standing) -> Step | None:
        """The first rung that has not been reached; None when the last one has, with all the runs of contenders."""
        for number, rung in enumerate(self.rungs):
            configurations = self._at(number, standing)
            runs = runs_of(measured(configurations, rung), rung.until_epoch, rung.seeds)
            if rung is self.rungs[-1]:
                runs += runs_of(self._early_contenders(standing), rung.until_epoch, self.seeds)
            if not all(standing.has_reached(run) for run in runs):
                return Step(standing.longest_first(runs), stage=f"{self.name}, rung {number + 1} of {len(self.rungs)}")
        runs = runs_of(self.contenders(standing), self.rungs[-1].until_epoch, self.seeds)
        if not all(standing.has_reached(run) for run in runs):
            return Step(standing.longest_first(runs), stage=f"{self.name}, more runs of those in question")
        return None

    def survivors(self, standing: Standing) -> list[Configuration]:
        """Those that reach the last rung."""
        return self._at(len(self.rungs) - 1, standing)

    def runs(self, standing: Standing) -> dict[Configuration, int]:
        """Of each survivor, how many of its runs count: there may be others, of a search that wanted more."""
        contenders = self.contenders(standing)
        return {one: self._count(one in contenders) for one in self.survivors(standing)}

    def contenders(self, standing: Standing) -> list[Configuration]:
        """Of the survivors those of which more runs could change what is chosen, or better it.

        By the parsimonious rule those that begin early, and whatever is in question once all runs of those found so far
        have ended. Whoever once was a contender stays one.
        """
        survivors = self.survivors(standing)
        if self.rule != "parsimonious":
            first = standing.scores(dict.fromkeys(survivors, self.rungs[-1].seeds))
            return [one for one in survivors if max(first[one], default=-math.inf) < self.enough]
        found = set(self._early_contenders(standing))
        while True:
            before = len(found)
            found |= in_question(standing.scores({one: self._count(one in found) for one in survivors}))
            # With runs outstanding this is as far as anybody can tell, whichever of them ends first.
            if len(found) == before or not all(
                standing.has_reached(run) for run in runs_of(found, self.rungs[-1].until_epoch, self.seeds)
            ):
                return [one for one in survivors if one in found]

    def _count(self, is_contender: bool) -> int:
        """How many runs a survivor gets."""
        return max(self.rungs[-1].seeds, self.seeds if is_contender else 0)

    def _early_contenders(self, standing: Standing) -> list[Configuration]:
        """Those whose further runs begin with the last rung and wait for nobody.

        By the parsimonious rule the best one of the rung before: most likely it will be in question.
        """
        survivors = self.survivors(standing)
        if self.rule == "parsimonious" and len(survivors) > 1:
            return self._ranked(len(self.rungs) - 1, standing)[:1] if len(self.rungs) > 1 else []
        return survivors if self.enough == math.inf else []

    def _at(self, number: int, standing: Standing) -> list[Configuration]:
        """Those that reach a rung, the best of the one before first."""
        if not number:
            return list(self.configurations)
        return self._ranked(number, standing)[: self.rungs[number].configurations]

    def _ranked(self, number: int, standing: Standing) -> list[Configuration]:
        """Those that reached the rung before this one, the best first."""
        before, rung = self.rungs[number - 1 : number + 1]
        seeds = self._count(is_contender=True) if rung is self.rungs[-1] else rung.seeds
        lost = partial(standing.cannot_reach, epoch=rung.until_epoch, seeds=seeds)
        return ranked(self._at(number - 1, standing), before, standing, smooth=self.smooth, lost=lost)


def _failed_of(configurations: Sequence[Configuration], standing: Standing, seeds: int) -> Iterator[LedgerTrial]:
    shapes = (one.shape(seed) for one in configurations for seed in range(seeds))
    found = (standing.trials.get(shape) for shape in shapes)
    return (trial for trial in found if trial is not None and trial.state is TrialState.FAILED)


def _failure(what: str, trials: Sequence[LedgerTrial]) -> str:
    errors = sorted({trial.error for trial in trials if trial.state is TrialState.FAILED and trial.error})
    return f"no {what} reached the end: {'; '.join(errors) or 'nothing was run'}"
