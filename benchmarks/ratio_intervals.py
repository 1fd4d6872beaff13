"""The ratio of two searches' quality with an interval, over repetitions that share the rows of one dev set."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

Metric = Callable[[Sequence[Any], Sequence[Any]], float]
"""Gold, predicted -> the metric."""


class Pair(NamedTuple):
    """One repetition: what two searches chose, on the rows that neither selected on."""

    rows: Sequence[int]
    """Their numbers in the dev set."""
    one: Sequence[Any]
    """The first search's predictions, one a row."""
    other: Sequence[Any]


class Interval(NamedTuple):
    value: float
    low: float
    high: float


def ratio_of_means(
    pairs: Sequence[Pair], gold: Sequence[Any], metric: Metric, *, draws: int = 2000, seed: int = 0
) -> Interval:
    """Mean metric of the first search over that of the second, and its 95 % percentile interval.

    Two-level bootstrap (Efron and Tibshirani, 1993): each draw takes repetitions with replacement, and rows of the
    whole dev set with replacement, the same rows for all repetitions and both searches: repetitions whose halves
    overlap are not counted as if their rows were fresh.

    Args:
        gold: one target a row of the dev set.
    """
    generator = np.random.default_rng(seed)
    value = _ratio(pairs, [np.arange(len(pair.rows)) for pair in pairs], gold, metric)
    drawn = []
    for _ in range(draws):
        taken = [pairs[number] for number in generator.integers(len(pairs), size=len(pairs))]
        times = np.bincount(generator.integers(len(gold), size=len(gold)), minlength=len(gold))
        places = [np.repeat(np.arange(len(pair.rows)), times[np.asarray(pair.rows, dtype=int)]) for pair in taken]
        if all(len(one) for one in places):
            drawn.append(_ratio(taken, places, gold, metric))
    low, high = np.nanpercentile(drawn, [2.5, 97.5]) if drawn else (float("nan"), float("nan"))
    return Interval(value, float(low), float(high))


def _ratio(pairs: Sequence[Pair], places: Sequence[Any], gold: Sequence[Any], metric: Metric) -> float:
    one = other = 0.0
    for pair, chosen in zip(pairs, places, strict=True):
        truth = [gold[pair.rows[place]] for place in chosen]
        one += metric(truth, [pair.one[place] for place in chosen])
        other += metric(truth, [pair.other[place] for place in chosen])
    return one / other if other else float("nan")
