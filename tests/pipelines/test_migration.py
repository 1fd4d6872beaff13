"""What a recorded trial costs on another backbone, counted by hand."""

from typing import Any

import pytest

from pipelines.migration import layer_passes
from registry.domain.manifests import HeadConfig
from registry.domain.migration import RepeatedTrial
from registry.domain.records import VersionKind
from registry.errors import UsageError

TRAIN, DEV = 100, 10


def step(depth: int, layers: int, *, teacher_layers: int | None = None, **recipe: Any) -> RepeatedTrial:
    """A trial whose head reads all pieces, so that every layer counts whole."""
    return RepeatedTrial(
        repeats=1,
        kind=VersionKind.TEACHER if teacher_layers is None else VersionKind.STUDENT,
        frozen_depth=depth,
        task_layers=layers,
        head=HeadConfig(type="classification", outputs=2, pooling="mean"),
        recipe={"learning_rate": 1e-4, "epochs": 5, "evaluate_from": 3, **recipe},
        seed=0,
        learning_rate_by_width=False,
        teacher_layers=teacher_layers,
    )


def passes(*steps: RepeatedTrial) -> float:
    return layer_passes(steps, train_rows=TRAIN, dev_rows=DEV)


TEACHER = 5 * TRAIN * 4 * 3 + 6 * DEV * 4
"""Five epochs of four layers; dev rows after each, and once more in fp32."""
STUDENT = 5 * TRAIN * 3 + 6 * DEV + 4 * TRAIN
"""One layer, and its teacher's four once forward over the training rows."""


def test_a_teacher_costs_its_epochs_its_evaluations_and_the_frozen_layers_once() -> None:
    assert passes(step(8, 4)) == TEACHER + 8 * (TRAIN + DEV)


def test_the_frozen_layers_are_counted_once_for_teacher_and_student() -> None:
    assert passes(step(8, 4), step(9, 1, teacher_layers=4)) == TEACHER + STUDENT + 9 * (TRAIN + DEV)


def test_another_precision_is_another_pass_over_the_training_rows() -> None:
    both = passes(step(8, 4, precision="bf16"), step(9, 1, teacher_layers=4))
    assert both == TEACHER + STUDENT + (8 + 9) * TRAIN + 9 * DEV


def test_of_a_last_layer_that_is_read_at_one_piece_a_twelfth_is_counted() -> None:
    whole = step(0, 1)
    first = whole.model_copy(update={"head": HeadConfig(type="classification", outputs=2)})
    assert passes(first) == pytest.approx(passes(whole) / 12)


def test_nothing_left_to_run_costs_nothing() -> None:
    assert passes() == 0


def test_a_recipe_that_is_not_known_is_refused() -> None:
    with pytest.raises(UsageError, match="momentum: is no known field"):
        passes(step(8, 4, momentum=0.9))
