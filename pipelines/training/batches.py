"""Which rows go together, and how their cached parts become one padded batch."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from modeling.text import NO_TOKEN, EncodedText
from pipelines.training.packed_rows import RowTensors
from pipelines.training.trunk_features import TrunkFeatures

_BATCHES_A_BUCKET = 50
"""Rows are sorted by length within so many batches: nearly no padding, and still a fresh order every epoch."""


def epoch_batches(lengths: Sequence[int], *, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The batches of one epoch: every row once, rows of like length together, decided by seed and epoch alone."""
    shuffle = random.Random(f"{seed} {epoch}").shuffle  # noqa: S311 - an order, not a secret
    rows = list(range(len(lengths)))
    shuffle(rows)
    bucket = batch_size * _BATCHES_A_BUCKET
    batches = []
    for begin in range(0, len(rows), bucket):
        alike = sorted(rows[begin : begin + bucket], key=lambda row: lengths[row])
        batches += [alike[first : first + batch_size] for first in range(0, len(alike), batch_size)]
    shuffle(batches)
    return batches


@dataclass(frozen=True)
class CachedBatch:
    hidden: Tensor
    """[B, T, H], zero where padded."""
    mask: Tensor
    """[B, T] bool."""
    word_tokens: Tensor
    """[B, W] int64, NO_TOKEN where there is none."""
    below: Tensor | None = None
    """What a mixing head reads of the frozen layers: [B, k, H], or [B, W, k, H] at word level."""


def cached_batch(
    activations: RowTensors,
    encoded: Sequence[EncodedText],
    rows: Sequence[int],
    device: torch.device,
    below: TrunkFeatures | None = None,
) -> CachedBatch:
    """Pads the cached hidden states of some rows to the longest of them, and no further: padding is computed too."""
    hidden = activations.rows(rows)
    lengths = torch.tensor([len(one) for one in hidden])
    padded = pad_sequence(hidden, batch_first=True)
    words = pad_sequence(
        [torch.tensor(encoded[row].word_tokens, dtype=torch.int64) for row in rows],
        batch_first=True,
        padding_value=NO_TOKEN,
    )
    words = words.to(device)
    return CachedBatch(
        padded.to(device),
        (torch.arange(padded.shape[1]) < lengths[:, None]).to(device),
        words,
        None if below is None else below.batch(rows, words),
    )
