from hypothesis import given
from hypothesis import strategies as st

from registry.domain.release_changes import SelectionChange

SELECTIONS = st.dictionaries(st.sampled_from(["cola", "rte", "sst"]), st.integers(1, 3))


@given(SELECTIONS, SELECTIONS)
def test_a_change_leads_from_one_selection_to_the_other(before: dict[str, int], after: dict[str, int]) -> None:
    change = SelectionChange.between(before, after)
    reached = {task: number for task, number in before.items() if task not in change.removed}
    reached |= change.added | {task: now for task, (_, now) in change.moved.items()}
    assert reached == after
    assert {task: was for task, (was, _) in change.moved.items()}.items() <= before.items()
    assert change.removed.items() <= before.items()
    assert change.is_empty == (before == after)


@given(SELECTIONS, SELECTIONS)
def test_a_task_is_in_one_part_of_a_change_at_most(before: dict[str, int], after: dict[str, int]) -> None:
    change = SelectionChange.between(before, after)
    named = [*change.added, *change.removed, *change.moved]
    assert len(named) == len(set(named))
    assert all(was != now for was, now in change.moved.values())
