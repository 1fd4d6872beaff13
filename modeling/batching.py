"""Which rows share a batch, and what of a batch's outputs belongs to which row.

B = rows, W = words of the row that has most, O = outputs of a head.
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


def row_outputs(outputs: Tensor, rows: Sequence[EncodedText]) -> list[Tensor]:
    """A batch's outputs [B, O] or [B, W, O], row by row without padding: [O], or [words(row), O]."""
    if outputs.dim() == 2:
        return list(outputs)
    return [outputs[place, : len(row.words)] for place, row in enumerate(rows)]


def all_words(outputs: Tensor, row: EncodedText) -> Tensor:
    """Of one row: from its words that have a piece, [words, O], to all, [W, O], with zeros for one without, as heads
    answer."""
    of_all = outputs.new_zeros(len(row.words), outputs.shape[1])
    of_all[[number for number, token in enumerate(row.word_tokens) if token != NO_TOKEN]] = outputs
    return of_all


def places(outputs: Tensor, word_tokens: Tensor) -> Tensor:
    """The predicted places of a batch: texts as they are [B, O], or words that have a token, out of [B, W, O].

    Returns:
        [places, O], in the order of the rows.
    """
    return outputs if outputs.dim() == 2 else outputs[word_tokens != NO_TOKEN]


def place_counts(rows: Sequence[EncodedText], *, token_level: bool) -> list[int]:
    """How many predicted places each row has: 1, or its words that have a token."""
    if not token_level:
        return [1] * len(rows)
    return [sum(token != NO_TOKEN for token in row.word_tokens) for row in rows]
