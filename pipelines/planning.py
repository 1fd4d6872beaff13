"""Which module of each task a release takes: the paper's mixed rule, and the best selection under a layer budget.

Pure: candidates in, a plan out. A release costs its layer count, max k + Σ l: the trunk is as deep as the deepest
branch that leaves it, and the branches add up. So a task's k is free up to the trunk's depth, which is itself chosen.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from registry.errors import NothingFits, UsageError

_LARGEST = 2**60
"""The total of weighted scores, as whole numbers, that no selection passes by more than roundings."""
_IMPOSSIBLE = -(2**62)
"""The total of a selection that does not fit: whatever is added to it, it stays below half of it, and no other does."""

_Totals = NDArray[np.int64]


class Candidate(NamedTuple):
    """One module of a task that a release could take."""

    frozen_depth: int
    """k."""
    task_layers: int
    """l."""
    score: float
    """The task's metric, in points (91.0, not 0.91)."""
    version: int | None = None
    """Its number, where it has one."""


Candidates = Mapping[str, Sequence[Candidate]]
"""Task -> its modules, at least one; the older ones first."""


@dataclass(frozen=True)
class Plan:
    """One module a task."""

    selection: Mapping[str, Candidate]
    average: float
    """Of the scores, weighted."""

    @property
    def trunk_layers(self) -> int:
        return max(one.frozen_depth for one in self.selection.values())

    @property
    def task_layers(self) -> int:
        return sum(one.task_layers for one in self.selection.values())

    @property
    def layer_count(self) -> int:
        return self.trunk_layers + self.task_layers


def restricted(
    tasks: Candidates,
    *,
    floors: Mapping[str, float] | None = None,
    pins: Mapping[str, int] | None = None,
    excluded: Collection[str] = (),
) -> Candidates:
    """The candidates that are left to choose from.

    Args:
        floors: task -> the least score that it may have.
        pins: task -> the number of the version that it must have.
        excluded: tasks that the release does without.

    Raises:
        UsageError: tasks and versions that there are not, all of them.
        NothingFits: nothing is left of some tasks, or no task.
    """
    floors, pins = floors or {}, pins or {}
    problems = [f"there is no task {task}" for task in sorted({*floors, *pins, *excluded} - tasks.keys())]
    problems += [f"task {task} is excluded" for task in sorted({*floors, *pins} & set(excluded))]
    problems += [
        f"there is no {task}/{number} among the candidates"
        for task, number in pins.items()
        if task in tasks and number not in {one.version for one in tasks[task]}
    ]
    if problems:
        raise UsageError("; ".join(problems))
    kept, lost = {}, []
    for task, candidates in tasks.items():
        if task in excluded:
            continue
        pinned = [one for one in candidates if task not in pins or one.version == pins[task]]
        kept[task] = [one for one in pinned if task not in floors or one.score >= floors[task]]
        if not kept[task]:
            lost.append(f"{task} reaches {max(one.score for one in pinned):g}, not {floors[task]:g}")
    if lost or not kept:
        raise NothingFits(f"no plan: {'; '.join(lost) or 'every task is excluded'}")
    return kept


def plan_of(selection: Mapping[str, Candidate], weights: Mapping[str, float] | None = None) -> Plan:
    """A plan of modules that are chosen already; a task without a weight weighs 1. Reckoned in decimal."""
    weighing = {task: Fraction(repr((weights or {}).get(task, 1.0))) for task in selection}
    total = sum(weighing[task] * Fraction(repr(one.score)) for task, one in selection.items())
    return Plan(selection, float(total / sum(weighing.values())))


def plan_by_gain(tasks: Candidates, *, least_gain: float) -> Plan:
    """The paper's rule (section 4.2, appendix D), task by task: add layers as long as each of them brings so much.

    Begins with the fewest task layers and moves to the nearest larger module whose gain per added layer over the
    current one is at least `least_gain` points, until there is none. Of several modules of one size the best score
    counts, then the newest. Gains are reckoned in decimal: 66.0 to 68.0 over one layer is a gain of 2.
    """
    return plan_of({task: _by_gain(candidates, Fraction(repr(least_gain))) for task, candidates in tasks.items()})


def _by_gain(candidates: Sequence[Candidate], least_gain: Fraction) -> Candidate:
    of_size: dict[int, Candidate] = {}
    for one in candidates:
        if one.task_layers not in of_size or one.score >= of_size[one.task_layers].score:
            of_size[one.task_layers] = one
    smallest, *larger = sorted(of_size.values(), key=lambda one: one.task_layers)
    chosen = smallest
    for one in larger:
        gain = Fraction(repr(one.score)) - Fraction(repr(chosen.score))
        if gain >= least_gain * (one.task_layers - chosen.task_layers):
            chosen = one
    return chosen


def plan_by_budget(tasks: Candidates, *, budget: int, weights: Mapping[str, float] | None = None) -> Plan:
    """The selection with the highest weighted average whose layer count is at most `budget`.

    Exact: for each depth that the trunk could have, the layers that are left are shared out over the tasks by dynamic
    programming. Of equal averages the smaller layer count, then the shallower trunk.

    Raises:
        NothingFits: saying how many layers the smallest selection has.
    """
    tables = _tables(tasks, weights)
    fitting = [table for table in tables if table.fits(budget - table.depth)]
    if not fitting:
        least = min(table.depth + table.smallest for table in tables)
        raise NothingFits(f"no plan of {budget} layers: the smallest selection of one module a task has {least}")
    best = max(fitting, key=lambda table: _rank(table, budget))
    return plan_of(best.selection(best.fewest(budget - best.depth)), weights)


def frontier(tasks: Candidates, *, weights: Mapping[str, float] | None = None) -> list[Plan]:
    """Every plan that no other one equals or betters with as few layers, from the smallest layer count up."""
    tables = _tables(tasks, weights)
    most = max((table.depth + table.room for table in tables), default=0)
    plans: list[Plan] = []
    best = _IMPOSSIBLE
    for budget in range(most + 1):
        fitting = [table for table in tables if table.fits(budget - table.depth)]
        if not fitting:
            continue
        table = max(fitting, key=lambda one: _rank(one, budget))
        if (total := table.total(budget - table.depth)) > best:
            best = total
            plans.append(plan_of(table.selection(table.fewest(budget - table.depth)), weights))
    return plans


def _rank(table: "_Table", budget: int) -> tuple[int, int, int]:
    room = budget - table.depth
    return table.total(room), -(table.depth + table.fewest(room)), -table.depth


def _tables(tasks: Candidates, weights: Mapping[str, float] | None) -> list["_Table"]:
    depths = sorted({one.frozen_depth for candidates in tasks.values() for one in candidates})
    values = _values(tasks, weights or {})
    tables = (_Table.of(tasks, depth, values) for depth in depths)
    return [table for table in tables if table is not None]


def _values(tasks: Candidates, weights: Mapping[str, float]) -> Mapping[str, Mapping[Candidate, int]]:
    """Weighted scores as whole numbers: exactly in proportion, unless their decimals are too many for 64 bits."""
    weighted = {
        task: {one: Fraction(repr(weights.get(task, 1.0))) * Fraction(repr(one.score)) for one in candidates}
        for task, candidates in tasks.items()
    }
    exact = math.lcm(*(value.denominator for of_task in weighted.values() for value in of_task.values()))
    most = sum(max(map(abs, of_task.values())) for of_task in weighted.values())
    scale = min(Fraction(exact), _LARGEST / most) if most else Fraction(1)
    return {task: {one: round(value * scale) for one, value in of_task.items()} for task, of_task in weighted.items()}


@dataclass(frozen=True)
class _Table:
    """The best selections of branches that leave after layer `depth` or before, for every number of task layers."""

    depth: int
    options: Mapping[str, Sequence[Candidate]]
    """By task, ascending in l and in score."""
    totals: _Totals
    """[room + 1]: the highest sum of weighted scores, as `_values` has them, with at most so many task layers."""
    chosen: Mapping[str, NDArray[np.intp]]
    """By task, [room + 1]: which option the best selection of it and the tasks before it takes."""

    @classmethod
    def of(cls, tasks: Candidates, depth: int, values: Mapping[str, Mapping[Candidate, int]]) -> "_Table | None":
        """None where some task has no branch that leaves so early."""
        options = {task: _useful(candidates, depth) for task, candidates in tasks.items()}
        if not all(options.values()):
            return None
        # With more room than this every task has its best module.
        room = sum(of_task[-1].task_layers for of_task in options.values())
        totals = np.zeros(room + 1, dtype=np.int64)
        chosen = {}
        for task, of_task in options.items():
            totals, chosen[task] = _with_task(totals, of_task, values[task])
        return cls(depth, options, totals, chosen)

    @property
    def room(self) -> int:
        return len(self.totals) - 1

    def fits(self, room: int) -> bool:
        return room >= 0 and self.total(room) > _IMPOSSIBLE // 2

    @property
    def smallest(self) -> int:
        """The fewest task layers there can be."""
        return sum(of_task[0].task_layers for of_task in self.options.values())

    def total(self, room: int) -> int:
        return int(self.totals[min(room, self.room)])

    def fewest(self, room: int) -> int:
        """The fewest task layers that reach what so many reach."""
        return int(np.searchsorted(self.totals, self.total(room)))

    def selection(self, task_layers: int) -> dict[str, Candidate]:
        found: dict[str, Candidate] = {}
        for task in reversed(list(self.options)):
            one = self.options[task][int(self.chosen[task][task_layers])]
            found[task] = one
            task_layers -= one.task_layers
        return {task: found[task] for task in self.options}


def _useful(candidates: Sequence[Candidate], depth: int) -> list[Candidate]:
    """Those that leave early enough and that none of as few layers betters; of equals the newest."""
    found: list[Candidate] = []
    early = [(-age, one) for age, one in enumerate(candidates) if one.frozen_depth <= depth]
    for _, one in sorted(early, key=lambda aged: (aged[1].task_layers, -aged[1].score, aged[0])):
        if not found or one.score > found[-1].score:
            found.append(one)
    return found


def _with_task(
    totals: _Totals, options: Sequence[Candidate], values: Mapping[Candidate, int]
) -> tuple[_Totals, NDArray[np.intp]]:
    """The totals with one more task, and the option taken at each; of equals the one of fewer layers."""
    reached = np.full((len(options), len(totals)), _IMPOSSIBLE, dtype=np.int64)
    for number, one in enumerate(options):
        left = totals[: max(0, len(totals) - one.task_layers)]
        reached[number, one.task_layers :] = left + values[one]
    chosen = np.argmax(reached, axis=0)
    return np.take_along_axis(reached, chosen[None], axis=0)[0], chosen
