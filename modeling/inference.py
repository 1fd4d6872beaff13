"""The merged model prepared for answering: packed rows, one precision, every answer when its branch is done.

P = pieces on a line, H = hidden size, O = outputs of a head.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from modeling.backbone import Trunk
from modeling.crf import Transitions
from modeling.inference_layers import InferenceLayer, first_piece_layer, scores_a_group
from modeling.packing import Packed
from modeling.task_module import TaskModule
from modeling.text import EncodedText

Precision = Literal["fp32", "bf16", "fp16"]

DTYPES: Mapping[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Form:
    """In which form weights are kept and products computed."""

    precision: Precision
    device: torch.device

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.precision]


@dataclass(frozen=True)
class InferenceTrunk:
    """The frozen part, prepared."""

    embeddings: Trunk
    """The embeddings alone, in fp32: a trunk of no layers."""
    layers: Sequence[InferenceLayer]

    @classmethod
    def of(cls, trunk: Trunk, form: Form) -> Self:
        return cls(
            trunk.up_to(0).to(form.device), [inference_layer(layer, trunk.config, form) for layer in trunk.layers]
        )


def inference_layer(layer: nn.Module, config: PreTrainedConfig, form: Form) -> InferenceLayer:
    return InferenceLayer(layer, config, dtype=form.dtype, device=form.device)


class InferenceBranch:
    """A task's prepared layers, and its head in fp32."""

    def __init__(self, module: TaskModule, frozen_depth: int, form: Form) -> None:
        self.frozen_depth = frozen_depth
        self.head = module.head.to(form.device)
        self.states_below = module.states_below
        own = list(module.layers)
        # A head that mixes states reads each of them, but of the last one too no more than the first piece.
        kinds = [InferenceLayer] * len(own)
        if self.head.first_piece_only:
            kinds[-1] = first_piece_layer(form.dtype, form.device)
        self.layers = [
            kind(layer, module.config, dtype=form.dtype, device=form.device)
            for kind, layer in zip(kinds, own, strict=True)
        ]

    @property
    def transitions(self) -> Transitions | None:
        return self.head.transitions

    def outputs(self, hidden: Tensor, packed: Packed, below: Sequence[Tensor]) -> Tensor:
        """Raw outputs of all rows of the line, fp32, on the CPU: [rows, O], or [words, O] of all words with a piece.

        Args:
            hidden: [P, H], the trunk's state at the branch's depth.
            below: what the head reads of each state below that, [rows, H] or [words, H]; only where it mixes them.
        """
        reading, rows = self.head.reading, packed.rows
        mixed = [*below]
        for layer in self.layers:
            if self.head.mix is not None:
                mixed.append(packed.read(hidden, reading, rows))
            hidden = layer(hidden, packed)
        features = hidden.float() if self.head.first_piece_only else packed.read(hidden, reading, rows)
        if self.head.mix is not None:
            features = self.head.mix(torch.stack([*mixed, features], dim=-2))
        if reading != "words":
            return cast(Tensor, self.head(features, torch.empty(0))).cpu()
        all_have_a_piece = torch.zeros(1, len(features), dtype=torch.int64, device=features.device)
        return cast(Tensor, self.head(features[None], all_have_a_piece)[0]).cpu()


class InferenceModel:
    """A trunk and branches that leave it at their own depths, computed only as far and for whom they are asked."""

    def __init__(self, trunk: InferenceTrunk, branches: Mapping[str, InferenceBranch], form: Form) -> None:
        self.trunk, self.branches, self.form = trunk, branches, form

    def one_pass(self, encoded: Sequence[EncodedText], rows: Mapping[str, Sequence[int]]) -> "Pass":
        """One pass over a batch, which is computed as it is iterated over.

        Args:
            rows: task -> the batch's rows that ask for it, at least one, in the order of their outputs. The order of
                the tasks is that in which they are computed, whatever their depths.
        """
        return Pass(self, encoded, rows)


class Pass:
    """A batch's way up the trunk. Iterated over, it yields each task's raw outputs as soon as its branch is computed:
    task and outputs, fp32 on the CPU, [rows, O] or [words of its rows that have a piece, O].

    The trunk goes on only when the next branch needs a deeper state, and from there on only with the rows that
    somebody still asks about.
    """

    def __init__(
        self, model: InferenceModel, encoded: Sequence[EncodedText], rows: Mapping[str, Sequence[int]]
    ) -> None:
        self._model, self._asked = model, rows
        self._deepest: dict[int, int] = {}
        for task, own in rows.items():
            depth = model.branches[task].frozen_depth
            for row in own:
                self._deepest[row] = max(depth, self._deepest.get(row, 0))
        form = model.form
        cost = scores_a_group(form.dtype, form.device)
        self._packed = Packed(encoded, sorted(self._deepest), device=form.device, scores_a_group=cost)
        self._below: dict[str, list[Tensor]] = {task: [] for task in rows if model.branches[task].states_below}
        self._states: list[tuple[Tensor, Packed]] = []
        """Of the rows that go on, by depth."""
        self._lines: dict[tuple[int, tuple[int, ...]], tuple[Tensor, Packed]] = {}
        """Of the rows that a branch is for, by depth and rows."""

    @property
    def pieces(self) -> int:
        """Of the texts."""
        return self._packed.pieces

    @property
    def padding(self) -> int:
        """Places that attention's blocks leave over, as all rows are laid out where the pass begins."""
        return self._packed.places_left_over

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for task in self._asked:
            yield task, self.outputs(task)

    @torch.inference_mode()
    def reach(self, task: str) -> None:
        """Computes what the task's branch reads, unless it is there already."""
        key = self._model.branches[task].frozen_depth, tuple(self._asked[task])
        if key not in self._lines:
            self._lines[key] = self._state(*key)

    @torch.inference_mode()
    def outputs(self, task: str) -> Tensor:
        """The task's raw outputs, as iterating yields them."""
        self.reach(task)
        branch = self._model.branches[task]
        hidden, packed = self._lines[branch.frozen_depth, tuple(self._asked[task])]
        return branch.outputs(hidden, packed, self._below.get(task, []))

    def _state(self, depth: int, rows: tuple[int, ...]) -> tuple[Tensor, Packed]:
        """The state at a depth of some rows, on a line of their own."""
        if not self._states:
            self._reach(self._embedded(self._packed), self._packed)
        while len(self._states) <= depth:
            self._advance()
        hidden, packed = self._states[depth]
        if packed.rows == rows:
            return hidden, packed
        target = packed.only(rows)
        return packed.gathered(hidden, target), target

    def _advance(self) -> None:
        hidden, packed = self._states[-1]
        depth = len(self._states)
        still = tuple(row for row in packed.rows if self._deepest[row] >= depth)
        if still != packed.rows:
            hidden, packed = self._state(depth - 1, still)
        self._reach(self._model.trunk.layers[depth - 1](hidden, packed), packed)

    def _reach(self, hidden: Tensor, packed: Packed) -> None:
        depth = len(self._states)
        self._states.append((hidden, packed))
        for task, read in self._below.items():
            branch = self._model.branches[task]
            if depth < branch.frozen_depth:
                read.append(packed.read(hidden, branch.head.reading, self._asked[task]))

    def _embedded(self, packed: Packed) -> Tensor:
        trunk = self._model.trunk.embeddings
        ids, types, positions = packed.inputs(first_position=trunk.first_position)
        return trunk.embedded(ids[None], types[None], positions[None])[0].to(self._model.form.dtype)
