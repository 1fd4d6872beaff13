"""The regression gate: a paired bootstrap over the dev rows that two versions of a task both answered."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.data.predictions import DevPredictions
from pipelines.training.metrics import drawn_metric
from registry.domain.task_specs import TaskSpec

DRAWS = 1000
CONFIDENCE = 0.95


class Difference(NamedTuple):
    """Of a new version's metric from an old one's, in points."""

    old: float
    new: float
    low: float
    high: float
    """Percentile interval of new - old."""

    @property
    def change(self) -> float:
        return self.new - self.old

    def is_worse(self, tolerance: float) -> bool:
        """Whether the drop is significant, the whole interval lying below 0, and above the tolerance, in points."""
        return self.high < 0 and -self.change > tolerance


def difference(
    spec: TaskSpec, old: DevPredictions, new: DevPredictions, *, draws: int = DRAWS, seed: int = 0
) -> Difference:
    """Compares two versions' predictions of the same rows.

    The paired bootstrap (Efron and Tibshirani, 1993; Koehn, 2004, for its use on test sets): rows are drawn with
    replacement, the same for both, and the metric of each is computed anew, so that rows which both get right or wrong
    alike add no noise. Rows on which both answer the same are drawn too: they are part of the metric.

    Raises:
        ValueError: the two are not of the same rows.
    """
    if list(map(_plain, old.gold)) != list(map(_plain, new.gold)):
        raise ValueError("the predictions are of other dev rows")
    metrics = [drawn_metric(spec, old.gold, one.predicted) for one in (old, new)]

    def values(rows: NDArray[np.integer[Any]]) -> tuple[float, float]:
        before, after = (100 * metric(rows) for metric in metrics)
        return before, after

    count = len(old.gold)
    found = values(np.arange(count))
    if list(old.predicted) == list(new.predicted):
        return Difference(*found, 0.0, 0.0)
    generator = np.random.default_rng(seed)
    drawn = [values(generator.integers(count, size=count)) for _ in range(draws)]
    changes = [after - before for before, after in drawn]
    edge = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(changes, [edge, 100 - edge])
    return Difference(*found, float(low), float(high))


def metric_of(spec: TaskSpec, answers: DevPredictions) -> float:
    """The task's metric of some predictions, in its own range."""
    return drawn_metric(spec, answers.gold, answers.predicted)(np.arange(len(answers.gold)))


def _plain(target: object) -> object:
    """Tags are a list once they were in a file, and a tuple before."""
    return list(target) if isinstance(target, tuple) else target
