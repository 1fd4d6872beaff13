from typing import Any

import pytest

from registry.domain.manifests import HeadConfig
from registry.domain.records import ProposedVersion, VersionKind
from registry.domain.task_specs import TaskSpec
from registry.domain.version_rules import spec_problems


def proposed(head: HeadConfig) -> ProposedVersion:
    return ProposedVersion(
        task="tagger",
        spec_revision=1,
        backbone="small",
        kind=VersionKind.TEACHER,
        frozen_depth=1,
        task_layers=1,
        prefix_digest="0" * 64,
        head=head,
    )


def tagger(scheme: str, labels: list[str], metric: str) -> TaskSpec:
    return TaskSpec.model_validate(
        {
            "task": "tagger",
            "type": "token_classification",
            "tag_scheme": scheme,
            "labels": labels,
            "metric": metric,
            "data": {"train": "train.jsonl", "dev": "dev.jsonl"},
        }
    )


BIO, PLAIN = tagger("bio", ["city"], "entity_f1"), tagger("plain", ["up", "down", "flat"], "accuracy")


@pytest.mark.parametrize(
    ("spec", "choices", "said"),
    [
        (BIO, {"crf": True, "gather": "mix"}, []),
        (PLAIN, {}, []),
        (PLAIN, {"crf": True}, ["its head does not fit spec revision 1: crf: its transitions are those of tag_scheme"]),
        (BIO, {"outputs": 5}, ["its head is token_classification with 5 outputs, but spec revision 1 is"]),
    ],
)
def test_a_head_must_be_one_that_the_tasks_definition_can_have(
    spec: TaskSpec, choices: dict[str, Any], said: list[str]
) -> None:
    head = HeadConfig(**{"type": "token_classification", "outputs": 3, **choices})
    problems = list(spec_problems(proposed(head), spec))
    assert len(problems) == len(said)
    assert all(problem.startswith(start) for problem, start in zip(problems, said, strict=True))
