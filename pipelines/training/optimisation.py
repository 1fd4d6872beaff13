"""The training loop of one module on cached activations: decided by its seed alone, and able to go on after a kill.

The order of the rows comes from (seed, epoch) and the dropout of a step from (seed, step), so that a run that was
interrupted ends bit for bit where an uninterrupted one does.
"""

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW

from modeling.heads import SCALARS
from modeling.task_module import TaskModule
from pipelines.training.activation_cache import EncodedRows, computing_in
from pipelines.training.batches import cached_batch, epoch_batches
from pipelines.training.objectives import Objective, TeacherAnswers
from pipelines.training.packed_rows import RowTensors
from pipelines.training.recipes import Recipe
from pipelines.training.trial_state import TrialFolder, TrialState
from pipelines.training.trunk_features import TrunkFeatures
from registry.errors import TrainingFailed
from registry.fault_points import reached
from registry.progress import Report

SAVE_EVERY_SECONDS = 60.0

Score = Callable[[], dict[str, float]]
"""Scores the module as it stands on the dev data."""


@dataclass(frozen=True)
class TrainingRows:
    """Everything about the training data that a step reads."""

    activations: RowTensors
    rows: EncodedRows
    targets: Sequence[Tensor]
    """One a row, [places(row)]: label numbers (int64) or a number (float32)."""
    objective: Objective
    teacher_outputs: RowTensors | None
    """[places(row), O] fp32."""
    teacher_features: RowTensors | None = None
    """[places(row), H] fp32."""
    below: TrunkFeatures | None = None
    """What the head reads of the states below the branch, where it mixes them."""

    def teacher_answers(self, batch: Sequence[int], device: torch.device) -> TeacherAnswers | None:
        """What the teacher says to some rows; None where there is no teacher."""
        if self.teacher_outputs is None:
            return None
        features = self.teacher_features
        return TeacherAnswers(
            outputs=torch.cat(self.teacher_outputs.rows(batch)).to(device),
            features=None if features is None else torch.cat(features.rows(batch)).to(device),
        )


def learning_rate_at(step: int, total: int, recipe: Recipe) -> float:
    """Linear warm-up over the first share of the steps, then linear decay to zero."""
    warmup = max(1, round(total * recipe.warmup_share))
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    return recipe.learning_rate * (total - step) / max(1, total - warmup)


def new_optimiser(module: TaskModule, recipe: Recipe) -> AdamW:
    """AdamW with decoupled decay on matrices only; biases and layer norms are left out, as BERT does.

    A CRF's scores and a mix's weights do not decay either, and have a rate of their own (`Recipe.scalar_rate`).
    """
    scalars = [p for part in module.modules() if isinstance(part, SCALARS) for p in part.parameters()]
    of_their_own = set(map(id, scalars))
    parameters = [p for p in module.parameters() if id(p) not in of_their_own]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    if scalars:
        groups.append({"params": scalars, "weight_decay": 0.0, "times": recipe.scalar_rate / recipe.learning_rate})
    return AdamW(groups, lr=recipe.learning_rate, betas=(recipe.beta1, recipe.beta2), eps=recipe.epsilon, fused=True)


def optimise(
    module: TaskModule,
    train: TrainingRows,
    *,
    recipe: Recipe,
    seed: int,
    metric: str,
    score: Score,
    folder: TrialFolder,
    device: torch.device,
    report: Report,
    until_epoch: int | None = None,
) -> TrialState:
    """Trains the module in place and leaves it at its best scored epoch.

    Args:
        until_epoch: pause once so many epochs are done: the state is saved, that epoch is scored, and the module stays
            as it is then. The same call without it goes on, and ends bit for bit where an unbroken run ends.

    Returns:
        The state: losses and dev metrics by epoch, and the best epoch by `metric` (the earlier of equals) of those
        from `recipe.evaluate_from` on.

    Raises:
        TrainingFailed: the loss or a weight is no number any more.
        StorageError: the state cannot be written.
        ValueError: `until_epoch` is below 1.
    """
    if until_epoch is not None and until_epoch < 1:
        raise ValueError(f"until_epoch is {until_epoch}, but the first epoch is 1")
    optimiser = new_optimiser(module, recipe)
    state = folder.load(module, optimiser)
    steps = math.ceil(len(train.rows) / recipe.batch_size)
    total = steps * recipe.epochs
    last_epoch = min(until_epoch or recipe.epochs, recipe.epochs)
    lengths = train.rows.lengths
    losses = _Losses(state, recipe)
    saved_at = time.monotonic()
    while state.step < steps * last_epoch:
        epoch = state.step // steps + 1
        batches = epoch_batches(lengths, batch_size=recipe.batch_size, seed=seed, epoch=epoch)
        module.train()
        for batch in batches[state.step % steps :]:
            _set_learning_rate(optimiser, learning_rate_at(state.step, total, recipe))
            seed_of_step = _step_seed(seed, state.step)
            losses.add(training_step(module, optimiser, train, batch, recipe=recipe, seed=seed_of_step, device=device))
            state.step += 1
            report(f"epoch {epoch} of {recipe.epochs}", state.step, total)
            if state.step % steps and time.monotonic() - saved_at > SAVE_EVERY_SECONDS:
                losses.read()
                folder.save(state, module, optimiser)
                saved_at = time.monotonic()
        losses.read()
        _refuse_broken_weights(module, recipe)
        state.epoch_losses[epoch], state.loss_sum = state.loss_sum / steps, 0.0
        _score_epoch(state, module, epoch=epoch, score=score)
        if epoch >= recipe.evaluate_from:
            _keep_if_best(state, module, epoch=epoch, metric=metric)
        folder.save(state, module, optimiser)
        saved_at = time.monotonic()
    if state.step == total and state.best_module is not None:
        module.load_state_dict(state.best_module)
    module.eval()
    return state


def _set_learning_rate(optimiser: AdamW, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate * group.get("times", 1.0)


def _step_seed(seed: int, step: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {step}".encode()).digest()[:7])


def _seed(seed: int, device: torch.device) -> None:
    """What `torch.manual_seed` does, for what a step draws from alone: where CUDA is not started that one keeps a trace
    of the stack for each kind of device, 0.5 ms a step (docs/training_speed.md)."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def training_step(
    module: TaskModule,
    optimiser: AdamW,
    train: TrainingRows,
    batch: Sequence[int],
    *,
    recipe: Recipe,
    seed: int,
    device: torch.device,
) -> Tensor | None:
    """One optimiser step over the batch's rows.

    Returns:
        Its loss, a scalar on the device; None when the batch has nothing to learn from.
    """
    targets = torch.cat([train.targets[row] for row in batch]).to(device)
    if not len(targets):  # words the tokenizer swallows whole leave nothing to learn
        return None
    cached = cached_batch(train.activations, train.rows.encoded, batch, device, train.below)
    teacher = train.teacher_answers(batch, device)
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        _seed(seed, device)
        with computing_in(recipe.precision, device):
            features = module.features(cached.hidden, cached.mask, cached.word_tokens, cached.below)
            loss = train.objective.loss(module.head, features, cached.word_tokens, targets, teacher)
        loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(module.parameters(), recipe.clip_norm)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return loss.detach()


class _Losses:
    """Losses on their way to the state's sum. Reading one waits for the device, so they are read some at a time."""

    _READ_AT = 16

    def __init__(self, state: TrialState, recipe: Recipe) -> None:
        self._state = state
        self._recipe = recipe
        self._unread: list[Tensor] = []

    def add(self, loss: Tensor | None) -> None:
        """Raises TrainingFailed when a loss was no number, some steps later at most."""
        if loss is not None:
            self._unread.append(loss)
        if len(self._unread) >= self._READ_AT:
            self.read()

    def read(self) -> None:
        """Adds up what was not read yet, in the order of the steps; to be called before the state is saved.

        Raises:
            TrainingFailed: a loss is no number.
        """
        values: list[float] = torch.stack(self._unread).tolist() if self._unread else []
        self._unread.clear()
        for value in values:
            if not math.isfinite(value):
                raise _diverged(f"the loss became {value}", self._recipe)
            self._state.loss_sum += value


def _refuse_broken_weights(module: TaskModule, recipe: Recipe) -> None:
    """The loss of a step says nothing of the weights that it leaves: those of an epoch's last step nobody has used."""
    if not all(parameter.isfinite().all() for parameter in module.parameters()):
        raise _diverged("weights became no numbers", recipe)


def _diverged(what: str, recipe: Recipe) -> TrainingFailed:
    return TrainingFailed(f"training diverged: {what} at learning rate {recipe.learning_rate:g}; choose a lower --lr")


def _score_epoch(state: TrialState, module: TaskModule, *, epoch: int, score: Score) -> None:
    module.eval()
    state.epoch_metrics[epoch] = score()
    reached("train.epoch-scored")


def _keep_if_best(state: TrialState, module: TaskModule, *, epoch: int, metric: str) -> None:
    best = state.epoch_metrics.get(state.best_epoch or 0)
    if best is None or state.epoch_metrics[epoch][metric] > best[metric]:
        state.best_epoch = epoch
        state.best_module = {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}
