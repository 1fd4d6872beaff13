"""The planner against the paper's own tables, and against trying everything."""

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.planning import Candidate, Plan, frontier, plan_by_budget, plan_by_gain, plan_of, restricted
from registry.errors import NothingFits, UsageError

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


def paper_candidates(task: str) -> list[Candidate]:
    depth, students, (layers, score) = PAPER[task]
    return [
        *(Candidate(depth, number, one) for number, one in enumerate(students, start=1)),
        Candidate(depth, layers, score),
    ]


@pytest.mark.parametrize(
    ("least_gain", "layers", "count", "mean"),
    [
        (1.0, {"qnli": 3, "rte": 5, "qqp": 1, "mnli": 3, "sst2": 2, "mrpc": 3, "cola": 8, "stsb": 1}, 33, 82.475),
        (2.0, {"qnli": 2, "rte": 1, "qqp": 1, "mnli": 2, "sst2": 2, "mrpc": 1, "cola": 3, "stsb": 1}, 20, 80.4375),
        (3.0, {"qnli": 1, "rte": 1, "qqp": 1, "mnli": 2, "sst2": 1, "mrpc": 1, "cola": 3, "stsb": 1}, 18, 79.9125),
    ],
)
def test_the_mixed_rule_chooses_what_the_paper_chose(least_gain, layers, count, mean):
    plan = plan_by_gain({task: paper_candidates(task) for task in PAPER}, least_gain=least_gain)
    assert {task: one.task_layers for task, one in plan.selection.items()} == layers
    assert (plan.layer_count, plan.trunk_layers) == (count, 7)
    assert plan.average == pytest.approx(mean, abs=1e-9)


def test_a_task_whose_students_gain_nothing_stays_at_one_layer():
    students = [Candidate(4, 1, 80.0), Candidate(4, 2, 80.9), Candidate(4, 3, 81.9)]
    assert plan_by_gain({"rte": students}, least_gain=1.0).selection["rte"].task_layers == 1


def test_a_gain_is_reckoned_in_decimal():
    assert 66.3 - 66.2 < 0.1, "in binary it is not"
    close = [Candidate(4, 1, 66.2), Candidate(4, 2, 66.3)]
    assert plan_by_gain({"rte": close}, least_gain=0.1).selection["rte"].task_layers == 2


def test_of_one_size_the_best_score_counts_and_of_equals_the_newest():
    candidates = [Candidate(4, 1, 80.0), Candidate(5, 1, 82.0), Candidate(6, 1, 82.0), Candidate(7, 1, 81.0)]
    assert plan_by_gain({"rte": candidates}, least_gain=1.0).selection["rte"] == candidates[2]
    assert plan_by_budget({"rte": candidates}, budget=9).selection["rte"].score == 82.0


SCORES = st.integers(-50, 500).map(lambda tenths: tenths / 10)
OPTIONS = st.lists(st.builds(Candidate, st.integers(0, 5), st.integers(1, 3), SCORES), min_size=1, max_size=4)
TASKS = st.lists(OPTIONS, min_size=1, max_size=4).map(lambda lists: {f"t{n}": of for n, of in enumerate(lists)})
WEIGHTS = st.lists(st.sampled_from([0.5, 1.0, 3.0]), min_size=4, max_size=4).map(
    lambda weights: {f"t{n}": weight for n, weight in enumerate(weights)}
)


def every_plan(tasks: dict[str, list[Candidate]], weights: dict[str, float]) -> list[Plan]:
    choices = itertools.product(*tasks.values())
    return [plan_of(dict(zip(tasks, choice, strict=True)), weights) for choice in choices]


@given(tasks=TASKS, weights=WEIGHTS, budget=st.integers(0, 18))
def test_under_a_budget_nothing_is_better_and_nothing_as_good_is_smaller(tasks, weights, budget):
    plans = every_plan(tasks, weights)
    fitting = [one for one in plans if one.layer_count <= budget]
    if not fitting:
        least = min(one.layer_count for one in plans)
        with pytest.raises(NothingFits, match=f"no plan of {budget} layers: .* has {least}$"):
            plan_by_budget(tasks, budget=budget, weights=weights)
        return
    plan = plan_by_budget(tasks, budget=budget, weights=weights)
    best = max(one.average for one in fitting)
    assert plan.average == pytest.approx(best, abs=1e-6)
    equals = [one for one in fitting if one.average == pytest.approx(best, abs=1e-9)]
    assert plan.layer_count == min(one.layer_count for one in equals)
    assert all(plan.selection[task] in of_task for task, of_task in tasks.items())


@given(tasks=TASKS, weights=WEIGHTS, scale=st.sampled_from([1e-9, 7.0, 1e12]))
def test_only_the_ratios_of_weights_matter(tasks, weights, scale):
    all_of_them = {task: weights[task] for task in tasks}
    scaled = {task: weight * scale for task, weight in all_of_them.items()}
    plain, other = (frontier(tasks, weights=one) for one in (all_of_them, scaled))
    assert [one.layer_count for one in plain] == [one.layer_count for one in other]
    assert [one.average for one in plain] == pytest.approx([one.average for one in other])


@given(tasks=TASKS, weights=WEIGHTS)
def test_the_frontier_is_every_plan_that_none_betters(tasks, weights):
    plans = frontier(tasks, weights=weights)
    counts, averages = [one.layer_count for one in plans], [one.average for one in plans]
    assert counts == sorted(set(counts))
    assert averages == sorted(averages)
    best: dict[int, float] = {}
    for one in every_plan(tasks, weights):
        best[one.layer_count] = max(one.average, best.get(one.layer_count, -math.inf))
    expected, highest = {}, -math.inf
    for count in sorted(best):
        if best[count] > highest + 1e-9:
            expected[count] = highest = best[count]
    assert counts == list(expected)
    assert averages == pytest.approx(list(expected.values()), abs=1e-6)


def test_a_deeper_trunk_is_taken_where_one_layer_more_serves_all_tasks():
    free = {task: [Candidate(4, 1, 60.0), Candidate(5, 1, 70.0), Candidate(4, 2, 65.0)] for task in ("a", "b", "c")}
    assert {one.frozen_depth for one in plan_by_budget(free, budget=8).selection.values()} == {5}


def test_a_weight_moves_the_layers_to_the_task_that_counts():
    both = [Candidate(4, 1, 60.0), Candidate(4, 2, 70.0)]
    plan = plan_by_budget({"rte": both, "mrpc": both}, budget=7, weights={"mrpc": 2.0})
    assert (plan.selection["rte"].task_layers, plan.selection["mrpc"].task_layers) == (1, 2)
    assert plan.average == pytest.approx((60 + 2 * 70) / 3)


def test_floors_pins_and_exclusions_leave_less_to_choose_from():
    tasks = {
        "rte": [Candidate(4, 1, 60.0, version=1), Candidate(4, 2, 70.0, version=2)],
        "mrpc": [Candidate(4, 1, 80.0, version=1)],
        "cola": [Candidate(4, 1, 40.0, version=1)],
    }
    left = restricted(tasks, floors={"rte": 70}, pins={"mrpc": 1}, excluded=["cola"])
    assert {task: [one.version for one in of_task] for task, of_task in left.items()} == {"rte": [2], "mrpc": [1]}
    with pytest.raises(NothingFits, match="rte reaches 70, not 71; cola reaches 40, not 50"):
        restricted(tasks, floors={"rte": 71, "cola": 50})
    with pytest.raises(UsageError, match="there is no task sst; there is no mrpc/2 among the candidates"):
        restricted(tasks, floors={"sst": 1}, pins={"mrpc": 2})
    with pytest.raises(NothingFits, match="every task is excluded"):
        restricted({"rte": tasks["rte"]}, excluded=["rte"])


def test_two_hundred_tasks_of_fifty_candidates_are_planned():
    rng = random.Random(0)
    tasks = {
        f"task{number}": [
            Candidate(rng.randint(2, 11), rng.randint(1, 10), rng.uniform(40, 99)) for _ in range(50)
        ]
        for number in range(200)
    }  # fmt: skip
    plan = plan_by_budget(tasks, budget=400)
    plans = frontier(tasks)
    assert plan.layer_count <= 400
    (same,) = [one for one in plans if one.layer_count == plan.layer_count]
    assert same.average == pytest.approx(plan.average)
