import json
from dataclasses import asdict

import pytest
import torch

from modeling.parity import TOLERANCE, ParityResult, compare
from registry.domain.task_specs import TaskType

CLASSIFICATION, REGRESSION, TOKENS = TaskType.CLASSIFICATION, TaskType.REGRESSION, TaskType.TOKEN_CLASSIFICATION


def result(reference: list[list], candidate: list[list], kind: TaskType = CLASSIFICATION) -> ParityResult:
    first, second = ([torch.tensor(row) for row in rows] for rows in (reference, candidate))
    return compare(first, second, type=kind, tolerance=1e-4)


def test_equal_outputs_pass_without_any_difference() -> None:
    outputs = [[0.5, -0.5], [1.0, 2.0]]
    assert result(outputs, outputs) == ParityResult(examples=2, largest_difference=0.0, decisions_differ=0, passed=True)


def test_the_largest_difference_over_all_examples_counts() -> None:
    found = result([[0.1, 0.5], [0.2, 0.4]], [[0.1, 0.50002], [0.2, 0.40005]])
    assert found.largest_difference == pytest.approx(5e-5, rel=1e-2)
    assert found.passed


def test_a_difference_beyond_the_tolerance_fails_though_decisions_agree() -> None:
    found = result([[0.0, 0.5]], [[0.0, 0.5002]])
    assert (found.decisions_differ, found.passed) == (0, False)


def test_the_tolerance_grows_with_outputs_above_one() -> None:
    assert result([[-50.0, 20.0]], [[-50.004, 20.0]]).passed
    assert not result([[-50.0, 20.0]], [[-50.006, 20.0]]).passed
    assert result([[250_000.0]], [[250_020.0]], REGRESSION).passed
    assert not result([[0.5]], [[0.5002]], REGRESSION).passed


def test_a_differing_decision_within_the_margin_is_no_difference() -> None:
    found = result([[0.50000, 0.50005]], [[0.50004, 0.50001]])
    assert (found.decisions_differ, found.passed) == (0, True)


def test_a_differing_decision_beyond_the_margin_counts() -> None:
    assert result([[0.5, 0.501], [0.0, 1.0]], [[0.501, 0.5], [0.0, 1.0]]).decisions_differ == 1


def test_every_words_decision_is_compared() -> None:
    reference = [[[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]]
    found = result(reference, [[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]], TOKENS)
    assert found.decisions_differ == 2


def test_a_number_is_no_decision() -> None:
    assert result([[1.0]], [[2.0]], REGRESSION).decisions_differ == 0


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
@pytest.mark.parametrize("side", [0, 1])
def test_an_output_that_is_no_number_fails_and_can_be_written_as_json(broken: float, side: int) -> None:
    outputs = [[[0.0, 1.0]], [[0.0, 1.0]]]
    outputs[side] = [[broken, 1.0]]
    found = result(*outputs)
    assert not found.passed
    json.dumps(asdict(found), allow_nan=False)


def test_nan_in_a_later_example_is_not_hidden_by_an_earlier_one() -> None:
    assert not result([[0.0], [0.0]], [[0.0], [float("nan")]], REGRESSION).passed


def test_an_example_without_words_agrees() -> None:
    assert compare([torch.zeros(0, 3)], [torch.zeros(0, 3)], type=TOKENS, tolerance=1e-4).passed


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(ValueError, match="no examples"):
        compare([], [], type=CLASSIFICATION, tolerance=1e-4)


def test_outputs_that_cannot_be_paired_are_refused() -> None:
    with pytest.raises(ValueError, match="argument"):
        compare([torch.zeros(2)], [torch.zeros(2), torch.zeros(2)], type=CLASSIFICATION, tolerance=1e-4)


def test_an_answer_of_another_shape_is_no_crash_but_differs() -> None:
    found = compare([torch.zeros(2), torch.zeros(2)], [torch.zeros(3), torch.zeros(2)], type=TOKENS, tolerance=1e-4)
    assert not found.passed
    assert found.decisions_differ == 1
    assert found.examples == 2


def test_bf16_outputs_are_compared_at_full_precision() -> None:
    outputs = [torch.tensor([0.1, 0.2], dtype=torch.bfloat16)]
    assert compare(outputs, outputs, type=CLASSIFICATION, tolerance=0.0).passed


def test_fp32_is_held_to_a_tenth_of_a_thousandth() -> None:
    assert TOLERANCE == {"fp32": 1e-4, "bf16": 0.1, "fp16": 0.0125}
