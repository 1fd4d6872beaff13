"""The metadata of model cards: what a hub reads of a task's version or of a release.

The fields are those of the hub's model cards (https://huggingface.co/docs/hub/model-cards): `base_model`, `tags`, and
the results as a `model-index`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from registry.domain.records import Backbone, Release, Version
from registry.domain.task_specs import Metric, TaskSpec, TaskType

_HUB_TASKS: Final[Mapping[TaskType, str]] = {
    TaskType.CLASSIFICATION: "text-classification",
    TaskType.REGRESSION: "text-classification",  # where hubs put texts scored by a number
    TaskType.TOKEN_CLASSIFICATION: "token-classification",
}
_HUB_METRICS: Final[Mapping[Metric, str]] = {
    Metric.ACCURACY: "accuracy",
    Metric.F1: "f1",
    Metric.F1_MACRO: "f1",
    Metric.ENTITY_F1: "f1",
    Metric.MATTHEWS: "matthews_correlation",
    Metric.PEARSON: "pearsonr",
    Metric.SPEARMAN: "spearmanr",
}


class CardedVersion(NamedTuple):
    """A version with the definition that it was trained for."""

    version: Version
    spec: TaskSpec


def version_metadata(carded: CardedVersion, backbone: Backbone) -> dict[str, Any]:
    """Of one task's version."""
    return _metadata(str(carded.version.reference), [carded], backbone) | {"pipeline_tag": _HUB_TASKS[carded.spec.type]}


def release_metadata(release: Release, held: Sequence[CardedVersion], backbone: Backbone) -> dict[str, Any]:
    """Of a release: one result a task and metric."""
    return _metadata(release.name, held, backbone)


def base_model(backbone: Backbone) -> str:
    """The hub's name of the repository that the backbone was pinned from; the backbone's own, if it was a folder."""
    repository, _, commit = backbone.source.partition("@")
    is_folder = backbone.source.startswith("/")  # folders are kept by their absolute paths
    return backbone.name if is_folder or not commit else repository


def _metadata(name: str, held: Sequence[CardedVersion], backbone: Backbone) -> dict[str, Any]:
    return {
        "library_name": "trunkline",
        "base_model": base_model(backbone),
        "base_model_relation": "finetune",
        "tags": sorted({"trunkline", backbone.model_type, *(_HUB_TASKS[one.spec.type] for one in held)}),
        "model-index": [{"name": name, "results": [_result(one) for one in held]}],
    }


def _result(carded: CardedVersion) -> dict[str, Any]:
    version, spec = carded
    return {
        "task": {"type": _HUB_TASKS[spec.type], "name": spec.task},
        "dataset": {
            "type": spec.task,
            "name": f"dev data of {spec.task}",
            "split": "dev",
            "revision": version.dev_digest,
        },
        "metrics": [
            {"type": _HUB_METRICS[Metric(name)], "value": value, "name": f"{name} ({version.statistic})"}
            for name, value in version.metrics.items()
        ],
    }
