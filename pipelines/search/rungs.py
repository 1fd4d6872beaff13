"""The rungs of successive halving: how many configurations reach each, and which."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from pipelines.search.runs import Configuration, Standing


@dataclass(frozen=True)
class Rung:
    until_epoch: int
    configurations: int
    """How many configurations reach it."""
    seeds: int
    """Runs of each."""
    stride: int = 1
    """Of so many neighbouring depths one is run, and both ends; the others are judged by those beside them."""


def teacher_rungs(configurations: int, *, seeds: int, epochs: int, stride: int = 1) -> list[Rung]:
    """Successive halving over the teachers' configurations (Jamieson and Talwalkar, 2016), a third kept each time.

    All of them for a fifth of the epochs, a third for three fifths (where the paper's recipe is scored for the first
    time), and to the end a ninth, but two at least: the rule of choice needs something to choose from. Each with a
    fifth of the seeds; see `_Stage.contenders` in `plan.py` for the others.

    Args:
        stride: of the first rung.
    """
    early, middle, few = math.ceil(epochs / 5), math.ceil(3 * epochs / 5), first_runs(seeds)
    rungs = [
        Rung(early, configurations, few, stride),
        Rung(middle, min(configurations, max(2, math.ceil(configurations / 3))), few),
        Rung(epochs, min(configurations, max(2, math.ceil(configurations / 9))), few),
    ]
    return [rung for rung, later in zip(rungs, [*rungs[1:], None], strict=True) if later is None or _saves(rung, later)]


def student_rungs(configurations: int, *, seeds: int, epochs: int) -> list[Rung]:
    """The depths of one number of layers: each for a fifth of the epochs, the best one to the end.

    With one fifth of the seeds; see `_Stage.contenders` in `plan.py` for the others.
    """
    few = first_runs(seeds)
    rungs = [Rung(math.ceil(epochs / 5), configurations, few), Rung(epochs, 1, few)]
    return rungs if _saves(*rungs) else rungs[1:]


def first_runs(seeds: int) -> int:
    """Runs of a configuration at every rung: a fifth of what the exhaustive protocol gives each."""
    return math.ceil(seeds / 5)


def most_runs(seeds: int) -> int:
    """Runs that halving gives a configuration at most: two fifths of what the exhaustive protocol gives each."""
    return math.ceil(2 * seeds / 5)


def depth_stride(layers: Sequence[int]) -> int:
    """Of five neighbouring depths or more the first rung runs every other one: the metric rises and levels off."""
    return 2 if len(layers) >= 5 and max(layers) - min(layers) == len(layers) - 1 else 1


def _saves(rung: Rung, later: Rung) -> bool:
    return rung.until_epoch < later.until_epoch and rung.configurations > later.configurations


def measured(configurations: Sequence[Configuration], rung: Rung) -> list[Configuration]:
    """Those that are run at a rung."""
    fewest, most = (end(one.layers for one in configurations) for end in (min, max))
    return [one for one in configurations if one.layers == fewest or (most - one.layers) % rung.stride == 0]


def ranked(
    configurations: Sequence[Configuration],
    rung: Rung,
    standing: Standing,
    *,
    smooth: bool,
    lost: Callable[[Configuration], bool],
) -> list[Configuration]:
    """The configurations of a rung, the best mean first; of equals the one with fewer layers.

    Args:
        lost: one that all its runs to the next rung failed for. Its place goes to the next best one, what it reached
            here stays with its neighbours.
    """
    values = {
        one: standing.values(one, epoch=rung.until_epoch, seeds=rung.seeds) for one in measured(configurations, rung)
    }
    scores = {one: _smoothed(one, values, rung.stride) if smooth else _mean(values[one]) for one in configurations}
    scores |= dict.fromkeys(filter(lost, configurations), -math.inf)
    return sorted(
        configurations,
        key=lambda one: (-scores[one], one.layers, one.learning_rate, one.frozen_depth),
    )


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


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else -math.inf
