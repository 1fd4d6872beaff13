from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.domain.task_specs import METRICS_OF, Metric, TaskSpec, TaskType, parse_task_spec
from registry.errors import InvalidInput

CLASSIFICATION: dict[str, Any] = {
    "task": "rte",
    "type": "classification",
    "metric": "accuracy",
    "data": {"train": "train.jsonl", "dev": "dev.jsonl"},
    "labels": ["no", "yes"],
    "input_form": "pair",
}
REGRESSION: dict[str, Any] = {
    "task": "sts",
    "type": "regression",
    "metric": "spearman",
    "data": {"train": "train.jsonl", "dev": "dev.jsonl"},
}
SPANS: dict[str, Any] = {
    "task": "slots",
    "type": "token_classification",
    "metric": "entity_f1",
    "data": {"train": "train.jsonl", "dev": "dev.jsonl"},
    "labels": ["city", "day"],
    "tag_scheme": "bio",
}


def problems(content: object) -> list[str]:
    with pytest.raises(InvalidInput, match=r"^task\.yaml") as refused:
        parse_task_spec(content, "task.yaml")
    return list(refused.value.problems)


def without(content: dict[str, Any], field: str) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key != field}


@pytest.mark.parametrize("content", [CLASSIFICATION, REGRESSION, SPANS], ids=lambda content: content["type"])
def test_a_whole_definition_is_read(content: dict[str, Any]) -> None:
    spec = parse_task_spec(content, "task.yaml")
    assert spec.type == content["type"]
    assert TaskSpec.model_validate(spec.model_dump(mode="json")) == spec


def test_outputs_are_the_labels_in_their_order() -> None:
    spec = parse_task_spec(CLASSIFICATION | {"labels": ["yes", "no", "maybe"]}, "task.yaml")
    assert spec.output_labels == ("yes", "no", "maybe")
    assert spec.output_count == 3


def test_outputs_of_a_bio_task_are_its_tags() -> None:
    spec = parse_task_spec(SPANS, "task.yaml")
    assert spec.output_labels == ("O", "B-city", "I-city", "B-day", "I-day")
    assert spec.output_count == 5


def test_a_regression_has_one_output_without_a_label() -> None:
    spec = parse_task_spec(REGRESSION, "task.yaml")
    assert spec.output_labels == ()
    assert spec.output_count == 1


def test_the_digest_tells_definitions_apart() -> None:
    spec = parse_task_spec(CLASSIFICATION, "task.yaml")
    reordered = parse_task_spec(dict(reversed(CLASSIFICATION.items())), "task.yaml")
    assert reordered.digest() == spec.digest()
    for field, value in (
        ("labels", ["yes", "no"]),
        ("description", "entailment"),
        ("columns", {"label": "gold"}),
        ("data", {"train": "train.jsonl", "dev": "test.jsonl"}),
    ):
        assert parse_task_spec(CLASSIFICATION | {field: value}, "task.yaml").digest() != spec.digest()


@pytest.mark.parametrize("content", [None, [], "rte", 3])
def test_a_file_that_is_no_mapping_is_refused(content: object) -> None:
    assert problems(content) == ["is not a mapping of fields; see `trunkline task register --help` for an example"]


@pytest.mark.parametrize("field", ["task", "type", "metric", "data"])
def test_a_field_that_every_task_needs_is_named(field: str) -> None:
    assert f"{field}: is missing" in problems(without(CLASSIFICATION, field))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (CLASSIFICATION | {"lables": []}, "lables: is no known field; did you mean labels?"),
        (CLASSIFICATION | {"task": "../rte"}, "task: '../rte' is not a name"),
        (CLASSIFICATION | {"data": {"train": "", "dev": "d", "test": "t"}}, "data.train: "),
        (CLASSIFICATION | {"data": {"train": "t", "dev": "d", "test": "t"}}, "data.test: is no known field"),
        (CLASSIFICATION | {"columns": {"lable": "x"}}, "columns.lable: is no known field; did you mean label?"),
        (CLASSIFICATION | {"labels": "a, b"}, "labels: must be a list, not 'a, b'"),
        (CLASSIFICATION | {"labels": [["a"], "b"]}, "labels.0: must be a text, not a list"),
        (CLASSIFICATION | {"data": "t"}, "data: must be a mapping of fields, not 't'"),
        (CLASSIFICATION | {"description": None}, "description: must be a text, not nothing"),
        (CLASSIFICATION | {"labels": ["yes"]}, "labels: at least 2 must be declared"),
        (without(CLASSIFICATION, "labels"), "labels: at least 2 must be declared"),
        (CLASSIFICATION | {"labels": ["a", "b", "a", "b", "c"]}, "labels: declared twice: a, b"),
        (CLASSIFICATION | {"labels": ["a", " "]}, "labels: a label is empty"),
        (CLASSIFICATION | {"labels": [0, 1]}, "labels.0: "),
        (CLASSIFICATION | {"metric": "pearson"}, "metric: pearson does not fit a classification task; these do: "),
        (CLASSIFICATION | {"metric": "f1"}, "positive_label: metric f1 needs the label that it is about"),
        (CLASSIFICATION | {"positive_label": "maybe"}, "positive_label: 'maybe' is not among the labels"),
        (CLASSIFICATION | {"tag_scheme": "bio"}, "tag_scheme: a classification task has none"),
        (REGRESSION | {"labels": ["a", "b"]}, "labels: a regression task has none"),
        (REGRESSION | {"metric": "accuracy"}, "metric: accuracy does not fit a regression task; these do: "),
        (SPANS | {"labels": []}, "labels: at least 1 must be declared"),
        (SPANS | {"labels": ["O", "B-city", "I-city"]}, "write span types ('city', not 'B-city'): O, B-city, I-city"),
        (SPANS | {"input_form": "pair"}, "input_form: a token_classification task reads single texts"),
        (SPANS | {"tag_scheme": "plain"}, "metric: entity_f1 needs tag_scheme bio"),
        (without(SPANS, "tag_scheme"), "tag_scheme: a token_classification task needs bio or plain"),
    ],
)
def test_a_mistake_is_named_with_its_place(content: dict[str, Any], said: str) -> None:
    assert any(said in problem for problem in problems(content)), problems(content)


def test_a_field_within_another_is_not_taken_for_a_misspelt_one_above():
    content = CLASSIFICATION | {"data": {"train": "t", "dev": "d", "test": "t"}}
    assert problems(content) == ["data.test: is no known field"]


def test_all_mistakes_are_reported_at_once() -> None:
    found = problems(
        {
            "task": "RTE",
            "type": "classification",
            "metric": "entity_f1",
            "labels": ["yes", "yes"],
            "tag_scheme": "bio",
            "positive_label": "maybe",
            "colour": "red",
        }
    )
    places = [problem.split(":")[0] for problem in found]
    assert sorted(places) == sorted(["task", "data", "colour", "labels", "metric", "positive_label", "tag_scheme"])


def test_what_an_unreadable_field_decides_is_not_guessed() -> None:
    found = problems(CLASSIFICATION | {"type": "sequence", "labels": ["only"]})
    assert [problem.split(":")[0] for problem in found] == ["type"]


@given(st.sampled_from(TaskType), st.sampled_from(Metric))
def test_a_metric_is_taken_by_the_types_that_it_fits(task_type: TaskType, metric: Metric) -> None:
    content = {TaskType.CLASSIFICATION: CLASSIFICATION, TaskType.REGRESSION: REGRESSION}.get(task_type, SPANS)
    content = content | {"metric": metric}
    if metric is Metric.F1:
        content["positive_label"] = content.get("labels", ["none"])[0]
    if metric in METRICS_OF[task_type]:
        assert parse_task_spec(content, "task.yaml").metric is metric
    else:
        assert any(problem.startswith(f"metric: {metric} does not fit") for problem in problems(content))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=5,
    ),
    st.sampled_from(list(TaskSpec.model_fields)),
)
def test_any_content_of_a_field_is_read_or_refused(value: object, field: str) -> None:
    with suppress(InvalidInput):  # anything else, such as a KeyError, fails the test
        parse_task_spec(SPANS | {field: value}, "task.yaml")
