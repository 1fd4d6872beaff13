from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from module_selection import Branch, average, free_depth_choice, layer_count, mixed_choice

# The paper's table 5: KD-1, KD-2, KD-3 and without KD (where the two numbers are k and L), in points.
PAPER = {
    "qnli": (2, (86.4, 88.6, 90.2), (10, 91.7)),
    "rte": (7, (66.1, 64.6, 66.8), (5, 71.5)),
    "qqp": (2, (91.0, 91.3, 91.2), (10, 91.1)),
    "mnli": (4, (77.5, 81.7, 82.9), (8, 84.5)),
    "sst2": (6, (90.7, 92.7, 92.7), (6, 93.1)),
    "mrpc": (7, (85.1, 86.3, 88.0), (5, 89.7)),
    "cola": (4, (36.4, 44.0, 50.0), (8, 55.2)),
    "stsb": (4, (88.3, 88.6, 88.9), (8, 88.9)),
}


def branches(task: str) -> list[Branch]:
    depth, students, (layers, value) = PAPER[task]
    return [*(Branch(depth, number, one) for number, one in enumerate(students, start=1)), Branch(depth, layers, value)]


@pytest.mark.parametrize(
    ("least_gain", "layers", "count", "mean"),
    [
        (1.0, {"qnli": 3, "rte": 5, "qqp": 1, "mnli": 3, "sst2": 2, "mrpc": 3, "cola": 8, "stsb": 1}, 33, 82.5),
        (2.0, {"qnli": 2, "rte": 1, "qqp": 1, "mnli": 2, "sst2": 2, "mrpc": 1, "cola": 3, "stsb": 1}, 20, 80.4),
        (3.0, {"qnli": 1, "rte": 1, "qqp": 1, "mnli": 2, "sst2": 1, "mrpc": 1, "cola": 3, "stsb": 1}, 18, 79.9),
    ],
)
def test_the_mixed_rule_chooses_what_the_paper_chose(
    least_gain: float, layers: dict[str, int], count: int, mean: float
) -> None:
    chosen = {task: mixed_choice(branches(task), least_gain=least_gain) for task in PAPER}
    assert {task: branch.layers for task, branch in chosen.items()} == layers
    assert layer_count(list(chosen.values())) == count
    assert average(list(chosen.values())) == pytest.approx(mean, abs=0.06)


def test_a_task_whose_students_gain_nothing_stays_at_one_layer() -> None:
    assert mixed_choice([Branch(4, 1, 80.0), Branch(4, 2, 80.9), Branch(4, 3, 81.9)], least_gain=1.0).layers == 1


OPTIONS = st.lists(
    st.builds(Branch, st.integers(0, 5), st.integers(1, 3), st.integers(0, 50).map(float)), min_size=1, max_size=4
)


@given(st.lists(OPTIONS, min_size=1, max_size=3), st.integers(1, 16))
def test_free_depth_finds_the_best_average_of_all_choices(options: list[list[Branch]], count: int) -> None:
    chosen = free_depth_choice({str(number): of_task for number, of_task in enumerate(options)}, count=count)
    fitting = [choice for choice in product(*options) if layer_count(choice) <= count]
    if not fitting:
        assert chosen is None
    else:
        assert chosen is not None
        assert layer_count(list(chosen.values())) <= count
        assert average(list(chosen.values())) == pytest.approx(max(map(average, fitting)))


def test_a_deeper_trunk_is_taken_where_one_layer_more_serves_all_tasks() -> None:
    free = {task: [Branch(4, 1, 60.0), Branch(5, 1, 70.0), Branch(4, 2, 65.0)] for task in ("rte", "mrpc", "cola")}
    chosen = free_depth_choice(free, count=8)
    assert chosen is not None
    assert {branch.frozen_depth for branch in chosen.values()} == {5}
