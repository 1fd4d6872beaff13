from typing import Any

import pytest
import torch
from transformers import BertConfig

from modeling.heads import Head, RegressionHead, build_head, initialise_head
from registry.domain.manifests import HeadConfig
from registry.domain.task_specs import TaskType

CONFIG = BertConfig(hidden_size=6, num_attention_heads=1, hidden_dropout_prob=0.25)
HIDDEN = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
WORDS = torch.tensor([[1, 3, -1], [2, -1, -1]])


def answers(head: Head, words: torch.Tensor = WORDS) -> torch.Tensor:
    outputs: torch.Tensor = head(head.read(HIDDEN, torch.ones(2, 5, dtype=torch.bool), words), words)
    return outputs


def head_of(kind: TaskType, outputs: int, **choices: Any) -> Head:
    head = build_head(HeadConfig(type=kind, outputs=outputs, **choices), CONFIG)
    initialise_head(head, deviation=0.5, seed=3)
    return head.eval()


def test_a_text_head_reads_the_first_piece() -> None:
    head = head_of(TaskType.CLASSIFICATION, 4)
    outputs = answers(head)
    assert outputs.shape == (2, 4)
    torch.testing.assert_close(outputs, HIDDEN[:, 0] @ head.linear.weight.T + head.linear.bias)


@pytest.mark.parametrize("kind", [TaskType.CLASSIFICATION, TaskType.REGRESSION])
def test_a_text_head_can_read_the_mean_of_the_pieces_that_are_no_padding(kind: TaskType) -> None:
    head = head_of(kind, 4 if kind is TaskType.CLASSIFICATION else 1, pooling="mean")
    assert not head.first_piece_only
    mask = torch.arange(5) < torch.tensor([5, 3])[:, None]
    features = head.read(HIDDEN, mask, WORDS)
    torch.testing.assert_close(features[0], HIDDEN[0].mean(dim=0))
    torch.testing.assert_close(features[1], HIDDEN[1, :3].mean(dim=0))
    garbage = HIDDEN.masked_fill(~mask[:, :, None], torch.inf)
    assert torch.equal(head.read(garbage, mask, WORDS), features)
    torch.testing.assert_close(head(features, WORDS), features @ head.linear.weight.T + head.linear.bias)


def test_a_mean_over_many_bf16_pieces_is_summed_in_fp32() -> None:
    hidden = torch.ones(1, 2000, 6, dtype=torch.bfloat16)
    features = head_of(TaskType.CLASSIFICATION, 4, pooling="mean").read(hidden, torch.ones(1, 2000).bool(), WORDS)
    assert torch.equal(features, torch.ones(1, 6))


def test_a_token_head_reads_the_first_piece_of_every_word() -> None:
    head = head_of(TaskType.TOKEN_CLASSIFICATION, 3)
    outputs = answers(head)
    assert outputs.shape == (2, 3, 3)
    for row, word, piece in ((0, 0, 1), (0, 1, 3), (1, 0, 2)):
        torch.testing.assert_close(outputs[row, word], head.linear(HIDDEN[row, piece]))


def test_a_word_without_a_piece_gets_zeros() -> None:
    outputs = answers(head_of(TaskType.TOKEN_CLASSIFICATION, 3))
    assert not outputs[WORDS < 0].any()
    assert outputs[WORDS >= 0].all()


def test_a_batch_without_words_has_no_outputs() -> None:
    head = head_of(TaskType.TOKEN_CLASSIFICATION, 3)
    assert answers(head, torch.zeros(2, 0, dtype=torch.int64)).shape == (2, 0, 3)


def test_a_regression_head_answers_in_the_units_of_the_data() -> None:
    head = head_of(TaskType.REGRESSION, 1)
    assert isinstance(head, RegressionHead)
    before = answers(head)
    head.set_target_units(mean=250_000.0, scale=80_000.0)
    torch.testing.assert_close(answers(head), before * 80_000.0 + 250_000.0)
    assert head.target_mean.dtype == head.target_scale.dtype == torch.float32
    assert {"target_mean", "target_scale"} <= head.state_dict().keys()


def test_a_regression_heads_units_are_not_rounded_where_its_products_are() -> None:
    head = head_of(TaskType.REGRESSION, 1)
    assert isinstance(head, RegressionHead)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        standardised = answers(head).float()
        head.set_target_units(mean=300_000.0, scale=1000.0)
        outputs = answers(head)
    assert outputs.dtype == torch.float32
    torch.testing.assert_close(outputs, standardised * 1000.0 + 300_000.0)


@pytest.mark.parametrize(
    ("mean", "scale"), [(0.0, 0.0), (0.0, -1.0), (float("nan"), 1.0), (0.0, float("inf")), (1e39, 1.0), (0.0, 1e-60)]
)
def test_units_that_fp32_cannot_hold_are_refused(mean: float, scale: float) -> None:
    head = head_of(TaskType.REGRESSION, 1)
    assert isinstance(head, RegressionHead)
    with pytest.raises(ValueError, match="cannot be standardised"):
        head.set_target_units(mean=mean, scale=scale)
    assert (head.target_mean.item(), head.target_scale.item()) == (0.0, 1.0)


@pytest.mark.parametrize("kind", list(TaskType))
def test_dropout_is_the_backbones_and_works_in_training_only(kind: TaskType) -> None:
    head = head_of(kind, 1)
    assert head.dropout.p == 0.25
    assert torch.equal(answers(head), answers(head))
    head.train()
    drawn = [answers(head) for _ in range(10)]
    assert not all(torch.equal(answer, drawn[0]) for answer in drawn)


def test_initial_weights_are_decided_by_the_seed_alone() -> None:
    state = torch.get_rng_state()
    first, second = head_of(TaskType.CLASSIFICATION, 50), head_of(TaskType.CLASSIFICATION, 50)
    other = build_head(HeadConfig(type=TaskType.CLASSIFICATION, outputs=50), CONFIG)
    initialise_head(other, deviation=0.5, seed=4)
    assert torch.equal(first.linear.weight, second.linear.weight)
    assert not torch.equal(first.linear.weight, other.linear.weight)
    assert not first.linear.bias.any()
    assert 0.4 < first.linear.weight.std().item() < 0.6
    torch.set_rng_state(state)
    initialise_head(first, deviation=0.5, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
