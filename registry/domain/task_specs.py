"""The definition of a task: what its `task.yaml` says, validated, and nothing about how it is trained."""

import difflib
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Self

from pydantic import BaseModel, Field, TypeAdapter, ValidationError, model_validator

from registry.domain.plain_data import Plain, json_digest
from registry.domain.references import Name
from registry.errors import InvalidInput


class TaskType(StrEnum):
    CLASSIFICATION = "classification"
    REGRESSION = "regression"
    TOKEN_CLASSIFICATION = "token_classification"  # noqa: S105


class InputForm(StrEnum):
    SINGLE = "single"
    PAIR = "pair"


class TagScheme(StrEnum):
    """`bio`: labels are span types, tags are O, B-type and I-type. `plain`: labels are the tags, one a word."""

    BIO = "bio"
    PLAIN = "plain"


class Metric(StrEnum):
    ACCURACY = "accuracy"
    F1 = "f1"
    F1_MACRO = "f1_macro"
    MATTHEWS = "matthews"
    PEARSON = "pearson"
    SPEARMAN = "spearman"
    ENTITY_F1 = "entity_f1"


METRICS_OF: Mapping[TaskType, tuple[Metric, ...]] = {
    TaskType.CLASSIFICATION: (Metric.ACCURACY, Metric.F1, Metric.F1_MACRO, Metric.MATTHEWS),
    TaskType.REGRESSION: (Metric.PEARSON, Metric.SPEARMAN),
    TaskType.TOKEN_CLASSIFICATION: (Metric.ENTITY_F1, Metric.ACCURACY, Metric.F1_MACRO),
}


class DataFiles(Plain):
    """Paths of the labelled files. In a `task.yaml` they are relative to it; a registered spec holds absolute ones."""

    train: str = Field(min_length=1)
    dev: str = Field(min_length=1)


class Columns(Plain):
    """Where a row keeps its parts. The defaults read `{"text", "text_pair", "label"}` and `{"tokens", "tags"}`."""

    text: str = "text"
    text_pair: str = "text_pair"
    tokens: str = "tokens"
    label: str = "label"
    tags: str = "tags"


class TaskSpec(Plain):
    """One immutable definition. Labels are ordered: their order is the order of the module's outputs."""

    task: Name
    type: TaskType
    metric: Metric
    data: DataFiles
    labels: tuple[str, ...] = ()
    input_form: InputForm = InputForm.SINGLE
    tag_scheme: TagScheme | None = None
    positive_label: str | None = None
    columns: Columns = Columns()
    description: str = ""

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if problems := self._problems_between_fields(unreadable=frozenset()):
            raise ValueError("\n".join(problems))
        return self

    def _problems_between_fields(self, unreadable: frozenset[str]) -> list[str]:
        """What the fields contradict in each other, passing over the checks that need an unreadable field."""
        checks = (
            ({"type", "labels", "tag_scheme"}, self._label_problems),
            ({"type", "labels", "tag_scheme", "metric", "positive_label"}, self._metric_problems),
            ({"type", "labels", "tag_scheme", "input_form"}, self._tag_problems),
        )
        return [problem for fields, check in checks if not fields & unreadable for problem in check()]

    def _label_problems(self) -> list[str]:
        if self.type is TaskType.REGRESSION:
            return ["labels: a regression task has none"] if self.labels else []
        problems = []
        least = 2 if self.type is TaskType.CLASSIFICATION or self.tag_scheme is TagScheme.PLAIN else 1
        if len(self.labels) < least:
            problems.append(f"labels: at least {least} must be declared")
        if repeated := sorted({label for label in self.labels if self.labels.count(label) > 1}):
            problems.append(f"labels: declared twice: {', '.join(repeated)}")
        if any(not label.strip() for label in self.labels):
            problems.append("labels: a label is empty")
        return problems

    def _metric_problems(self) -> list[str]:
        problems = []
        if self.metric not in METRICS_OF[self.type]:
            fitting = ", ".join(METRICS_OF[self.type])
            problems.append(f"metric: {self.metric} does not fit a {self.type} task; these do: {fitting}")
        if self.metric is Metric.F1 and self.positive_label is None:
            problems.append("positive_label: metric f1 needs the label that it is about (or use f1_macro)")
        if self.positive_label is not None and self.positive_label not in self.labels:
            problems.append(f"positive_label: {self.positive_label!r} is not among the labels")
        if self.metric is Metric.ENTITY_F1 and self.tag_scheme is TagScheme.PLAIN:
            problems.append("metric: entity_f1 needs tag_scheme bio")
        return problems

    def _tag_problems(self) -> list[str]:
        if self.type is not TaskType.TOKEN_CLASSIFICATION:
            return [] if self.tag_scheme is None else [f"tag_scheme: a {self.type} task has none"]
        problems = []
        if self.tag_scheme is None:
            problems.append("tag_scheme: a token_classification task needs bio or plain")
        if self.input_form is InputForm.PAIR:
            problems.append("input_form: a token_classification task reads single texts")
        if self.tag_scheme is TagScheme.BIO:
            tags = [label for label in self.labels if label == "O" or label.startswith(("B-", "I-"))]
            if tags:
                problems.append(
                    f"labels: with tag_scheme bio write span types ('city', not 'B-city'): {', '.join(tags)}"
                )
        return problems

    @property
    def output_labels(self) -> tuple[str, ...]:
        """What each output of the head stands for: labels, or tags; empty for regression."""
        if self.tag_scheme is TagScheme.BIO:
            return ("O", *(f"{prefix}-{label}" for label in self.labels for prefix in ("B", "I")))
        return self.labels

    @property
    def output_count(self) -> int:
        return len(self.output_labels) or 1

    @property
    def interface(self) -> tuple[TaskType, InputForm, tuple[str, ...]]:
        """What must be equal for two modules to answer the same question: type, input form, ordered outputs."""
        return self.type, self.input_form, self.output_labels

    def digest(self) -> str:
        """Digest of the whole definition."""
        return json_digest(self.model_dump(mode="json"))

    def meaning_digest(self) -> str:
        """Digest of what the task is, without where its data lie and how it is described.

        The data have digests of their own, of their content: a folder that moved is not another task.
        """
        return json_digest(self.model_dump(mode="json", exclude={"data", "columns", "description"}))


def parse_task_spec(content: object, subject: str) -> TaskSpec:
    """Validates what a YAML file held; `subject` names the file in the error.

    Raises:
        InvalidInput: listing every problem at once with its place.
    """
    if not isinstance(content, Mapping):
        raise InvalidInput(subject, ["is not a mapping of fields; see `trunkline task register --help` for an example"])
    try:
        return TaskSpec.model_validate(dict(content))
    except ValidationError as error:
        problems = validation_problems(error, TaskSpec)
        unreadable = frozenset(str(item["loc"][0]) for item in error.errors() if item["loc"])
        if unreadable:  # pydantic stops at the fields; the readable ones may contradict each other too
            problems += _readable_part(content, unreadable)._problems_between_fields(unreadable)
        raise InvalidInput(subject, problems) from None


def _readable_part(content: Mapping[str, object], unreadable: frozenset[str]) -> TaskSpec:
    values = {
        name: TypeAdapter[Any](field.annotation).validate_python(content[name])
        for name, field in TaskSpec.model_fields.items()
        if name in content and name not in unreadable and field.annotation is not None
    }
    return TaskSpec.model_construct(**values)


def validation_problems(error: ValidationError, model: type[BaseModel] | None = None) -> list[str]:
    """One line a problem: the place in the file, then what is wrong there.

    Args:
        model: what was validated, so that a misspelt field is told what it may have been meant for.
    """
    problems: list[str] = []
    for item in error.errors():
        place = ".".join(map(str, item["loc"]))
        match item["type"]:
            case "missing":
                problems.append(f"{place}: is missing")
            case "extra_forbidden":
                near = difflib.get_close_matches(str(item["loc"][-1]), _fields_at(model, item["loc"][:-1]), n=1)
                problems.append(f"{place}: is no known field" + (f"; did you mean {near[0]}?" if near else ""))
            case "enum":
                problems.append(f"{place}: must be {item['ctx']['expected']}, not {item['input']!r}")
            case kind if kind in _KINDS:
                problems.append(f"{place}: must be {_KINDS[kind]}, not {_shown(item['input'])}")
            case _:
                message = item["msg"].removeprefix("Value error, ")
                problems += [f"{place}: {message}"] if place else message.split("\n")
    return problems


_KINDS = {
    "string_type": "a text",
    "tuple_type": "a list",
    "list_type": "a list",
    "model_type": "a mapping of fields",
    "dict_type": "a mapping of fields",
}
"""What pydantic misses, as one who writes a file calls it."""
_MOST_SHOWN = 40


def _shown(value: object) -> str:
    match value:
        case None:
            return "nothing"
        case Mapping():
            return "a mapping of fields"
        case list() | tuple():
            return "a list"
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}…"


def _fields_at(model: type[BaseModel] | None, place: Sequence[int | str]) -> list[str]:
    """The known fields of what lies at a place of the model; none where that is not a model itself."""
    for part in place:
        field = None if model is None else model.model_fields.get(str(part))
        inner = None if field is None else field.annotation
        model = inner if isinstance(inner, type) and issubclass(inner, BaseModel) else None
    return [] if model is None else sorted(model.model_fields)
