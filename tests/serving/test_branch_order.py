import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from serving.branch_order import BranchWork, best_order


def total_delay(order, trunk_costs, branches):
    """The sum over all answers of the time until they leave; the trunk goes on only when a branch needs it."""
    clock, reached, total = 0.0, 0, 0.0
    for task in order:
        work = branches[task]
        clock += sum(trunk_costs[reached : work.depth]) + work.cost
        reached = max(reached, work.depth)
        total += work.answers * clock
    return total


@st.composite
def batches(draw):
    depth = draw(st.integers(0, 4))
    trunk_costs = draw(st.lists(st.integers(1, 20), min_size=depth, max_size=depth))
    works = st.builds(BranchWork, st.integers(0, depth), st.integers(1, 30), st.integers(1, 9))
    found = draw(st.lists(works, min_size=1, max_size=6))
    return trunk_costs, {f"task-{number}": work for number, work in enumerate(found)}


@given(batches())
@settings(max_examples=300)
def test_no_order_answers_sooner_on_average(batch):
    trunk_costs, branches = batch
    order = best_order(trunk_costs, branches)
    assert sorted(order) == sorted(branches)
    best = min(total_delay(other, trunk_costs, branches) for other in itertools.permutations(branches))
    assert total_delay(order, trunk_costs, branches) <= best + 1e-9


def test_a_shallow_branch_that_is_cheap_goes_before_deeper_ones():
    branches = {"deep": BranchWork(7, 5, 1), "shallow": BranchWork(2, 1, 1), "long": BranchWork(2, 8, 1)}
    assert best_order([1] * 7, branches)[0] == "shallow"


def test_a_cheap_deep_branch_that_many_ask_for_overtakes_a_long_shallow_one():
    branches = {"long": BranchWork(2, 80, 1), "deep": BranchWork(4, 1, 50)}
    assert best_order([1] * 4, branches) == ["deep", "long"]


def test_equal_branches_keep_their_order():
    branches = {name: BranchWork(1, 2, 3) for name in ("b", "a", "c")}
    assert best_order([1], branches) == ["b", "a", "c"]
