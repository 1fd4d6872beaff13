import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.assembly.regression_gate import difference
from pipelines.data.predictions import DevPredictions
from pipelines.training.metrics import drawn_metric, score
from registry.domain.task_specs import METRICS_OF, Metric, TagScheme, TaskSpec, TaskType

CASES = [
    (type_, metric, scheme)
    for type_, metrics in METRICS_OF.items()
    for metric in metrics
    for scheme in ((TagScheme.BIO, TagScheme.PLAIN) if type_ is TaskType.TOKEN_CLASSIFICATION else (None,))
    if not (metric is Metric.ENTITY_F1 and scheme is TagScheme.PLAIN)
]


def spec(type_: TaskType = TaskType.CLASSIFICATION, metric: str = "accuracy", scheme: Any = None) -> TaskSpec:
    fields: dict[str, Any] = {"task": "t", "type": type_, "metric": metric, "data": {"train": "/a", "dev": "/b"}}
    if type_ is not TaskType.REGRESSION:
        fields["labels"] = ["x", "y", "z"]
    if metric == "f1":
        fields["positive_label"] = "y"
    if scheme is not None:
        fields["tag_scheme"] = scheme
    return TaskSpec.model_validate(fields)


def targets(task: TaskSpec, choose: random.Random, count: int, *, cut: bool) -> list[Any]:
    if task.type is TaskType.REGRESSION:
        return [choose.choice([0.0, 0.5, 1.0, choose.random()]) for _ in range(count)]
    if task.type is TaskType.CLASSIFICATION:
        return [choose.choice(task.labels) for _ in range(count)]
    lengths = random.Random(count)
    rows = [[choose.choice(task.output_labels) for _ in range(lengths.randint(1, 6))] for _ in range(count)]
    return [[*row[:-1], None] if cut and choose.random() < 0.3 else row for row in rows]


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 25))
@pytest.mark.parametrize(("type_", "metric", "scheme"), CASES)
def test_the_metric_of_drawn_rows_is_what_score_gives(
    type_: TaskType, metric: Metric, scheme: Any, seed: int, count: int
) -> None:
    task, choose = spec(type_, metric, scheme), random.Random(seed)
    gold, predicted = targets(task, choose, count, cut=False), targets(task, choose, count, cut=True)
    rows = np.array([choose.randrange(count) for _ in range(count)])
    expected = score(task, [gold[row] for row in rows], [predicted[row] for row in rows])[metric]
    assert drawn_metric(task, gold, predicted)(rows) == pytest.approx(expected, abs=1e-12)


def answers(count: int, wrong: int, *, offset: int = 0) -> DevPredictions:
    gold = ["x"] * count
    predicted = ["y" if offset <= row < offset + wrong else "x" for row in range(count)]
    return DevPredictions(gold, predicted)


def test_a_clear_drop_is_worse_and_a_rise_is_not() -> None:
    good, bad = answers(400, 20), answers(400, 60)
    found = difference(spec(), good, bad)
    assert (found.old, found.new, found.change) == (95.0, 85.0, pytest.approx(-10.0))
    assert found.low < found.change < found.high < 0
    assert found.is_worse(0.5)
    assert not difference(spec(), bad, good).is_worse(0.5)


def test_a_drop_within_the_tolerance_or_that_chance_explains_is_not_worse() -> None:
    assert not difference(spec(), answers(400, 20), answers(400, 60)).is_worse(11.0)
    chance = difference(spec(), answers(40, 4), answers(40, 6, offset=20))
    assert chance.change == pytest.approx(-5.0)
    assert chance.low < 0 < chance.high
    assert not chance.is_worse(0.5)


def test_rows_that_both_miss_add_no_noise() -> None:
    """Paired: the same 5 rows more, whatever else both get wrong alike."""
    widths = []
    for shared in (0, 150):
        found = difference(spec(), answers(400, shared), answers(400, shared + 8))
        widths.append(found.high - found.low)
    assert widths[1] == pytest.approx(widths[0], rel=0.2)


def test_the_same_answers_differ_by_nothing_and_the_draws_repeat() -> None:
    assert difference(spec(), answers(10, 2), answers(10, 2))[2:] == (0.0, 0.0)
    assert difference(spec(), answers(50, 2), answers(50, 4)) == difference(spec(), answers(50, 2), answers(50, 4))


def test_other_rows_are_not_compared() -> None:
    with pytest.raises(ValueError, match="other dev rows"):
        difference(spec(), answers(10, 2), answers(11, 2))
