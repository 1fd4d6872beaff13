"""Where a trial stands, on disk: safetensors and JSON, whole or not at all, so that kill -9 costs minutes at most."""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from torch.optim import AdamW

from modeling.task_module import TaskModule
from registry.artifacts.atomic_file import write_atomically
from registry.fault_points import reached

logger = logging.getLogger(__name__)

_DAMAGES = (ValueError, KeyError, TypeError, AttributeError)
"""What reading a document raises that is no JSON, or JSON of something else."""


@dataclass
class TrialState:
    """What a trial needs to go on exactly where it was."""

    step: int = 0
    """Optimiser steps done."""
    epoch_metrics: dict[int, dict[str, float]] = field(default_factory=dict)
    """Epoch (from 1) -> dev metrics, for the epochs that were scored."""
    epoch_losses: dict[int, float] = field(default_factory=dict)
    """Epoch (from 1) -> mean training loss."""
    loss_sum: float = 0.0
    """Of the steps done in the epoch under way."""
    best_epoch: int | None = None
    best_module: dict[str, Tensor] | None = None


class TrialFolder:
    """One trial's state on disk. `state.json` names the tensor file that belongs to it and its sha256."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def save(self, state: TrialState, module: TaskModule, optimiser: AdamW) -> None:
        """Replaces what was saved before; raises StorageError when it cannot be written, leaving the former state."""
        tensors = {f"module.{name}": value.detach().cpu() for name, value in module.state_dict().items()}
        for name, parameter in module.named_parameters():
            for moment in ("exp_avg", "exp_avg_sq"):
                if parameter in optimiser.state:
                    tensors[f"{moment}.{name}"] = optimiser.state[parameter][moment].cpu()
        for name, value in (state.best_module or {}).items():
            tensors[f"best.{name}"] = value
        data = safetensors.torch.save({name: value.contiguous() for name, value in tensors.items()})
        digest = hashlib.sha256(data).hexdigest()
        write_atomically(self.path / f"{digest}.safetensors", data)
        reached("train.tensors-saved")
        document = {
            "step": state.step,
            "optimiser_step": _optimiser_step(optimiser),
            "epoch_metrics": state.epoch_metrics,
            "epoch_losses": state.epoch_losses,
            "loss_sum": state.loss_sum,
            "best_epoch": state.best_epoch,
            "tensors": digest,
        }
        write_atomically(self.path / "state.json", json.dumps(document).encode())
        reached("train.state-saved")
        for old in self.path.glob("*.safetensors"):
            if old.stem != digest:
                old.unlink()

    def load(self, module: TaskModule, optimiser: AdamW) -> TrialState:
        """Puts the module and the optimiser where they were saved; a fresh state when nothing whole is there."""
        try:
            document = json.loads((self.path / "state.json").read_bytes())
            data = (self.path / f"{document['tensors']}.safetensors").read_bytes()
            if hashlib.sha256(data).hexdigest() != document["tensors"]:
                raise ValueError("the tensors are not those that were saved")
            tensors = safetensors.torch.load(data)
            state, optimiser_step = _state(document, _under("best.", tensors)), int(document["optimiser_step"])
        except FileNotFoundError:
            return TrialState()
        except _DAMAGES:
            logger.warning("%s: the saved state is damaged; starting the trial again", self.path)
            return TrialState()
        module.load_state_dict(_under("module.", tensors))
        _restore_moments(optimiser, module, tensors, optimiser_step)
        return state


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _optimiser_step(optimiser: AdamW) -> int:
    """Updates done: a step whose batch has nothing to learn from is none."""
    return max((int(moments["step"]) for moments in optimiser.state.values()), default=0)


def _restore_moments(optimiser: AdamW, module: TaskModule, tensors: Mapping[str, Tensor], step: int) -> None:
    for name, parameter in module.named_parameters():
        if f"exp_avg.{name}" in tensors:
            optimiser.state[parameter] = {
                "step": torch.tensor(float(step), device=parameter.device),
                "exp_avg": tensors[f"exp_avg.{name}"].to(parameter.device),
                "exp_avg_sq": tensors[f"exp_avg_sq.{name}"].to(parameter.device),
            }


def _state(document: Mapping[str, Any], best: dict[str, Tensor]) -> TrialState:
    return TrialState(
        step=int(document["step"]),
        epoch_metrics={int(epoch): metrics for epoch, metrics in document["epoch_metrics"].items()},
        epoch_losses={int(epoch): loss for epoch, loss in document["epoch_losses"].items()},
        loss_sum=float(document["loss_sum"]),
        best_epoch=document["best_epoch"],
        best_module=best or None,
    )
