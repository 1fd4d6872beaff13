from collections.abc import Callable
from typing import Any

import pytest

from pipelines.candidates import registered_candidates
from pipelines.planning import Candidate
from registry.domain.records import Backbone, ScoredVersion
from registry.domain.task_specs import TaskSpec
from tests.conftest import pin, small_config

Make = Callable[..., ScoredVersion]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return pin(tmp_path_factory.mktemp("candidates") / "pinned", small_config()).backbone


def spec(**changes: Any) -> TaskSpec:
    fields = {
        "task": "rte",
        "type": "classification",
        "labels": ["no", "yes"],
        "metric": "accuracy",
        "data": {"train": "/train.jsonl", "dev": "/dev.jsonl"},
    }
    return TaskSpec.model_validate(fields | changes)


@pytest.fixture
def make(backbone: Backbone) -> Make:
    def scored(number: int, **changes: Any) -> ScoredVersion:
        depth = changes.get("frozen_depth", 1)
        fields: dict[str, Any] = {
            "task": "rte",
            "number": number,
            "frozen_depth": depth,
            "task_layers": 2,
            "prefix_digest": backbone.prefix_digests[min(depth, backbone.layer_count)],
            "spec": spec(),
            "metrics": {"accuracy": 0.661, "f1_macro": 0.5},
            "dev_digest": "d" * 64,
        }
        return ScoredVersion(**fields | changes)

    return scored


def test_versions_become_candidates_with_scores_in_points(make: Make, backbone: Backbone) -> None:
    found = registered_candidates({"rte": spec()}, [make(1), make(2, frozen_depth=3, task_layers=1)], backbone)
    assert found.candidates == {"rte": [Candidate(1, 2, 66.1, 1), Candidate(3, 1, 66.1, 2)]}
    assert found.left_out == {}


def test_scores_on_other_dev_data_are_left_out_and_the_newest_version_says_which(
    make: Make, backbone: Backbone
) -> None:
    versions = [make(1, dev_digest="a" * 64), make(2), make(3, dev_digest="a" * 64), make(4)]
    found = registered_candidates({"rte": spec()}, versions, backbone)
    assert [one.version for one in found.candidates["rte"]] == [2, 4]
    assert found.left_out == {"rte": {"scored on other dev data than rte/4": [1, 3]}}


def test_a_version_that_does_not_fit_does_not_say_which_dev_data_count(make: Make, backbone: Backbone) -> None:
    versions = [make(1), make(2, dev_digest="a" * 64, prefix_digest="0" * 64)]
    found = registered_candidates({"rte": spec()}, versions, backbone)
    assert [one.version for one in found.candidates["rte"]] == [1]
    assert found.left_out == {
        "rte": {f"trained on another backbone than {backbone.name}, up to where it leaves it": [2]}
    }


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"frozen_depth": 3, "task_layers": 2}, "trained on another backbone"),
        ({"frozen_depth": 9, "task_layers": 1}, "trained on another backbone"),
        ({"spec": spec(labels=["yes", "no"])}, "labels than the task has now"),
        ({"metrics": {"f1_macro": 0.5}}, "without a score in accuracy"),
    ],
)
def test_what_a_release_could_not_take_is_left_out_with_the_reason(
    make: Make, backbone: Backbone, change: dict[str, Any], reason: str
) -> None:
    found = registered_candidates({"rte": spec()}, [make(1, **change)], backbone)
    assert found.candidates == {}
    ((why, numbers),) = found.left_out["rte"].items()
    assert reason in why
    assert numbers == [1]


def test_a_change_of_the_metric_alone_keeps_versions_that_have_it(make: Make, backbone: Backbone) -> None:
    found = registered_candidates({"rte": spec(metric="f1_macro")}, [make(1)], backbone)
    assert [one.score for one in found.candidates["rte"]] == [50.0]


def test_a_task_without_versions_is_named(make: Make, backbone: Backbone) -> None:
    found = registered_candidates({"rte": spec(), "cola": spec(task="cola")}, [make(1)], backbone)
    assert found.left_out == {"cola": {}}
