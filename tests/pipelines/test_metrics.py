import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.training.metrics import score
from registry.domain.task_specs import METRICS_OF, DataFiles, Metric, TagScheme, TaskSpec, TaskType


def _spec(kind: TaskType, metric: Metric, **fields: object) -> TaskSpec:
    return TaskSpec(task="t", type=kind, metric=metric, data=DataFiles(train="a.jsonl", dev="b.jsonl"), **fields)


SPAM = _spec(TaskType.CLASSIFICATION, Metric.F1, labels=("ham", "spam"), positive_label="spam")
TOPIC = _spec(TaskType.CLASSIFICATION, Metric.ACCURACY, labels=("a", "b", "c"))
MOOD = _spec(TaskType.REGRESSION, Metric.PEARSON)
SLOTS = _spec(TaskType.TOKEN_CLASSIFICATION, Metric.ENTITY_F1, labels=("city", "time-of.day"), tag_scheme=TagScheme.BIO)
CASE = _spec(TaskType.TOKEN_CLASSIFICATION, Metric.ACCURACY, labels=("lower", "title"), tag_scheme=TagScheme.PLAIN)


def test_classification_metrics_equal_the_values_computed_by_hand():
    gold = ["spam", "spam", "spam", "ham", "ham", "ham", "ham", "ham"]
    predicted = ["spam", "spam", "ham", "spam", "ham", "ham", "ham", "ham"]
    # tp 2, fn 1, fp 1, tn 4
    matthews = (2 * 4 - 1 * 1) / math.sqrt(3 * 3 * 5 * 5)
    assert score(SPAM, gold, predicted) == pytest.approx(
        {"accuracy": 6 / 8, "f1": 2 / 3, "f1_macro": (2 / 3 + 4 / 5) / 2, "matthews": matthews}
    )


def test_f1_is_of_the_positive_label_also_among_many():
    spec = _spec(TaskType.CLASSIFICATION, Metric.F1, labels=("a", "b", "c"), positive_label="b")
    assert score(spec, ["a", "b", "c", "b"], ["a", "b", "b", "a"])["f1"] == pytest.approx(1 / 2)


def test_f1_is_left_out_without_a_positive_label():
    assert set(score(TOPIC, ["a", "b"], ["a", "b"])) == {"accuracy", "f1_macro", "matthews"}


def test_macro_f1_is_over_the_labels_that_occur():
    assert score(TOPIC, ["a", "a", "b"], ["a", "a", "b"])["f1_macro"] == 1.0


def test_correlations_equal_the_values_computed_by_hand():
    scores = score(MOOD, [1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 4.0, 3.0])
    assert scores == pytest.approx({"pearson": 0.8, "spearman": 0.8})
    curved = score(MOOD, [1.0, 2.0, 3.0], [1.0, 10.0, 1000.0])
    assert curved["spearman"] == pytest.approx(1.0)
    assert curved["pearson"] < 0.9


@pytest.mark.parametrize(
    ("gold", "predicted"),
    [
        ([1.0, 2.0, 3.0], [5.0, 5.0, 5.0]),
        ([2.0, 2.0, 2.0], [1.0, 2.0, 3.0]),
        ([1.0], [1.0]),
        ([1.0, 2.0, 3.0], [1.0, math.nan, 3.0]),
        ([1.0, 2.0, 3.0], [1.0, math.inf, 3.0]),
    ],
    ids=["constant predictions", "constant gold", "one example", "nan", "infinite"],
)
def test_an_undefined_correlation_is_zero_and_silent(gold, predicted):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert score(MOOD, gold, predicted) == {"pearson": 0.0, "spearman": 0.0}


def test_entity_f1_counts_whole_spans():
    gold = [["O", "B-city", "I-city", "O"], ["B-time-of.day", "O"]]
    predicted = [["O", "B-city", "O", "O"], ["B-time-of.day", "O"]]
    scores = score(SLOTS, gold, predicted)
    assert scores["entity_f1"] == pytest.approx(1 / 2)
    assert scores["accuracy"] == pytest.approx(5 / 6)
    # O: precision 3/4, recall 1; B-city and B-time-of.day 1; I-city 0
    assert scores["f1_macro"] == pytest.approx((6 / 7 + 1 + 1 + 0) / 4)


def test_an_inside_tag_that_continues_nothing_begins_a_span():
    assert score(SLOTS, [["O", "B-city", "O"]], [["O", "I-city", "O"]])["entity_f1"] == 1.0


def test_spans_do_not_run_on_into_the_next_example():
    gold = [["O", "B-city"], ["B-city", "O"]]
    assert score(SLOTS, gold, [["O", "B-city"], ["I-city", "O"]])["entity_f1"] == 1.0


def test_a_cut_off_word_counts_as_outside_with_bio():
    scores = score(SLOTS, [("O", "B-city", "O")], [["O", "B-city", None]])
    assert scores == {"accuracy": 1.0, "f1_macro": 1.0, "entity_f1": 1.0}
    assert score(SLOTS, [("B-city", "O", "B-city")], [["B-city", "O", None]])["entity_f1"] == pytest.approx(2 / 3)


def test_a_cut_off_word_counts_as_wrong_with_plain_tags():
    scores = score(CASE, [("lower", "title", "title")], [["lower", "title", None]])
    assert set(scores) == {"accuracy", "f1_macro"}
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert scores["f1_macro"] == pytest.approx((1 + 2 / 3) / 2)


@pytest.mark.parametrize(
    ("spec", "gold", "predicted"),
    [
        (MOOD, [1.0, 2.0, 3.0], [5.0, 5.0, 5.0 + 1e-15]),
        (SPAM, ["ham", "ham"], ["ham", "ham"]),
        (SPAM, ["spam", "spam"], ["ham", "ham"]),
        (SLOTS, [["O", "O"]], [["O", "O"]]),
        (SLOTS, [["B-city", "O"]], [["O", "O"]]),
        (CASE, [["lower"]], [[None]]),
    ],
)
def test_degenerate_predictions_give_finite_scores_and_no_warning(spec, gold, predicted):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = score(spec, gold, predicted)
    assert all(math.isfinite(value) for value in scores.values())


@pytest.mark.parametrize("spec", [SPAM, TOPIC, MOOD, SLOTS, CASE])
def test_the_task_s_own_metric_is_always_among_the_scores(spec):
    targets = {
        TaskType.CLASSIFICATION: list(spec.labels),
        TaskType.REGRESSION: [1.0, 2.0, 4.0],
        TaskType.TOKEN_CLASSIFICATION: [spec.output_labels],
    }[spec.type]
    scores = score(spec, targets, targets)
    assert spec.metric in scores
    assert set(scores) <= set(METRICS_OF[spec.type])
    assert all(type(value) is float and value == pytest.approx(1.0) for value in scores.values())


def test_numpy_predictions_of_fp32_are_accepted():
    scores = score(MOOD, [1.0, 2.0, 3.0], list(np.array([1, 2, 4], dtype=np.float32)))
    assert type(scores["pearson"]) is float
    assert scores["spearman"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("spec", "gold", "predicted"),
    [(TOPIC, ["a", "b"], ["a"]), (CASE, [["lower", "title"]], [["lower"]]), (MOOD, [1.0], [1.0, 2.0])],
)
def test_unequal_lengths_are_refused(spec, gold, predicted):
    with pytest.raises(ValueError, match=r"predictions|argument"):
        score(spec, gold, predicted)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), min_size=1, max_size=30))
def test_accuracy_is_the_share_of_equal_pairs_and_bounds_hold(pairs):
    gold, predicted = [g for g, _ in pairs], [p for _, p in pairs]
    scores = score(TOPIC, gold, predicted)
    assert scores["accuracy"] == pytest.approx(sum(g == p for g, p in pairs) / len(pairs))
    assert 0 <= scores["f1_macro"] <= 1
    assert -1 - 1e-9 <= scores["matthews"] <= 1 + 1e-9
