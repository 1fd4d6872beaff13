"""Runs that a search may want, and what is known of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from registry.domain.searches import Initialisation, LedgerTrial, TrialShape, TrialState


class Run(NamedTuple):
    """A trial that is wanted, up to an epoch."""

    shape: TrialShape
    until_epoch: int


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


def runs_of(configurations: Iterable[Configuration], until_epoch: int, seeds: int) -> list[Run]:
    """Of each configuration a run with every seed."""
    return [Run(one.shape(seed), until_epoch) for one in configurations for seed in range(seeds)]


def has_reached(trial: LedgerTrial, run: Run) -> bool:
    """Whether nothing is left to do for a run."""
    if trial.state in (TrialState.FINISHED, TrialState.FAILED):
        return True
    return run.until_epoch < trial.epochs and run.until_epoch in trial.curve


def score(trial: LedgerTrial) -> float:
    """The metric of a trial that has finished."""
    assert trial.score is not None  # noqa: S101 - it is finished
    return trial.score


def best_run(trials: Sequence[LedgerTrial]) -> LedgerTrial:
    """The highest score; of equals the lowest seed."""
    return max(trials, key=lambda trial: (score(trial), -trial.shape.seed))


@dataclass(frozen=True)
class Standing:
    """What is known of the trials so far."""

    trials: Mapping[TrialShape, LedgerTrial]

    def has_reached(self, run: Run) -> bool:
        trial = self.trials.get(run.shape)
        return trial is not None and has_reached(trial, run)

    def longest_first(self, runs: Iterable[Run]) -> tuple[Run, ...]:
        """Each once, what has most left to do first, so that the last ones to end are short."""

        def left(run: Run) -> int:
            done = self.trials[run.shape].epochs_done if run.shape in self.trials else 0
            return run.shape.task_layers * (run.until_epoch - done)

        return tuple(sorted(dict.fromkeys(runs), key=lambda run: (-left(run), run.shape.seed, run.shape.frozen_depth)))

    def values(self, configuration: Configuration, *, epoch: int, seeds: int) -> list[float]:
        """The configuration's metric at an epoch, of every seed that reached it, whatever became of it later."""
        runs = (self.trials[configuration.shape(seed)] for seed in range(seeds))
        return [_value(trial, epoch) for trial in runs if not _failed_before(trial, epoch)]

    def cannot_reach(self, configuration: Configuration, *, epoch: int, seeds: int) -> bool:
        """Whether every run of it failed before it was there."""
        runs = [self.trials.get(configuration.shape(seed)) for seed in range(seeds)]
        return all(trial is not None and _failed_before(trial, epoch) for trial in runs)

    def finished(self, configuration: Configuration, seeds: int) -> list[LedgerTrial]:
        """Those of its runs that ended well, by seed."""
        found = (self.trials.get(configuration.shape(seed)) for seed in range(seeds))
        return [trial for trial in found if trial is not None and trial.state is TrialState.FINISHED]

    def scores(self, runs: Mapping[Configuration, int]) -> dict[Configuration, list[float]]:
        """Of each configuration the metric of those of so many runs that ended well."""
        return {one: [score(trial) for trial in self.finished(one, count)] for one, count in runs.items()}


def _failed_before(trial: LedgerTrial, epoch: int) -> bool:
    """Whether it failed on its way to the epoch; what it had reached before it failed stays known."""
    return trial.state is TrialState.FAILED and (epoch >= trial.epochs or epoch not in trial.curve)


def _value(trial: LedgerTrial, epoch: int) -> float:
    """The metric when the trial had reached an epoch, whatever it reached later: a rung compares like with like."""
    return score(trial) if epoch >= trial.epochs else trial.curve[epoch]
