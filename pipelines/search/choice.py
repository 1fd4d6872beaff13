"""The rules of choice: which of some configurations is taken for what its finished runs reached."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from pipelines.search.runs import Configuration, Standing, score
from registry.domain.searches import LedgerTrial


@dataclass(frozen=True)
class Chosen:
    configuration: Configuration
    statistic: str
    """What it was chosen by."""


def choose(
    configurations: Iterable[Configuration],
    standing: Standing,
    seeds: int,
    rule: Literal["parsimonious", "best", "mean"],
) -> Chosen | None:
    """The configuration that the rule takes; None where no configuration has a finished run."""
    scores = {
        configuration: [score(trial) for trial in standing.finished(configuration, seeds)]
        for configuration in configurations
    }
    scores = {configuration: of_one for configuration, of_one in scores.items() if of_one}
    if not scores:
        return None
    if rule == "best":
        configuration = max(scores, key=lambda configuration: (max(scores[configuration]), -configuration.layers))
        return Chosen(configuration, _statistic("max", scores[configuration]))
    best = max(scores, key=lambda configuration: (fmean(scores[configuration]), -configuration.layers))
    if rule != "parsimonious":
        return Chosen(best, _statistic("mean", scores[best]))
    within = fmean(scores[best]) - standard_error(scores.values(), len(scores[best]))
    near = [configuration for configuration in scores if fmean(scores[configuration]) >= within]
    configuration = min(near, key=lambda configuration: (configuration.layers, -fmean(scores[configuration])))
    statistic = _statistic("mean", scores[configuration])
    return Chosen(
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


def undominated(trials: Mapping[Configuration, Sequence[LedgerTrial]]) -> set[Configuration]:
    """Those whose mean none of as few layers or fewer reaches; and those without a run that ended well."""
    means = {one: fmean(map(score, finished)) for one, finished in trials.items() if finished}
    found, best = set(trials) - means.keys(), -math.inf
    for one in sorted(means, key=lambda one: (one.layers, -means[one], one.learning_rate)):
        if means[one] > best:
            best = means[one]
            found.add(one)
    return found


def _statistic(name: Literal["mean", "max"], scores: Sequence[float]) -> str:
    return "one run" if len(scores) == 1 else f"{name} of {len(scores)} seeds"
