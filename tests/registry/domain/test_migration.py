"""Which versions stay valid on another backbone, and where the others' trials run again."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.domain.manifests import HeadConfig
from registry.domain.migration import Lineage, Outcome, TaskMigration, task_migration
from registry.domain.records import Backbone, Task, TaskState, Version, VersionKind
from registry.domain.task_specs import TaskSpec
from registry.domain.version_rules import backbone_problems, teacher_problems

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def default_rate(width: int) -> float:
    return {768: 2e-5, 384: 1.6e-4}[width]


def backbone(name: str, layers: int, *, shared: int = -1, width: int = 768) -> Backbone:
    """`shared`: up to which depth it is the backbone "old"; -1: at none."""
    digests = [f"old {depth}" if depth <= shared or name == "old" else f"{name} {depth}" for depth in range(layers + 1)]
    return Backbone(
        name=name,
        model_type="bert",
        layer_count=layers,
        hidden_size=width,
        max_length=128,
        config={},
        prefix_root={},
        layer_digests=("d",) * layers,
        prefix_digests=tuple(digests),
        tokenizer="t",
        embeddings="e",
        layers=("b",) * layers,
        source="somewhere",
        created_at=NOW,
    )


OLD = backbone("old", 12)


def spec(**changes: Any) -> TaskSpec:
    fields = {
        "task": "rte",
        "type": "classification",
        "labels": ["no", "yes"],
        "metric": "accuracy",
        "data": {"train": "a", "dev": "b"},
    }
    return TaskSpec.model_validate(fields | changes)


def task(definition: TaskSpec | None = None, *, revision: int = 1, version_count: int = 2) -> Task:
    return Task(
        name="rte",
        team="nlu",
        state=TaskState.ACTIVE,
        retirement=None,
        retired_at=None,
        spec=definition or spec(),
        spec_revision=revision,
        version_count=version_count,
        aliases={},
        created_at=NOW,
    )


def version(number: int, depth: int, layers: int, *, teacher: int | None = None, **changes: Any) -> Version:
    fields = {
        "task": "rte",
        "number": number,
        "spec_revision": 1,
        "backbone": "old",
        "kind": VersionKind.TEACHER if teacher is None else VersionKind.STUDENT,
        "frozen_depth": depth,
        "task_layers": layers,
        "prefix_digest": f"old {depth}",
        "teacher": teacher,
        "head": HeadConfig(type="classification", outputs=2),
        "module": "m",
        "golden": "g",
        "dev_predictions": "p",
        "metrics": {"accuracy": 0.9},
        "statistic": "one run",
        "train_digest": "x",
        "dev_digest": "y",
        "recipe": {"name": "default", "learning_rate": 2e-5, "epochs": 5},
        "seed": number,
        "environment": {},
        "trial_key": f"key {number}",
        "created_at": NOW,
        "created_by": "ann",
    }
    return Version.model_validate(fields | changes)


TEACHER = Lineage(version(1, 8, 4), spec())
STUDENT = Lineage(version(2, 9, 1, teacher=1), spec(), TEACHER)


def migration(in_use: Lineage | None, new: Backbone, of: Task | None = None, old: Backbone = OLD) -> TaskMigration:
    return task_migration(of or task(), in_use, alias="champion", old=old, new=new, default_rate=default_rate)


def test_what_leaves_below_the_first_difference_stays_valid() -> None:
    found = migration(STUDENT, backbone("new", 12, shared=9))
    assert (found.outcome, found.version, found.steps) == (Outcome.VALID, 2, ())
    assert found.reason == "old and new have the same P(9)"


def test_a_student_is_distilled_again_from_a_teacher_that_stays() -> None:
    (step,) = migration(STUDENT, backbone("new", 12, shared=8)).steps
    assert (step.repeats, step.kind, step.frozen_depth, step.task_layers) == (2, VersionKind.STUDENT, 9, 1)
    assert (step.teacher, step.teacher_layers, step.seed) == (1, 4, 2)


@pytest.mark.parametrize(("layers", "depths"), [(12, [8, 9]), (6, [2, 3]), (24, [20, 21]), (4, [0, 1])])
def test_the_teacher_is_trained_first_and_depths_are_counted_from_the_top(layers: int, depths: list[int]) -> None:
    found = migration(STUDENT, backbone("new", layers))
    assert found.outcome is Outcome.RETRAIN
    assert [(step.repeats, step.frozen_depth, step.task_layers) for step in found.steps] == [
        (1, depths[0], 4),
        (2, depths[1], 1),
    ]
    assert [step.teacher for step in found.steps] == [None, None], "what the first step makes is distilled"
    assert found.steps[1].teacher_layers == 4


def test_a_teacher_in_use_is_trained_alone() -> None:
    (step,) = migration(TEACHER, backbone("new", 6)).steps
    assert (step.repeats, step.frozen_depth, step.recipe) == (1, 2, TEACHER.version.recipe)
    assert not step.learning_rate_by_width


def test_too_few_layers_are_told_with_what_to_do() -> None:
    found = migration(STUDENT, backbone("new", 3))
    assert (found.outcome, found.steps) == (Outcome.IMPOSSIBLE, ())
    assert "rte/1 has 4 task layers, and new only 3 layers in all" in found.reason


@pytest.mark.parametrize("imported", [1, 2])
def test_what_was_imported_has_no_recipe_to_run(imported: int) -> None:
    def made(one: Version) -> Version:
        return one.model_copy(update={"recipe": {"imported": {}}}) if one.number == imported else one

    in_use = Lineage(made(STUDENT.version), spec(), Lineage(made(TEACHER.version), spec()))
    found = migration(in_use, backbone("new", 12))
    assert found.outcome is Outcome.IMPOSSIBLE
    assert f"rte/{imported} was imported" in found.reason
    assert "trunkline search run rte --backbone new" in found.reason


def test_a_student_of_an_imported_teacher_that_stays_is_distilled_again() -> None:
    teacher = Lineage(TEACHER.version.model_copy(update={"recipe": {"imported": {}}}), spec())
    found = migration(STUDENT._replace(teacher=teacher), backbone("new", 12, shared=8))
    assert [step.teacher for step in found.steps] == [1]


def test_the_current_definition_is_trained_for_and_the_change_is_noted() -> None:
    now = task(spec(labels=["no", "yes", "perhaps"]), revision=3)
    found = migration(STUDENT, backbone("new", 12, shared=8), now)
    assert found.notes == ("trained for spec revision 1, now 3",)
    assert [step.repeats for step in found.steps] == [1, 2], "the teacher answers another question, so it cannot stay"
    assert [step.head.outputs for step in found.steps] == [3, 3]


def test_a_head_that_the_current_definition_cannot_have_is_told() -> None:
    tags = spec(type="token_classification", tag_scheme="bio", labels=["city"], metric="entity_f1")
    mean = version(1, 8, 4, head=HeadConfig(type="classification", outputs=2, pooling="mean"))
    found = migration(Lineage(mean, spec()), backbone("new", 12), task(tags, revision=2))
    assert found.outcome is Outcome.IMPOSSIBLE
    assert "the head of rte/1 does not fit spec revision 2: pooling" in found.reason


def test_only_the_default_learning_rate_goes_by_the_new_width() -> None:
    student = version(2, 9, 1, teacher=1, recipe={"name": "default", "learning_rate": 3e-4})
    found = migration(Lineage(student, spec(), TEACHER), backbone("new", 6, width=384))
    assert [step.recipe["learning_rate"] for step in found.steps] == [1.6e-4, 3e-4]
    assert [step.learning_rate_by_width for step in found.steps] == [True, False]
    assert found.notes == ("learning rate by width",)
    assert found.steps[0].recipe["epochs"] == 5


def test_the_papers_recipe_keeps_its_rate_at_any_width() -> None:
    paper = version(1, 8, 4, recipe={"name": "paper", "learning_rate": 2e-5})
    (step,) = migration(Lineage(paper, spec()), backbone("new", 6, width=384)).steps
    assert step.recipe["learning_rate"] == 2e-5


@pytest.mark.parametrize(
    ("in_use", "of", "reason"),
    [
        (None, task(), "no champion"),
        (None, task(version_count=0), "no version"),
        (
            Lineage(version(1, 8, 4, backbone="third", prefix_digest="third 8"), spec()),
            task(),
            "old does not carry it: it was trained on third",
        ),
        (
            Lineage(version(1, 8, 4, backbone="new", prefix_digest="new 8"), spec()),
            task(),
            "old does not carry it: it was trained on new, and new carries it",
        ),
    ],
)
def test_what_is_not_on_the_old_backbone_is_left_out(in_use: Lineage | None, of: Task, reason: str) -> None:
    found = migration(in_use, backbone("new", 12), of)
    assert (found.outcome, found.reason, found.steps) == (Outcome.LEFT_OUT, reason, ())


@st.composite
def lineages(draw: st.DrawFn) -> tuple[int, Lineage]:
    """Layers of the old backbone, and a student on it."""
    layers = draw(st.integers(1, 12))
    teacher_layers = draw(st.integers(1, layers))
    teacher = version(1, layers - teacher_layers, teacher_layers)
    size = draw(st.integers(1, teacher_layers))
    depth = draw(st.integers(teacher.frozen_depth, layers - size))
    return layers, Lineage(version(2, depth, size, teacher=1), spec(), Lineage(teacher, spec()))


@given(lineages(), st.integers(1, 12), st.integers(-1, 12))
def test_what_is_planned_can_be_registered(made: tuple[int, Lineage], new_layers: int, shared: int) -> None:
    layers, in_use = made
    old, new = backbone("old", layers), backbone("new", new_layers, shared=min(shared, layers))
    found = migration(in_use, new, old=old)
    student, source = in_use.version, in_use.teacher
    assert source is not None
    assert (found.outcome is Outcome.VALID) == new.carries(student)
    if found.outcome is not Outcome.RETRAIN:
        assert not found.steps
        assert found.outcome is Outcome.VALID or source.version.task_layers > new_layers
        return
    teacher = source.version
    for step in found.steps:
        made_there = version(
            step.repeats,
            step.frozen_depth,
            step.task_layers,
            teacher=None if step.kind is VersionKind.TEACHER else teacher.number,
            backbone="new",
            prefix_digest=new.prefix_digests[step.frozen_depth],
        )
        assert not list(backbone_problems(made_there, new))
        if step.kind is VersionKind.TEACHER:
            assert step.frozen_depth + step.task_layers == new_layers
            teacher = made_there
        else:
            assert not list(teacher_problems(made_there, teacher, spec=spec(), taught=spec(), backbone=new))
            assert step.frozen_depth - teacher.frozen_depth == student.frozen_depth - source.version.frozen_depth
