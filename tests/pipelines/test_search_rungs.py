import itertools

from hypothesis import given
from hypothesis import strategies as st

from pipelines.search.rungs import Rung, student_rungs, teacher_rungs


def test_the_rungs_are_these():
    assert teacher_rungs(7, seeds=5, epochs=5) == [Rung(1, 7, 1), Rung(3, 3, 1), Rung(5, 2, 1)]
    assert teacher_rungs(14, seeds=10, epochs=5, stride=2) == [Rung(1, 14, 2, 2), Rung(3, 5, 2), Rung(5, 2, 2)]
    assert teacher_rungs(2, seeds=1, epochs=5, stride=2) == [Rung(5, 2, 1)]
    assert teacher_rungs(1, seeds=5, epochs=1) == [Rung(1, 1, 1)]
    assert student_rungs(3, seeds=5, epochs=10) == [Rung(2, 3, 1), Rung(10, 1, 1)]
    assert student_rungs(1, seeds=10, epochs=10) == [Rung(10, 1, 2)]


@given(configurations=st.integers(1, 60), seeds=st.integers(1, 20), epochs=st.integers(1, 50))
def test_rungs_only_ever_narrow_and_end_at_the_last_epoch(configurations, seeds, epochs):
    for rungs in (
        teacher_rungs(configurations, seeds=seeds, epochs=epochs),
        student_rungs(configurations, seeds=seeds, epochs=epochs),
    ):
        assert rungs[-1].until_epoch == epochs
        for before, after in itertools.pairwise(rungs):
            assert before.until_epoch < after.until_epoch
            assert before.configurations > after.configurations >= 1
        assert all(1 <= rung.seeds <= seeds for rung in rungs)
