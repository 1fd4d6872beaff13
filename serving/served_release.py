"""A release as the engine serves it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from modeling.batching import all_words, place_counts
from modeling.decoding import Answer, LabelAnswer, NumberAnswer, decode_words, probabilities_of
from modeling.inference import InferenceModel
from modeling.text import EncodedText, TextEncoder
from registry.domain.manifests import Manifest
from registry.domain.task_specs import TaskType
from serving.answer_cache import branch_keys


@dataclass(frozen=True, eq=False)
class ServedRelease:
    """A verified release in memory, in the precision that it is served in."""

    name: str
    """What people call it: `r3`."""
    digest: str
    """Of its manifest."""
    manifest: Manifest
    model: InferenceModel
    encoder: TextEncoder
    branch_keys: Mapping[str, bytes] = field(init=False, repr=False)
    """What each task's answers depend on beside the text."""
    branch_costs: Mapping[str, float] = field(init=False, repr=False)
    """Of each branch, for a piece, in layers of the trunk."""

    def __post_init__(self) -> None:
        costs = {task: sum(layer.share for layer in branch.layers) for task, branch in self.model.branches.items()}
        object.__setattr__(self, "branch_keys", branch_keys(self.manifest, self.precision))
        object.__setattr__(self, "branch_costs", costs)

    @property
    def precision(self) -> str:
        """fp32, bf16 or fp16."""
        return self.model.form.precision

    def row_outputs(self, task: str, outputs: Tensor, encoded: Sequence[EncodedText]) -> list[Tensor]:
        """A branch's raw outputs row by row, as heads give them: [O], or [words of the row, O], those without a piece
        with them."""
        if self.manifest.tasks[task].type is TaskType.TOKEN_CLASSIFICATION:
            return [all_words(one, row) for one, row in zip(_by_row(outputs, encoded), encoded, strict=True)]
        return list(outputs)

    def decoded(self, task: str, outputs: Tensor, texts: Sequence[str], encoded: Sequence[EncodedText]) -> list[Answer]:
        """A branch's raw outputs as answers, one a row.

        Args:
            outputs: as `InferenceModel.one_pass` gives them: [rows, O], or [words of the rows that have a piece, O].
            texts: each row's first text.
            encoded: the rows, with their words or without.
        """
        branch = self.manifest.tasks[task]
        if branch.type is TaskType.REGRESSION:
            return [NumberAnswer(value=value) for value in outputs[:, 0].tolist()]
        if branch.type is TaskType.CLASSIFICATION:
            # All rows at once: row by row this would take longer than a small model.
            rows = probabilities_of(outputs).tolist()
            best = outputs.argmax(dim=-1).tolist()
            return [
                LabelAnswer(
                    label=branch.labels[likeliest],
                    probability=row[likeliest],
                    probabilities=dict(zip(branch.labels, row, strict=True)),
                )
                for row, likeliest in zip(rows, best, strict=True)
            ]
        transitions = self.model.branches[task].transitions
        return [
            decode_words(
                one,
                labels=branch.labels,
                tag_scheme=branch.tag_scheme,
                text=text,
                encoded=row.whole(text),
                transitions=transitions,
            )
            for one, text, row in zip(_by_row(outputs, encoded), texts, encoded, strict=True)
        ]


def _by_row(outputs: Tensor, encoded: Sequence[EncodedText]) -> Sequence[Tensor]:
    """Of a batch's words that have a piece to each row's."""
    return torch.split(outputs, place_counts(encoded, token_level=True))
