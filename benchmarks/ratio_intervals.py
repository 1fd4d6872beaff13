"""The ratio of two searches' quality with an interval, over repetitions that share the rows of one dev set."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

Values = np.ndarray[Any, Any]
Metric = Callable[[Values, Values], float]
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
    pairs: Sequence[Pair], gold: Sequence[Any], metric: Metric, *, draws: int = 1000, seed: int = 0
) -> Interval:
    """Mean metric of the first search over that of the second, and its 95 % percentile interval.

    Two-level bootstrap (Efron and Tibshirani, 1993): each draw takes repetitions with replacement, and rows of the
    whole dev set with replacement, the same rows for all repetitions and both searches: repetitions whose halves
    overlap are not counted as if their rows were fresh.

    Args:
        gold: one target a row of the dev set.
    """
    truth = np.asarray(gold)
    known = [tuple(map(np.asarray, pair)) for pair in pairs]
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(draws):
        taken = [known[number] for number in generator.integers(len(known), size=len(known))]
        times = np.bincount(generator.integers(len(truth), size=len(truth)), minlength=len(truth))
        repeated = [
            tuple(np.repeat(values, times[rows]) for values in (rows, one, other)) for rows, one, other in taken
        ]
        if all(len(rows) for rows, _, _ in repeated):
            drawn.append(_ratio(repeated, truth, metric))
    low, high = np.nanpercentile(drawn, [2.5, 97.5]) if drawn else (float("nan"), float("nan"))
    return Interval(_ratio(known, truth, metric), float(low), float(high))


def _ratio(pairs: Sequence[tuple[Values, ...]], gold: Values, metric: Metric) -> float:
    ours = sum(metric(gold[rows], one) for rows, one, _ in pairs)
    theirs = sum(metric(gold[rows], other) for rows, _, other in pairs)
    return ours / theirs if theirs else float("nan")
