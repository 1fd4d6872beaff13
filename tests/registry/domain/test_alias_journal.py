import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.domain.alias_journal import MoveKind, replay

P, R = MoveKind.PROMOTE, MoveKind.ROLLBACK


def test_nothing_moved_leaves_nothing() -> None:
    assert replay([]) == []


def test_rolling_back_twice_goes_two_promotions_back() -> None:
    assert replay([(P, 1), (P, 2), (P, 3), (R, 2), (R, 1)]) == [1]


def test_a_promotion_after_a_rollback_forgets_what_was_rolled_back() -> None:
    assert replay([(P, 1), (P, 2), (R, 1), (P, 3), (R, 1)]) == [1]


@given(st.lists(st.integers(1, 5), min_size=1), st.data())
def test_rolling_back_everything_but_the_first_leads_through_the_promotions_in_reverse(
    promoted: list[int], data: st.DataObject
) -> None:
    moves = [(P, version) for version in promoted]
    for back in range(1, data.draw(st.integers(0, len(promoted) - 1)) + 1):
        moves.append((R, promoted[-1 - back]))
        assert replay(moves)[-1] == promoted[-1 - back]


def test_a_journal_that_rolls_back_nothing_is_no_journal() -> None:
    with pytest.raises(IndexError):
        replay([(R, 1)])
