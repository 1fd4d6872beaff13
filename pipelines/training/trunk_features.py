"""What a mixing head reads of the frozen layers below its branch: one vector a place and layer, never a whole state.

B = rows, W = words, k = frozen depth, H = hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modeling.text import NO_TOKEN
from pipelines.training.packed_rows import RowTensors
from registry.domain.manifests import Reading


@dataclass(frozen=True)
class TrunkFeatures:
    """Of some rows, for one way of reading and one depth."""

    kept: RowTensors
    """[places(row) × k, H]: place by place, from the embeddings to layer k-1."""
    depth: int
    reading: Reading

    def batch(self, rows: Sequence[int], word_tokens: Tensor) -> Tensor:
        """[B, k, H], or [B, W, k, H] of words, zero where a word has no piece.

        Args:
            word_tokens: [B, W] int64, those of the rows; on the device that the answer is wanted on.
        """
        found = torch.cat(self.kept.rows(rows)).to(word_tokens.device)
        by_place = found.view(len(found) // self.depth, self.depth, found.shape[1])
        if self.reading != "words":
            return by_place
        padded = by_place.new_zeros(*word_tokens.shape, *by_place.shape[1:])
        padded[word_tokens != NO_TOKEN] = by_place
        return padded


def packed_places(features: Tensor, word_tokens: Tensor, reading: Reading) -> Tensor:
    """[B, k, H] or [B, W, k, H] -> [places × k, H], as `TrunkFeatures.kept` has them."""
    return (features[word_tokens != NO_TOKEN] if reading == "words" else features).flatten(0, 1)
