"""Rows of different lengths on one line of pieces, so that no matrix product is spent on padding.

A linear layer or a norm does not care which row a piece belongs to; attention does. So the line is cut into blocks of a
few rows each, and blocks of about the same width are attended to at once, with a bias that keeps every piece to its
own row. One call for many short rows is several times faster than one call a length. Attention takes its queries, keys
and values from the line into blocks of one width, and what it gives goes back to the line: what is computed in vain is
a few scores, not a layer's products.

P = pieces on the line; R = rows; H = hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from modeling.text import NO_TOKEN, EncodedText
from registry.domain.manifests import Reading

_CAPACITIES = (16, 24, 32, 48, 64, 96, 128)
_JOINED_FROM = 7 / 8
"""A block joins a group of wider ones from this share of their width on: the rest is scores in vain."""
_ALIKE_FROM = 1 / 2
"""The same for rows that are looked at from their first pieces alone, where a place costs next to nothing."""

# In pieces through a layer of width 384, estimated from attention alone in blocks of 32 to 128, two cores, AVX-512
# (docs/serving_speed.md): what a further group costs, and a place of a block for each piece of the block's width. Both
# shrink with a layer's products. For narrower blocks they are extrapolated; whole layers with them were measured since.
_GROUP_COST = 20.0
_SCORE_COST = 0.0027
_COSTS_AT_WIDTH = 384


@dataclass(frozen=True, slots=True)
class Group:
    """Blocks that are attended to at once."""

    width: int
    """Places of each: the pieces of the fullest."""
    blocks: tuple[tuple[int, ...], ...]
    """The rows of each block, by their place in the lengths that were laid out."""


def lay_out(lengths: Sequence[int], hidden_size: int) -> list[Group]:
    """Where rows of these lengths are best put for a layer of this width: group after group, block after block.

    Tries the rows' own greatest length and others as the width of a block, and takes what is estimated cheapest. A row
    that is longer has a block to itself, so that a width below the longest row's serves the many that are short.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    scale = (_COSTS_AT_WIDTH / hidden_size) ** 2

    def cost(groups: Sequence[Group]) -> float:
        return scale * sum(_GROUP_COST + len(group.blocks) * _SCORE_COST * group.width**2 for group in groups)

    capacities = sorted({max(lengths), *_CAPACITIES}) if len(order) > 1 else [1]
    return min((_groups(_blocks(order, lengths, capacity), lengths, _JOINED_FROM) for capacity in capacities), key=cost)


def _blocks(order: Sequence[int], lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Rows in blocks of at most so many pieces; a longer row has a block to itself.

    The longest row that is left begins a block, which is filled with the shortest ones: short rows are what makes any
    remaining room useful, and one look at either end is enough.

    Args:
        order: all rows, the longest first.
    """
    blocks: list[list[int]] = []
    first, last = 0, len(order) - 1
    while first <= last:
        block, filled = [order[first]], lengths[order[first]]
        first += 1
        while first <= last and filled + lengths[order[first]] <= capacity:
            block.append(order[first])
            filled += lengths[order[first]]
            first += 1
        while first <= last and filled + lengths[order[last]] <= capacity:
            block.append(order[last])
            filled += lengths[order[last]]
            last -= 1
        blocks.append(block)
    return blocks


def _groups(blocks: Sequence[Sequence[int]], lengths: Sequence[int], joined_from: float) -> list[Group]:
    filled = sorted(((sum(lengths[row] for row in block), block) for block in blocks), key=lambda one: -one[0])
    together: list[tuple[int, list[tuple[int, ...]]]] = []
    for pieces, block in filled:
        if together and pieces >= joined_from * together[-1][0]:
            together[-1][1].append(tuple(block))
        else:
            together.append((pieces, [tuple(block)]))
    return [Group(width, tuple(members)) for width, members in together]


@dataclass(frozen=True, slots=True)
class AttendedGroup:
    """A group as attention needs it. B = blocks, W = their width, L = places of each that look: all, or the first."""

    blocks: int
    places: slice | Tensor
    """Of the line, one for each place of each block: a range where they lie one behind the other, else [B · W] int64,
    on which a place that is left over has a piece of whatever lies next."""
    bias: Tensor | None
    """[B, 1, L, W] fp32, 0 where a place may look and the least number where it may not; None where all may."""

    def taken_from(self, line: Tensor) -> Tensor:
        """What lies on the line, [P, width], in the group's places, [B · W, width]."""
        return line[self.places] if isinstance(self.places, slice) else line.index_select(0, self.places)


class Packed:
    """Rows of a batch on one line.

    Args:
        encoded: the batch.
        rows: which of its rows, each once, in the order in which whatever is read of them comes out.
        device: of all tensors.
    """

    def __init__(
        self,
        encoded: Sequence[EncodedText],
        rows: Sequence[int],
        *,
        hidden_size: int,
        device: torch.device,
    ) -> None:
        self._encoded, self._hidden_size, self._device = encoded, hidden_size, device
        self.rows = tuple(rows)
        self.lengths = [len(encoded[row].input_ids) for row in self.rows]
        self._layout = lay_out(self.lengths, hidden_size)
        self._order = [place for group in self._layout for block in group.blocks for place in block]
        """The rows' places in the order in which they lie on the line."""
        self._starts = np.zeros(len(self.rows), dtype=np.int64)
        self._starts[self._order[1:]] = np.cumsum([self.lengths[place] for place in self._order[:-1]])
        self._place_of = {row: place for place, row in enumerate(self.rows)}

    @property
    def pieces(self) -> int:
        """P."""
        return sum(self.lengths)

    @property
    def places_left_over(self) -> int:
        """Of attention's blocks, beside the pieces that are in them."""
        return sum(group.width * len(group.blocks) for group in self._layout) - self.pieces

    def only(self, rows: Sequence[int]) -> "Packed":
        """Some of the rows, laid out anew."""
        return Packed(self._encoded, rows, hidden_size=self._hidden_size, device=self._device)

    def gathered(self, hidden: Tensor, target: "Packed") -> Tensor:
        """hidden [P, H] of this line -> that of a line of some of its rows."""
        places = [self._place_of[row] for row in target.rows]
        return hidden.index_select(0, self._tensor(self._pieces_of([places[place] for place in target._order])))

    def inputs(self, *, first_position: int) -> tuple[Tensor, Tensor, Tensor]:
        """Piece ids, type ids and positions, [P] int64 each."""
        chosen = [self._encoded[self.rows[place]] for place in self._order]
        ids = np.fromiter(chain.from_iterable(row.input_ids for row in chosen), np.int64)
        types = np.fromiter(chain.from_iterable(row.type_ids for row in chosen), np.int64)
        positions = np.concatenate([np.arange(len(row.input_ids)) for row in chosen]) + first_position
        return self._tensor(ids), self._tensor(types), self._tensor(positions)

    def read(self, hidden: Tensor, reading: Reading, rows: Sequence[int]) -> Tensor:
        """What a head reads of hidden [P, H], in fp32: one vector a row, [rows, H], or one a word of every row,
        [words, H], a word without a piece having some piece's.

        Args:
            rows: of this line, in the order in which they come out.
        """
        places = [self._place_of[row] for row in rows]
        if reading == "first":
            return hidden.index_select(0, self._tensor(self._starts[places])).float()
        if reading == "words":
            index = [
                self._starts[place] + max(token, 0)
                for place, row in zip(places, rows, strict=True)
                for token in self._encoded[row].word_tokens
            ]
            return hidden.index_select(0, self._tensor(np.array(index, dtype=np.int64))).float()
        lengths = np.array([self.lengths[place] for place in places])
        whole = hidden.index_select(0, self._tensor(self._pieces_of(places))).float()
        owners = self._tensor(np.repeat(np.arange(len(places)), lengths))
        sums = torch.zeros(len(places), hidden.shape[1], device=self._device).index_add_(0, owners, whole)
        return sums / self._tensor(lengths)[:, None]

    def word_tokens(self, rows: Sequence[int]) -> Tensor:
        """[1, words] int64 of all words of these rows: NO_TOKEN where a word has no piece."""
        tokens = [token for row in rows for token in self._encoded[row].word_tokens]
        return self._tensor(np.array(tokens, dtype=np.int64).clip(min=NO_TOKEN))[None]

    @cached_property
    def groups(self) -> list[AttendedGroup]:
        return [self._attended(group, looking=group.width) for group in self._layout]

    @cached_property
    def row_groups(self) -> list[AttendedGroup]:
        """Every row a block of its own, rows of like length together, where nobody looks but first pieces."""
        return [self._attended(group, looking=1) for group in self._row_layout]

    @cached_property
    def first_pieces(self) -> Tensor:
        """[R] int64: where on the line the rows of the row groups begin, one group after the other."""
        return self._tensor(self._starts[self._row_order])

    @cached_property
    def first_order(self) -> Tensor:
        """[R] int64: where each row is among those of the row groups."""
        return self._tensor(np.argsort(self._row_order))

    @cached_property
    def context_order(self) -> Tensor | None:
        """[P] int64: where each piece's context is among those of the groups, one group after the other; None where
        they are in the line's order."""
        if not self.places_left_over:
            return None
        order, offset = [], 0
        for group in self._layout:
            for block in group.blocks:
                order.append(np.arange(offset, offset + self._filled(block)))
                offset += group.width
        return self._tensor(np.concatenate(order))

    def _filled(self, block: Sequence[int]) -> int:
        return sum(self.lengths[place] for place in block)

    def _pieces_of(self, places: Sequence[int]) -> np.ndarray:
        """Where on the line these rows' pieces are, row after row."""
        return np.concatenate(
            [np.arange(self._starts[place], self._starts[place] + self.lengths[place]) for place in places]
        )

    @cached_property
    def _row_layout(self) -> list[Group]:
        longest_first = sorted(range(len(self.rows)), key=self.lengths.__getitem__, reverse=True)
        return _groups([[place] for place in longest_first], self.lengths, _ALIKE_FROM)

    @cached_property
    def _row_order(self) -> list[int]:
        return [place for group in self._row_layout for block in group.blocks for place in block]

    def _attended(self, group: Group, *, looking: int) -> AttendedGroup:
        """With so many first places of each block looking at all of its places."""
        owners = np.full((len(group.blocks), group.width), -1, dtype=np.int64)
        for number, block in enumerate(group.blocks):
            owners[number, : self._filled(block)] = np.repeat(block, [self.lengths[place] for place in block])
        begins = self._starts[[block[0] for block in group.blocks]]
        places = (begins[:, None] + np.arange(group.width)).clip(max=self.pieces - 1).reshape(-1)
        as_range = slice(int(places[0]), int(places[0]) + len(places))
        in_order = np.array_equal(places, np.arange(as_range.start, as_range.stop))
        own = torch.from_numpy(owners[:, None, :looking, None] == owners[:, None, None, :])
        bias = torch.zeros(own.shape).masked_fill_(~own, torch.finfo(torch.float32).min).to(self._device)
        return AttendedGroup(
            blocks=len(group.blocks),
            places=as_range if in_order else self._tensor(places),
            bias=None if bool(own.all()) else bias,
        )

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self._device)
