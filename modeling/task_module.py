"""A task's branch: its own layers and its head; never a frozen layer.

B = rows, T = pieces, W = words, H = hidden size.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from modeling.backbone import Attention, compute_buffers, fill_part, layers_of, meta_model
from modeling.crf import Transitions
from modeling.encoder_layers import layer_states
from modeling.heads import Head, build_head, initialise_head
from modeling.weights import fill
from registry.artifacts.safetensors_file import safetensors_bytes
from registry.artifacts.store import ArtifactStore
from registry.domain.digests import TensorBytes
from registry.domain.manifests import HeadConfig, Reading
from registry.errors import InvalidWeights


class TaskModule(nn.Module):
    """Task layers, then the head."""

    def __init__(self, config: PreTrainedConfig, layers: nn.ModuleList, head: Head) -> None:
        super().__init__()
        self.config = config
        self.layers = layers
        self.head = head

    @property
    def reads_below(self) -> Reading | None:
        """What of each state below the branch's depth `features` needs; None where it needs none."""
        return self.head.reading if self.states_below else None

    @property
    def states_below(self) -> int:
        """Of how many states below its own depth the head mixes something: the depth, or 0."""
        return 0 if self.head.mix is None else len(self.head.mix.weights) - len(self.layers) - 1

    def features(self, hidden: Tensor, batch_mask: Tensor, word_tokens: Tensor, below: Tensor | None = None) -> Tensor:
        """What the head answers from: [B, H], or [B, W, H] for token classification.

        Args:
            hidden: [B, T, H], the trunk's hidden state at the branch's depth.
            batch_mask: [B, T] bool, False on padding.
            word_tokens: [B, W] int64, -1 where a word has no piece.
            below: [B, k, H] or [B, W, k, H], what the head reads of the embeddings and the frozen layers below that
                depth; only where `reads_below` asks for it.

        Raises:
            ValueError: `below` is not of as many states as the head mixes.
        """
        if (0 if below is None else below.shape[-2]) != self.states_below:
            found = "none" if below is None else str(below.shape[-2])
            raise ValueError(f"the head mixes {self.states_below} states below its depth, and was given {found}")
        states = layer_states(
            list(self.layers), self.config, hidden, batch_mask, first_piece_only=self.head.first_piece_only
        )
        mix = self.head.mix
        if mix is None or not len(hidden):
            return self.head.read(states[-1], batch_mask, word_tokens)
        own = torch.stack([self.head.read(state, batch_mask, word_tokens) for state in (hidden, *states)], dim=-2)
        mixed: Tensor = mix(own if below is None else torch.cat([below, own], dim=-2))
        return mixed

    @property
    def transitions(self) -> Transitions | None:
        """What a CRF lets follow what, for decoding the outputs; None of a head without one."""
        return self.head.transitions

    def forward(self, hidden: Tensor, batch_mask: Tensor, word_tokens: Tensor, below: Tensor | None = None) -> Tensor:
        """Raw outputs, before any softmax: [B, outputs], or [B, W, outputs] for token classification.

        Arguments as those of `features`.
        """
        outputs: Tensor = self.head(self.features(hidden, batch_mask, word_tokens, below), word_tokens)
        return outputs


def new_task_module(
    *,
    config: Mapping[str, Any],
    head: HeadConfig,
    task_layers: int,
    seed: int,
    frozen_depth: int | None = None,
    attention: Attention = "sdpa",
) -> TaskModule:
    """A module whose head is initialised from the seed, and whose layers are still to be copied from somewhere.

    Until then the layers hold NaN: a layer that was forgotten shows in the first output.

    Args:
        frozen_depth: k; only a head that mixes hidden states asks.
    """
    module = _meta_module(
        config=config, head=head, task_layers=task_layers, frozen_depth=frozen_depth, attention=attention
    )
    tensors = {name: torch.full(tensor.shape, torch.nan) for name, tensor in module.layers.state_dict().items()}
    module.layers.load_state_dict(tensors, strict=True, assign=True)
    with torch.random.fork_rng(devices=[]):  # nn.Linear draws from the global generator, only to be overwritten
        module.head = build_head(head, module.config, states=_states(frozen_depth, task_layers))
    initialise_head(module.head, deviation=module.config.initializer_range, seed=seed)
    return module.train()


def copy_backbone_layers(
    module: TaskModule, *, first_layer: int, layer_blobs: Sequence[str], store: ArtifactStore
) -> None:
    """Fills the module's layers with the backbone's layers `first_layer`, `first_layer` + 1, … (counted from 1).

    The layers' parameters are replaced by new ones: make the optimiser afterwards.

    Args:
        layer_blobs: all layers of the backbone, from layer 1.

    Raises:
        ValueError: the backbone has fewer layers.
        InvalidWeights, ArtifactMissing, ArtifactDamaged: a blob cannot be used.
    """
    last_layer = first_layer + len(module.layers) - 1
    if not 1 <= first_layer <= last_layer <= len(layer_blobs):
        raise ValueError(f"layers {first_layer} to {last_layer} of a backbone of {len(layer_blobs)}")
    for number, layer in enumerate(module.layers, start=first_layer):
        fill_part(layer, layer_blobs[number - 1], store, subject=f"the backbone's layer {number}")


def module_bytes(module: TaskModule) -> bytes:
    """The module as safetensors, all F32, named `layers.0.…` and `head.…`; equal weights give equal bytes.

    Raises:
        InvalidWeights: a tensor holds NaN or an infinity: such a module answers nothing.
    """
    tensors = {name: tensor.detach().to("cpu", torch.float32) for name, tensor in module.state_dict().items()}
    if broken := sorted(name for name, tensor in tensors.items() if not tensor.isfinite().all()):
        raise InvalidWeights(f"the module holds NaN or infinity, in {', '.join(broken)}: its training diverged")
    return safetensors_bytes(
        TensorBytes(name, "F32", tuple(tensor.shape), tensor.contiguous().numpy().tobytes())
        for name, tensor in tensors.items()
    )


def load_task_module(
    path: Path,
    *,
    subject: str,
    config: Mapping[str, Any],
    head: HeadConfig,
    task_layers: int,
    frozen_depth: int | None = None,
    attention: Attention = "sdpa",
) -> TaskModule:
    """Reads a module from its verified blob, in eval mode.

    Args:
        subject: which module it is ("rte/3"), for the error.
        frozen_depth: k; only a head that mixes hidden states asks, whose weights must be k + l + 1.

    Raises:
        InvalidWeights: its tensors are not exactly the expected ones; lists every one that is missing, extra,
            misshapen or not F32.
    """
    module = _meta_module(
        config=config, head=head, task_layers=task_layers, frozen_depth=frozen_depth, attention=attention
    )
    fill(module, path, subject=subject, dtypes=("F32",))
    return module.eval()


def _states(frozen_depth: int | None, task_layers: int) -> int | None:
    """Hidden states from the embeddings to the branch's last layer."""
    return None if frozen_depth is None else frozen_depth + task_layers + 1


def _meta_module(
    *,
    config: Mapping[str, Any],
    head: HeadConfig,
    task_layers: int,
    frozen_depth: int | None,
    attention: Attention,
) -> TaskModule:
    model = meta_model(config, layers=task_layers, attention=attention)
    with torch.device("meta"):
        built = build_head(head, model.config, states=_states(frozen_depth, task_layers))
    layers = layers_of(model, config)
    compute_buffers(model, layers)
    return TaskModule(model.config, layers, built)
