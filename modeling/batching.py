"""Which rows share a batch, and which of a batch's outputs are predictions.

Shapes: B rows, W words, O outputs of a head, R predicted places: texts, or words that have a token.
"""

from collections.abc import Sequence

from torch import Tensor

from modeling.text import NO_TOKEN, EncodedText


def token_batches(lengths: Sequence[int], *, tokens: int = 4096) -> list[list[int]]:
    """All rows in batches of at most `tokens` padded tokens, shortest first, so that padding is small."""
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        if batches and (len(batches[-1]) + 1) * lengths[row] <= tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def places(outputs: Tensor, word_tokens: Tensor) -> Tensor:
    """The predicted places of a batch, [R, O]: texts as they are [B, O], or words that have a token of [B, W, O]."""
    return outputs if outputs.dim() == 2 else outputs[word_tokens != NO_TOKEN]


def place_counts(encoded: Sequence[EncodedText], *, token_level: bool) -> list[int]:
    """How many predicted places each row has: 1, or its words that have a token."""
    if not token_level:
        return [1] * len(encoded)
    return [sum(token != NO_TOKEN for token in row.word_tokens) for row in encoded]
