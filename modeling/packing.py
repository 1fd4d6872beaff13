"""Rows of different lengths on one line of pieces, so that no product with a layer's weights is spent on padding.

A linear layer or a norm does not care which row a piece belongs to; attention does. So the line is cut into blocks of a
few rows each, and blocks of about the same width are attended to at once, with a bias that keeps every piece to its
own row. One call for many short rows is several times faster than one call a length. Attention takes its queries, keys
and values from the line into blocks of one width, and what it gives goes back to the line: what is computed in vain is
a few scores, not a layer's products.

P = pieces on the line; R = rows; H = hidden size. A *place* is a block's, and holds a piece or is left over.
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
SCORES_A_GROUP = 7400
"""As many scores of a head as take the time of a further group's calls where attention is two products, estimated from
attention alone in blocks of 32 to 128, two cores, AVX-512; whole layers with what it chooses were measured since
(docs/serving_speed.md)."""


@dataclass(frozen=True, slots=True)
class Group:
    """Blocks that are attended to at once."""

    width: int
    """Places of each: the pieces of the fullest."""
    blocks: tuple[tuple[int, ...], ...]
    """The rows of each block, by their number in the lengths that were laid out."""


def lay_out(lengths: Sequence[int], scores_a_group: int = SCORES_A_GROUP) -> list[Group]:
    """Where rows of these lengths are best put: group after group, block after block.

    Tries the rows' own greatest length and others as the width of a block, and takes what is estimated cheapest: fewer
    groups are fewer calls, narrower blocks fewer scores. A row that is longer has a block to itself, so that a width
    below the longest row's serves the many that are short.

    Args:
        scores_a_group: what a further group costs, in scores of a head.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)

    def cost(groups: Sequence[Group]) -> int:
        return sum(scores_a_group + len(group.blocks) * group.width**2 for group in groups)

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


def _rows_of(groups: Sequence[Group]) -> list[int]:
    """Their rows, one block after the other."""
    return [number for group in groups for block in group.blocks for number in block]


@dataclass(frozen=True, slots=True)
class AttendedGroup:
    """A group as attention needs it. B = blocks, W = their width, L = places of each that have queries: all, or the
    first."""

    blocks: int
    pieces: slice | Tensor
    """Of the line, in the places: a range where they lie one behind the other, else [B · W] int64. A place that is
    left over has the block's last piece, so that what is wrong with one block's rows reaches no other."""
    bias: Tensor | None
    """[B, 1, L, W] fp32, 0 where a place may look and the least number where it may not; None where all may."""

    def taken_from(self, line: Tensor) -> Tensor:
        """What lies on the line, [P, …], in the group's places, [B · W, …]."""
        return line[self.pieces] if isinstance(self.pieces, slice) else line.index_select(0, self.pieces)


class Packed:
    """Rows of a batch on one line.

    Args:
        encoded: the batch.
        rows: which of its rows, each once, in the order in which whatever is read of them comes out.
        device: of all tensors.
        scores_a_group: see `lay_out`.
    """

    def __init__(
        self,
        encoded: Sequence[EncodedText],
        rows: Sequence[int],
        *,
        device: torch.device,
        scores_a_group: int = SCORES_A_GROUP,
    ) -> None:
        self._encoded, self._device, self._scores_a_group = encoded, device, scores_a_group
        self.rows = tuple(rows)
        self.lengths = [len(encoded[row].input_ids) for row in self.rows]
        self._layout = lay_out(self.lengths, scores_a_group)
        self._on_line = _rows_of(self._layout)
        self._starts = np.zeros(len(self.rows), dtype=np.int64)
        self._starts[self._on_line[1:]] = np.cumsum([self.lengths[number] for number in self._on_line[:-1]])
        self._number_of = {row: number for number, row in enumerate(self.rows)}

    @property
    def pieces(self) -> int:
        """P, those of all rows."""
        return sum(self.lengths)

    @property
    def places_left_over(self) -> int:
        """Of the groups' blocks, beside the places that hold a piece."""
        return sum(group.width * len(group.blocks) for group in self._layout) - self.pieces

    def only(self, rows: Sequence[int]) -> "Packed":
        """Some of the rows, laid out anew."""
        return Packed(self._encoded, rows, device=self._device, scores_a_group=self._scores_a_group)

    def gathered(self, hidden: Tensor, target: "Packed") -> Tensor:
        """hidden [P, H] of this line -> that of a line of some of its rows."""
        numbers = [self._number_of[target.rows[number]] for number in target._on_line]
        return hidden.index_select(0, self._tensor(self._pieces_of(numbers)))

    def inputs(self, *, first_position: int) -> tuple[Tensor, Tensor, Tensor]:
        """Piece ids, type ids and positions, [P] int64 each."""
        chosen = [self._encoded[self.rows[number]] for number in self._on_line]
        ids = np.fromiter(chain.from_iterable(row.input_ids for row in chosen), np.int64)
        types = np.fromiter(chain.from_iterable(row.type_ids for row in chosen), np.int64)
        positions = np.concatenate([np.arange(len(row.input_ids)) for row in chosen]) + first_position
        return self._tensor(ids), self._tensor(types), self._tensor(positions)

    def read(self, hidden: Tensor, reading: Reading, rows: Sequence[int]) -> Tensor:
        """What a head reads of hidden [P, H], in fp32: one vector a row, [rows, H], or one a word of every row that
        has a piece, [words, H]. A text may have many more words than pieces that are read.

        Args:
            rows: of this line, in the order in which they come out.
        """
        numbers = [self._number_of[row] for row in rows]
        if reading == "first":
            return hidden.index_select(0, self._tensor(self._starts[numbers])).float()
        if reading == "words":
            index = [
                self._starts[number] + token
                for number, row in zip(numbers, rows, strict=True)
                for token in self._encoded[row].word_tokens
                if token != NO_TOKEN
            ]
            return hidden.index_select(0, self._tensor(np.array(index, dtype=np.int64))).float()
        lengths = np.array([self.lengths[number] for number in numbers])
        whole = hidden.index_select(0, self._tensor(self._pieces_of(numbers))).float()
        owners = self._tensor(np.repeat(np.arange(len(numbers)), lengths))
        sums = torch.zeros(len(numbers), hidden.shape[1], device=self._device).index_add_(0, owners, whole)
        return sums / self._tensor(lengths)[:, None]

    @cached_property
    def groups(self) -> list[AttendedGroup]:
        """Where every piece looks."""
        return [self._attended(group, self._same_row(group)) for group in self._layout]

    @cached_property
    def row_groups(self) -> list[AttendedGroup]:
        """Where first pieces alone look: every row a block of its own, rows of like length together."""
        return [self._attended(group, self._filled(group)[:, None, :]) for group in self._row_layout]

    @cached_property
    def first_pieces(self) -> Tensor:
        """[R] int64: where on the line the rows of the row groups begin, one group after the other."""
        return self._tensor(self._starts[_rows_of(self._row_layout)])

    @cached_property
    def first_order(self) -> Tensor:
        """[R] int64: where each row is among those of the row groups."""
        return self._tensor(np.argsort(_rows_of(self._row_layout)))

    @cached_property
    def context_order(self) -> Tensor | None:
        """[P] int64: where each piece's context is among those of the groups, one group after the other; None where
        they are in the line's order."""
        if not self.places_left_over:
            return None
        filled = np.concatenate([self._filled(group).reshape(-1) for group in self._layout])
        return self._tensor(np.flatnonzero(filled))

    @cached_property
    def _row_layout(self) -> list[Group]:
        return _groups([[number] for number in range(len(self.rows))], self.lengths, _ALIKE_FROM)

    def _pieces_of(self, numbers: Sequence[int]) -> np.ndarray:
        """Where on the line these rows' pieces are, row after row."""
        return np.concatenate(
            [np.arange(self._starts[number], self._starts[number] + self.lengths[number]) for number in numbers]
        )

    def _pieces_in(self, group: Group) -> np.ndarray:
        """[B] int64: how many each block holds."""
        return np.array([sum(self.lengths[number] for number in block) for block in group.blocks])

    def _filled(self, group: Group) -> np.ndarray:
        """[B, W] bool: the places that hold a piece."""
        return np.arange(group.width) < self._pieces_in(group)[:, None]

    def _same_row(self, group: Group) -> np.ndarray:
        """[B, W, W] bool: which places hold pieces of one row; those left over are as one row."""
        owners = np.full((len(group.blocks), group.width), -1, dtype=np.int64)
        numbers = _rows_of([group])
        owners[self._filled(group)] = np.repeat(numbers, [self.lengths[number] for number in numbers])
        return np.equal(owners[:, :, None], owners[:, None, :])

    def _attended(self, group: Group, may_look: np.ndarray) -> AttendedGroup:
        """With may_look [B, L, W]."""
        begins = self._starts[[block[0] for block in group.blocks]][:, None]
        pieces = np.minimum(begins + np.arange(group.width), begins + self._pieces_in(group)[:, None] - 1).reshape(-1)
        in_order = bool((np.diff(pieces) == 1).all())
        bias = None
        if not may_look.all():
            own = torch.from_numpy(may_look[:, None])
            bias = torch.zeros(own.shape).masked_fill_(~own, torch.finfo(torch.float32).min).to(self._device)
        return AttendedGroup(
            blocks=len(group.blocks),
            pieces=slice(int(pieces[0]), int(pieces[-1]) + 1) if in_order else self._tensor(pieces),
            bias=bias,
        )

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self._device)
