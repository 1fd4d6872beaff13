from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from modeling.heads import SCALARS
from modeling.task_module import TaskModule, copy_backbone_layers, new_task_module
from modeling.text import EncodedText
from pipelines.training import optimisation
from pipelines.training.activation_cache import EncodedRows
from pipelines.training.objectives import Objective
from pipelines.training.optimisation import TrainingRows, optimise, training_step
from pipelines.training.packed_rows import PackedRows
from pipelines.training.recipes import Precision, Recipe
from pipelines.training.trial_state import TrialFolder, TrialState
from pipelines.training.trunk_features import TrunkFeatures
from registry.domain.manifests import HeadConfig
from registry.domain.task_specs import TaskType
from registry.errors import TrainingFailed
from registry.progress import silent

ROWS, WIDTH, STEPS = 22, 24, 6


PLAIN = HeadConfig(type=TaskType.CLASSIFICATION, outputs=2)
MIX = HeadConfig(type=TaskType.CLASSIFICATION, outputs=2, gather="mix")
CRF = HeadConfig(type=TaskType.TOKEN_CLASSIFICATION, outputs=3, crf=True)


def random_rows(dtype: torch.dtype, head: HeadConfig = PLAIN) -> TrainingRows:
    """Random hidden states of 1 to 9 pieces above layer 2, with labels 0 and 1; every piece is a word."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 10, (ROWS,), generator=generator).tolist()
    offsets = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    values = torch.randn(offsets[-1], WIDTH, generator=generator).to(dtype)
    encoded = [EncodedText((0,) * length, (0,) * length, (), tuple(range(length)), length) for length in lengths]
    below = torch.randn(ROWS * 2, WIDTH, generator=generator).to(dtype)
    mixed = TrunkFeatures(PackedRows(below, range(0, 2 * ROWS + 1, 2)), 2, "first") if head.gather == "mix" else None
    counts = lengths if head.reading == "words" else [1] * ROWS
    return TrainingRows(
        activations=PackedRows(values, offsets),
        rows=EncodedRows(encoded, "digest"),
        targets=[torch.tensor([row % 2] * count) for row, count in enumerate(counts)],
        objective=Objective(type=head.type, target_scale=1.0),
        teacher_outputs=None,
        below=mixed,
    )


@dataclass
class Ended:
    state: TrialState
    module: TaskModule
    scored: int


@pytest.fixture
def train(pinned: Any, tmp_path: Path) -> Callable[..., Ended]:
    """Trains a module of two layers by a recipe of 4 epochs whose best one is from the third on; metrics by epoch."""
    done: Counter[str] = Counter()

    def run(
        folder: str = "trial",
        *,
        until_epoch: int | None = None,
        scores: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4),
        learning_rate: float = 1e-2,
        precision: Precision = "fp32",
        report: Callable[[str, int, int], None] = silent,
        seed: int = 0,
        head: HeadConfig = PLAIN,
    ) -> Ended:
        module = new_task_module(config=pinned.backbone.config, head=head, task_layers=2, seed=1, frozen_depth=2)
        copy_backbone_layers(module, first_layer=3, layer_blobs=pinned.backbone.layers, store=pinned.store)
        scored = []

        def score() -> dict[str, float]:
            scored.append(module.training)
            done[folder] += 1
            return {"accuracy": scores[done[folder] - 1]}

        recipe = Recipe(learning_rate=learning_rate, epochs=4, evaluate_from=3, batch_size=4, precision=precision)
        state = optimise(
            module,
            random_rows({"fp32": torch.float32, "bf16": torch.bfloat16}[precision], head),
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


@pytest.mark.parametrize(
    ("head", "precision", "rungs"),
    [
        *((PLAIN, precision, rungs) for precision in ("fp32", "bf16") for rungs in ((1,), (2,), (3,), (1, 2, 3))),
        *((head, precision, (1, 3)) for head in (MIX, CRF) for precision in ("fp32", "bf16")),
    ],
)
def test_a_trial_that_paused_ends_bit_for_bit_where_an_unbroken_one_does(train, head, precision, rungs):
    train = partial(train, head=head, precision=precision)
    whole = train("whole")
    assert whole.scored == 4
    for rung in rungs:
        assert train(until_epoch=rung).state.step == rung * STEPS
    ended = train()
    assert same_weights(ended.module, whole.module)
    assert ended.state.epoch_losses == whole.state.epoch_losses
    assert ended.state.epoch_metrics == whole.state.epoch_metrics
    assert ended.state.best_epoch == whole.state.best_epoch == 4
    scalars = [part for part in ended.module.modules() if isinstance(part, SCALARS)]
    fresh = [type(part)(len(next(part.parameters()))) for part in scalars]
    for part, other in zip(scalars, fresh, strict=True):
        for trained, initial in zip(part.parameters(), other.parameters(), strict=True):
            assert not torch.equal(trained, initial), "it has not learnt, so that nothing of it was resumed"
    assert bool(scalars) is (head is not PLAIN)


def test_every_epoch_is_scored_and_becomes_the_best_one_only_from_where_the_recipe_says(train):
    assert train(until_epoch=1, scores=(0.9,)).state.best_epoch is None
    paused = train(until_epoch=3, scores=(0.9, 0.8, 0.5))
    assert paused.state.epoch_metrics == {1: {"accuracy": 0.9}, 2: {"accuracy": 0.8}, 3: {"accuracy": 0.5}}
    assert paused.state.best_epoch == 3


def test_a_pause_leaves_the_module_as_it_is_and_the_end_at_its_best_epoch(train):
    third = train("other", until_epoch=3).module
    paused = train(until_epoch=4, scores=(0.1, 0.2, 0.5, 0.4))
    assert paused.state.best_epoch == 3
    assert same_weights(paused.module, third)


def test_asking_again_for_an_epoch_that_is_done_trains_and_scores_nothing(train):
    first = train(until_epoch=2)
    again = train(until_epoch=2)
    assert again.scored == 0
    assert again.state.epoch_metrics == first.state.epoch_metrics == {1: {"accuracy": 0.1}, 2: {"accuracy": 0.2}}
    assert same_weights(first.module, again.module)
    assert train(until_epoch=1).state.step == 2 * STEPS


def test_a_pause_where_a_run_that_was_to_go_further_stopped_has_its_score(train):
    def stop(stage: str, done: int, total: int) -> None:
        if done > STEPS:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(report=stop)
    paused = train(until_epoch=1)
    assert (paused.state.step, paused.scored) == (STEPS, 0)
    assert paused.state.epoch_metrics == {1: {"accuracy": 0.1}}


def test_a_loss_that_is_no_number_fails_and_says_what_to_do(train):
    with pytest.raises(TrainingFailed, match=r"at learning rate 1e\+30; choose a lower --lr"):
        train(learning_rate=1e30)


def test_weights_that_are_no_numbers_after_the_last_step_fail_the_training_too(train, monkeypatch):
    done = []

    def breaking(module: TaskModule, *arguments: Any, **named: Any) -> torch.Tensor | None:
        loss = training_step(module, *arguments, **named)
        done.append(loss)
        if len(done) == 4 * STEPS:
            module.head.linear.bias.data.fill_(torch.nan)
        return loss

    monkeypatch.setattr(optimisation, "training_step", breaking)
    with pytest.raises(TrainingFailed, match=r"weights became no numbers at learning rate 0\.01; choose a lower --lr"):
        train()


def test_pausing_before_the_first_epoch_is_refused(train):
    with pytest.raises(ValueError, match="until_epoch is 0"):
        train(until_epoch=0)
