"""How good predictions are. Every metric is the library's own; here stands only what to give it, and its edge cases."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr
from seqeval.metrics import f1_score as seqeval_f1_score
from seqeval.metrics.sequence_labeling import get_entities
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from registry.domain.task_specs import Metric, TagScheme, TaskSpec, TaskType

_NO_TAG = -1
"""Stands for a word that got no prediction: equal to no tag's number."""


def score(spec: TaskSpec, gold: Sequence[Any], predicted: Sequence[Any]) -> dict[str, float]:
    """Every metric that fits the task, by name, each in its own range (accuracy 0.91, not 91).

    Args:
        gold: one target an example, as in `pipelines.data.dataset.Example`.
        predicted: one answer an example: a label, a number, or for each of its words a tag or None (cut off by
            `max_length`), which counts as "O" with tag_scheme bio and as wrong with plain.

    `f1` is there only when the spec names a positive label, `entity_f1` only with tag_scheme bio. `f1_macro` is the
    mean over the labels that occur in gold or predicted. What is undefined, such as a correlation with constant
    predictions, or with predictions that are not finite, is 0.

    Raises:
        ValueError: gold and predicted differ in length, or an example's words do.
    """
    if len(gold) != len(predicted):
        raise ValueError(f"{len(gold)} gold targets, but {len(predicted)} predictions")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # each is about an undefined value, and says that it is 0 or NaN
        if spec.type is TaskType.REGRESSION:
            return _correlations(gold, predicted)
        if spec.type is TaskType.CLASSIFICATION:
            return _label_scores(spec, gold, predicted)
        return _tag_scores(spec, gold, predicted)


def drawn_metric(
    spec: TaskSpec, gold: Sequence[Any], predicted: Sequence[Any]
) -> Callable[[NDArray[np.integer[Any]]], float]:
    """The task's own metric of any rows, also drawn repeatedly: what `score` gives of them, made to be asked often.

    Args:
        gold, predicted: as of `score`, of all rows.
    Returns:
        A function of row numbers.
    """
    if spec.type is TaskType.REGRESSION:
        x, y = np.asarray(gold, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
        return lambda rows: _correlations(x[rows], y[rows], only=spec.metric)[spec.metric]
    if spec.type is TaskType.TOKEN_CLASSIFICATION:
        return _drawn_tag_metric(spec, gold, predicted)
    number = {label: position for position, label in enumerate(spec.labels)}
    x, y = (np.array([number[label] for label in labels]) for labels in (gold, predicted))
    metric = _label_metric(spec)

    def of_rows(rows: NDArray[np.integer[Any]]) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of draws that hold one label alone
            return metric(x[rows], y[rows])

    return of_rows


def _label_metric(spec: TaskSpec) -> Callable[[NDArray[np.int64], NDArray[np.int64]], float]:
    """The task's own metric of label numbers."""
    if spec.metric is Metric.ACCURACY:
        return lambda x, y: float((x == y).mean())
    if spec.metric is Metric.MATTHEWS:
        return lambda x, y: float(matthews_corrcoef(x, y))
    if spec.metric is Metric.F1_MACRO:
        return lambda x, y: float(f1_score(x, y, average="macro", zero_division=0))
    assert spec.positive_label is not None  # noqa: S101 - its metric is f1
    positive = [spec.labels.index(spec.positive_label)]
    return lambda x, y: float(f1_score(x, y, labels=positive, average="macro", zero_division=0))


def _drawn_tag_metric(
    spec: TaskSpec, gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str | None]]
) -> Callable[[NDArray[np.integer[Any]]], float]:
    """Words and spans are counted sentence by sentence once: accuracy and entity F1 are ratios of sums of these."""
    if spec.metric is Metric.F1_MACRO:
        return lambda rows: score(spec, [gold[row] for row in rows], [predicted[row] for row in rows])[spec.metric]
    outside = "O" if spec.tag_scheme is TagScheme.BIO else None
    filled = [[outside if tag is None else tag for tag in row] for row in predicted]
    pairs = list(zip(gold, filled, strict=True))
    if spec.metric is Metric.ENTITY_F1:
        spans = [(set(get_entities(list(one))), set(get_entities(other))) for one, other in pairs]
        counts = np.array([(2 * len(one & other), len(one) + len(other)) for one, other in spans])
    else:
        counts = np.array([(sum(a == b for a, b in zip(one, other, strict=True)), len(one)) for one, other in pairs])

    def ratio(rows: NDArray[np.integer[Any]]) -> float:
        part, whole = counts[rows].sum(axis=0)
        return float(part / whole) if whole else 0.0

    return ratio


def _correlations(
    gold: Sequence[float] | NDArray[np.float64],
    predicted: Sequence[float] | NDArray[np.float64],
    only: Metric | None = None,
) -> dict[str, float]:
    functions: Mapping[Metric, Callable[..., Any]] = {Metric.PEARSON: pearsonr, Metric.SPEARMAN: spearmanr}
    if only is not None:
        functions = {only: functions[only]}
    x, y = np.asarray(gold, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    defined = len(x) > 1 and bool(np.isfinite(x).all() and np.isfinite(y).all())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of constants, of which it is undefined
        values = {metric: float(functions[metric](x, y).statistic) if defined else math.nan for metric in functions}
    return {str(metric): 0.0 if math.isnan(value) else value for metric, value in values.items()}


def _label_scores(spec: TaskSpec, gold: Sequence[str], predicted: Sequence[str]) -> dict[str, float]:
    number = {label: position for position, label in enumerate(spec.labels)}
    x, y = [number[label] for label in gold], [number[label] for label in predicted]
    scores = _shared_scores(x, y) | {str(Metric.MATTHEWS): float(matthews_corrcoef(x, y))}
    if spec.positive_label is not None:
        positive = [number[spec.positive_label]]
        # Averaged over this one label, it is the binary F1, but may be asked of more than two labels.
        scores[str(Metric.F1)] = float(f1_score(x, y, labels=positive, average="macro", zero_division=0))
    return scores


def _tag_scores(
    spec: TaskSpec, gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str | None]]
) -> dict[str, float]:
    number: dict[str | None, int] = {tag: position for position, tag in enumerate(spec.output_labels)}
    number[None] = number["O"] if spec.tag_scheme is TagScheme.BIO else _NO_TAG
    pairs = [pair for row in zip(gold, predicted, strict=True) for pair in zip(*row, strict=True)]
    scores = _shared_scores([number[tag] for tag, _ in pairs], [number[tag] for _, tag in pairs])
    if spec.tag_scheme is TagScheme.BIO:
        filled = [["O" if tag is None else tag for tag in row] for row in predicted]
        # seqeval's default reading, as conlleval's: an I-x that continues no x begins one. Decoding reads so too.
        scores[str(Metric.ENTITY_F1)] = float(seqeval_f1_score([list(row) for row in gold], filled, zero_division=0))
    return scores


def _shared_scores(gold: Sequence[int], predicted: Sequence[int]) -> dict[str, float]:
    labels = sorted({*gold, *predicted} - {_NO_TAG})
    return {
        str(Metric.ACCURACY): float(accuracy_score(gold, predicted)),
        str(Metric.F1_MACRO): float(f1_score(gold, predicted, labels=labels, average="macro", zero_division=0)),
    }
