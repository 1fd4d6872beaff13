"""Tensors of unequal length, one a row."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class RowTensors(Protocol):
    """One tensor [length(row), width] a row, wherever it comes from."""

    def rows(self, numbers: Sequence[int]) -> list[Tensor]:
        """Those of some rows, in this order."""
        ...


class PackedRows:
    """Rows that lie one behind the other, without padding, in `values` [total length, width].

    `offsets` (rows + 1 of them) say where.
    """

    def __init__(self, values: Tensor, offsets: Sequence[int]) -> None:
        self.values = values
        self.offsets = offsets

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, number: int) -> Tensor:
        return self.values[self.offsets[number] : self.offsets[number + 1]]

    def rows(self, numbers: Sequence[int]) -> list[Tensor]:
        return [self.row(number) for number in numbers]
