from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from modeling.task_module import TaskModule, copy_backbone_layers, new_task_module
from modeling.text import EncodedText
from pipelines.training.activation_cache import EncodedRows
from pipelines.training.objectives import Objective
from pipelines.training.optimisation import TrainingRows, optimise
from pipelines.training.packed_rows import PackedRows
from pipelines.training.recipes import Precision, Recipe
from pipelines.training.trial_state import TrialFolder, TrialState
from registry.domain.manifests import HeadConfig
from registry.domain.task_specs import TaskType
from registry.errors import TrainingFailed
from registry.progress import silent

ROWS, WIDTH, STEPS = 22, 24, 6


def random_rows(dtype: torch.dtype) -> TrainingRows:
    """Random hidden states of 1 to 9 pieces, with labels 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 10, (ROWS,), generator=generator).tolist()
    offsets = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    values = torch.randn(offsets[-1], WIDTH, generator=generator).to(dtype)
    encoded = [EncodedText((0,) * length, (0,) * length, (), (), 0) for length in lengths]
    return TrainingRows(
        activations=PackedRows(values, offsets),
        rows=EncodedRows(encoded, "digest"),
        targets=[torch.tensor([row % 2]) for row in range(ROWS)],
        objective=Objective(type=TaskType.CLASSIFICATION, target_scale=1.0),
        teacher_outputs=None,
    )


@dataclass
class Ended:
    state: TrialState
    module: TaskModule
    scored: int


@pytest.fixture
def train(pinned: Any, tmp_path: Path) -> Callable[..., Ended]:
    """Trains a module of two layers by a recipe of 4 epochs that scores from the third one; metrics by call."""

    def run(
        folder: str = "trial",
        *,
        until_epoch: int | None = None,
        scores: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4),
        learning_rate: float = 1e-2,
        precision: Precision = "fp32",
        report: Callable[[str, int, int], None] = silent,
        seed: int = 0,
    ) -> Ended:
        head = HeadConfig(type=TaskType.CLASSIFICATION, outputs=2)
        module = new_task_module(config=pinned.backbone.config, head=head, task_layers=2, seed=1)
        copy_backbone_layers(module, first_layer=3, layer_blobs=pinned.backbone.layers, store=pinned.store)
        answers = iter(scores)
        scored = []

        def score() -> dict[str, float]:
            scored.append(module.training)
            return {"accuracy": next(answers)}

        recipe = Recipe(learning_rate=learning_rate, epochs=4, evaluate_from=3, batch_size=4, precision=precision)
        state = optimise(
            module,
            random_rows({"fp32": torch.float32, "bf16": torch.bfloat16}[precision]),
            recipe=recipe,
            seed=seed,
            metric="accuracy",
            score=score,
            folder=TrialFolder(tmp_path / folder),
            device=torch.device("cpu"),
            report=report,
            until_epoch=until_epoch,
        )
        assert not any(scored)
        assert not module.training
        return Ended(state, module, len(scored))

    return run


def same_weights(ours: TaskModule, theirs: TaskModule) -> bool:
    return all(torch.equal(one, other) for one, other in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("rungs", [(1,), (2,), (3,), (1, 2, 3)])
def test_a_trial_that_paused_ends_bit_for_bit_where_an_unbroken_one_does(train, precision, rungs):
    whole = train("whole", precision=precision, scores=(0.3, 0.4))
    assert whole.scored == 2
    early = [rung for rung in rungs if rung < 3]
    for rung in rungs:
        paused = train(precision=precision, until_epoch=rung, scores=(0.3,) if rung == 3 else (0.9,))
        assert paused.state.step == rung * STEPS
    ended = train(precision=precision, scores=(0.3, 0.4)[0 if 3 not in rungs else 1 :])
    assert same_weights(ended.module, whole.module)
    assert ended.state.epoch_losses == whole.state.epoch_losses
    assert ended.state.best_epoch == whole.state.best_epoch == 4
    assert sorted(ended.state.epoch_metrics) == sorted({*early, 3, 4})


def test_the_epoch_of_a_pause_is_scored_and_becomes_the_best_one_only_where_the_recipe_scores(train):
    assert train(until_epoch=1, scores=(0.9,)).state.best_epoch is None
    paused = train(until_epoch=3, scores=(0.5,))
    assert paused.state.epoch_metrics == {1: {"accuracy": 0.9}, 3: {"accuracy": 0.5}}
    assert paused.state.best_epoch == 3


def test_a_pause_leaves_the_module_as_it_is_and_the_end_at_its_best_epoch(train):
    third = train("other", until_epoch=3, scores=(0.5,)).module
    paused = train(until_epoch=4, scores=(0.5, 0.4))
    assert paused.state.best_epoch == 3
    assert same_weights(paused.module, third)


def test_asking_again_for_an_epoch_that_is_done_trains_and_scores_nothing(train):
    first = train(until_epoch=2, scores=(0.9,))
    again = train(until_epoch=2, scores=())
    assert again.state.epoch_metrics == first.state.epoch_metrics == {2: {"accuracy": 0.9}}
    assert same_weights(first.module, again.module)
    assert train(until_epoch=1, scores=()).state.step == 2 * STEPS


def test_a_pause_where_a_run_that_was_to_go_further_stopped_is_scored_too(train):
    def stop(stage: str, done: int, total: int) -> None:
        if done > STEPS:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(report=stop)
    paused = train(until_epoch=1, scores=(0.7,))
    assert paused.state.step == STEPS
    assert paused.state.epoch_metrics == {1: {"accuracy": 0.7}}


def test_a_loss_that_is_no_number_fails_and_says_what_to_do(train):
    with pytest.raises(TrainingFailed, match=r"at learning rate 1e\+30; choose a lower --lr"):
        train(learning_rate=1e30)


def test_pausing_before_the_first_epoch_is_refused(train):
    with pytest.raises(ValueError, match="until_epoch is 0"):
        train(until_epoch=0)
