"""The rules of choice: which of some configurations is taken for what its finished runs reached."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from pipelines.search.runs import Configuration

_ROUNDING = 1e-9
"""Of scores that are equal but for how they were summed up."""


@dataclass(frozen=True)
class Chosen:
    configuration: Configuration
    statistic: str
    """What it was chosen by."""


def choose(
    scores: Mapping[Configuration, Sequence[float]], rule: Literal["parsimonious", "best", "mean"]
) -> Chosen | None:
    """The configuration that the rule takes; None where no configuration has a finished run.

    Args:
        scores: of each configuration those of its finished runs.
    """
    scores = {configuration: of_one for configuration, of_one in scores.items() if of_one}
    if not scores:
        return None
    if rule == "best":
        configuration = max(scores, key=lambda configuration: (max(scores[configuration]), -configuration.layers))
        return Chosen(configuration, _statistic("max", scores[configuration]))
    best = max(scores, key=lambda configuration: (fmean(scores[configuration]), -configuration.layers))
    if rule != "parsimonious":
        return Chosen(best, _statistic("mean", scores[best]))
    within = fmean(scores[best]) - standard_error(scores.values(), len(scores[best])) - _ROUNDING
    near = [configuration for configuration in scores if fmean(scores[configuration]) >= within]
    configuration = min(near, key=lambda configuration: (configuration.layers, -fmean(scores[configuration])))
    statistic = _statistic("mean", scores[configuration])
    return Chosen(
        configuration, statistic if configuration == best else f"{statistic}, within one standard error of the best"
    )


def in_question(scores: Mapping[Configuration, Sequence[float]]) -> set[Configuration]:
    """The best mean, what the parsimonious rule would take as things stand, and those without a finished run."""
    found = {configuration for configuration, of_one in scores.items() if not of_one}
    for rule in ("mean", "parsimonious"):
        if (chosen := choose(scores, rule)) is not None:
            found.add(chosen.configuration)
    return found


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
