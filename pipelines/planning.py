"""Which module of each task a release takes: the paper's mixed rule, and the best selection under a layer budget.

Pure: candidates in, a plan out. A release costs its layer count, max k + Σ l: the trunk is as deep as the deepest
branch that leaves it, and the branches add up. So a task's k is free up to the trunk's depth, which is itself chosen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_UNITS = 10**9
"""Of a point: what weighted scores are rounded to, so that sums of them are exact."""
_IMPOSSIBLE = np.iinfo(np.int64).min // 2
"""Of a selection that does not fit; half, so that adding to it cannot overflow."""

_Totals = NDArray[np.int64]


class Candidate(NamedTuple):
    """One module of a task that a release could take."""

    frozen_depth: int
    """k."""
    task_layers: int
    """l."""
    score: float
    """The task's metric, in points (91.0, not 0.91)."""


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


def plan_of(selection: Mapping[str, Candidate], weights: Mapping[str, float] | None = None) -> Plan:
    """A plan of modules that are chosen already; a task without a weight weighs 1."""
    weighing = {task: (weights or {}).get(task, 1.0) for task in selection}
    total = sum(weighing[task] * one.score for task, one in selection.items())
    return Plan(selection, total / sum(weighing.values()))


def plan_by_gain(tasks: Candidates, *, least_gain: float) -> Plan:
    """The paper's rule (section 4.2, appendix D), task by task: add layers as long as each of them brings so much.

    Begins with the fewest task layers and moves to the nearest larger module whose gain per added layer over the
    current one is at least `least_gain` points, until there is none. Of several modules of one size the best score
    counts, then the newest. Gains are reckoned in decimal: 66.0 to 68.0 over one layer is a gain of 2.
    """
    return plan_of({task: _by_gain(candidates, Decimal(repr(least_gain))) for task, candidates in tasks.items()})


def _by_gain(candidates: Sequence[Candidate], least_gain: Decimal) -> Candidate:
    of_size: dict[int, Candidate] = {}
    for one in candidates:
        if one.task_layers not in of_size or one.score >= of_size[one.task_layers].score:
            of_size[one.task_layers] = one
    smallest, *larger = sorted(of_size.values(), key=lambda one: one.task_layers)
    chosen = smallest
    for one in larger:
        gain = Decimal(repr(one.score)) - Decimal(repr(chosen.score))
        if gain >= least_gain * (one.task_layers - chosen.task_layers):
            chosen = one
    return chosen


def plan_by_budget(tasks: Candidates, *, budget: int, weights: Mapping[str, float] | None = None) -> Plan | None:
    """The selection with the highest weighted average whose layer count is at most `budget`; None where none fits.

    Exact: for each depth that the trunk could have, the layers that are left are shared out over the tasks by dynamic
    programming. Of equal averages the smaller layer count, then the shallower trunk. Weighted scores are compared to a
    billionth of a point.
    """
    fitting = [table for table in _tables(tasks, weights) if table.fits(budget - table.depth)]
    if not fitting:
        return None
    best = max(fitting, key=lambda table: _rank(table, budget))
    return plan_of(best.selection(best.fewest(budget - best.depth)), weights)


def frontier(tasks: Candidates, *, weights: Mapping[str, float] | None = None) -> list[Plan]:
    """Every plan that no other one equals or betters with as few layers, from the smallest layer count up."""
    tables = list(_tables(tasks, weights))
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
    tables = (_Table.of(tasks, depth, weights or {}) for depth in depths)
    return [table for table in tables if table is not None]


@dataclass(frozen=True)
class _Table:
    """The best selections of branches that leave after layer `depth` or before, for every number of task layers."""

    depth: int
    options: Mapping[str, Sequence[Candidate]]
    """By task, ascending in l and in score."""
    totals: _Totals
    """[room + 1]: the highest sum of weighted scores with at most so many task layers, in units."""
    chosen: Mapping[str, NDArray[np.intp]]
    """By task, [room + 1]: which option the best selection of it and the tasks before it takes."""

    @classmethod
    def of(cls, tasks: Candidates, depth: int, weights: Mapping[str, float]) -> "_Table | None":
        """None where some task has no branch that leaves so early."""
        options = {task: _useful(candidates, depth) for task, candidates in tasks.items()}
        if not all(options.values()):
            return None
        # With more room than this every task has its best module.
        room = sum(of_task[-1].task_layers for of_task in options.values())
        totals = np.zeros(room + 1, dtype=np.int64)
        chosen = {}
        for task, of_task in options.items():
            totals, chosen[task] = _with_task(totals, of_task, weights.get(task, 1.0))
        return cls(depth, options, totals, chosen)

    @property
    def room(self) -> int:
        return len(self.totals) - 1

    def fits(self, room: int) -> bool:
        return room >= 0 and self.total(room) > _IMPOSSIBLE // 2

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


def _with_task(totals: _Totals, options: Sequence[Candidate], weight: float) -> tuple[_Totals, NDArray[np.intp]]:
    """The totals with one more task, and the option taken at each; of equals the one of fewer layers."""
    reached = np.full((len(options), len(totals)), _IMPOSSIBLE, dtype=np.int64)
    for number, one in enumerate(options):
        left = totals[: max(0, len(totals) - one.task_layers)]
        reached[number, one.task_layers :] = left + round(weight * one.score * _UNITS)
    chosen = np.argmax(reached, axis=0)
    return np.take_along_axis(reached, chosen[None], axis=0)[0], chosen
