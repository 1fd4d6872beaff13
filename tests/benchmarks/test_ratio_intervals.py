from collections.abc import Sequence

import pytest
from ratio_intervals import Pair, Values, ratio_of_means

GOLD = [number % 2 for number in range(200)]
ROWS = range(0, 200, 2), range(1, 200, 2)


def accuracy(gold: Values, predicted: Values) -> float:
    return float((gold == predicted).mean())


def answers(rows: Sequence[int], wrong_every: int) -> list[int]:
    return [1 - GOLD[row] if place % wrong_every == 0 else GOLD[row] for place, row in enumerate(rows)]


def test_equal_predictions_have_a_ratio_of_one_without_spread() -> None:
    pairs = [Pair(rows, answers(rows, 10), answers(rows, 10)) for rows in ROWS]
    assert ratio_of_means(pairs, GOLD, accuracy, draws=50) == (1.0, 1.0, 1.0)


def test_the_ratio_is_that_of_the_means_and_lies_in_its_interval() -> None:
    pairs = [Pair(rows, answers(rows, 5), answers(rows, 10)) for rows in ROWS]
    found = ratio_of_means(pairs, GOLD, accuracy, draws=200)
    assert found.value == pytest.approx(0.8 / 0.9)
    assert found.low < found.value < found.high < 1.0


def test_more_rows_narrow_the_interval() -> None:
    few = [Pair(ROWS[0][:20], answers(ROWS[0][:20], 5), answers(ROWS[0][:20], 10))]
    many = [Pair(ROWS[0], answers(ROWS[0], 5), answers(ROWS[0], 10))]
    narrow, wide = (ratio_of_means(pairs, GOLD, accuracy, draws=300) for pairs in (many, few))
    assert narrow.high - narrow.low < wide.high - wide.low


def test_predictions_are_held_against_the_rows_of_their_own_half() -> None:
    pairs = [Pair(rows, [GOLD[row] for row in rows], answers(rows, 10)) for rows in ROWS]
    assert ratio_of_means(pairs, GOLD, accuracy, draws=20).value == pytest.approx(1 / 0.9)
