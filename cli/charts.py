"""Scales, and charts of one line of text: values as marks between two ends, amounts as bars."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

OFF_THE_LEFT, OFF_THE_RIGHT = "‹", "›"
_EIGHTHS = " ▏▎▍▌▋▊▉"


@dataclass(frozen=True)
class Scale:
    """From `low` to `high`, which differ."""

    low: float
    high: float

    def place(self, value: float) -> float:
        """0 at the low end, 1 at the high end; values beyond are put to the end."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high


def scale_of(values: Sequence[float], beside: Iterable[float] = (), *, least: float = 0.01) -> Scale:
    """A scale that holds all `values`, with some air, and of `beside` what does not squeeze them.

    Args:
        values: at least one.
        beside: values that matter less, such as early points of a curve; the scale grows by its own length for them.
        least: the shortest span.
    """
    low, high = min(values), max(values)
    if (missing := least - (high - low)) > 0:
        low, high = low - missing / 2, high + missing / 2
    span = high - low
    near = [value for value in beside if low - span <= value <= high + span]
    low, high = min([low, *near]), max([high, *near])
    air = (high - low) / 25
    return Scale(low - air, high + air)


class Strip:
    """One line of a chart: marks put on a scale, the later ones on top."""

    def __init__(self, scale: Scale, width: int) -> None:
        self._scale = scale
        self._cells = [" "] * width

    def column(self, value: float) -> int:
        return round(self._scale.place(value) * (len(self._cells) - 1))

    def fill(self, low: float, high: float, mark: str) -> None:
        for column in range(self.column(low), self.column(high) + 1):
            self._cells[column] = mark

    def span(self, low: float, high: float) -> None:
        """A line with its two ends; nothing where they fall together."""
        if self.column(low) < self.column(high):
            self.fill(low, high, "─")
            self._cells[self.column(low)] = "├"
            self._cells[self.column(high)] = "┤"

    def mark(self, value: float, mark: str) -> None:
        """A value beyond the scale becomes an arrow at its end."""
        if not self._scale.holds(value):
            mark = OFF_THE_LEFT if value < self._scale.low else OFF_THE_RIGHT
        self._cells[self.column(value)] = mark

    def __str__(self) -> str:
        return "".join(self._cells)


def bar(share: float, width: int) -> str:
    """A bar of `share` (0 to 1) of the width, to an eighth of a column; an amount above 0 always shows."""
    eighths = min(8 * width, math.ceil(8 * width * max(0.0, share)))
    whole, rest = divmod(eighths, 8)
    return "█" * whole + (_EIGHTHS[rest] if rest else "")


def ticks(scale: Scale, *, most: int = 6) -> list[float]:
    """Round values on the scale, at even steps of 1, 2 or 5 times a power of ten; at most `most` + 1."""
    step = 10.0 ** math.floor(math.log10((scale.high - scale.low) / most))
    step = next(step * factor for factor in (1, 2, 5, 10) if (scale.high - scale.low) / (step * factor) <= most)
    return [count * step for count in range(math.ceil(scale.low / step), math.floor(scale.high / step) + 1)]
