"""In which order a batch's branches are computed: so that answers leave as early as they can, on average.

A batch is one machine with jobs on a tree: a branch can start once the trunk has reached its depth, and each layer of
the trunk after the one below. Every answer counts the same, whenever its branch ends. That is total weighted completion
time under out-tree precedence, which Horn's rule minimises (W. A. Horn, Single-machine job sequencing with treelike
precedence ordering and linear delay penalties, SIAM J. Appl. Math. 23, 1972): a job is tied to the most rewarding ones
behind it as long as that raises its answers per unit of work, and what is tied is then done in the order of that rate.

So cheap branches that many ask for go first, and a deep one may overtake a shallow one when it is cheap enough to be
worth the layers in between. The batch as a whole ends at the same time in every order.
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class BranchWork:
    """One branch of a batch."""

    depth: int
    """The trunk's layer that it leaves after."""
    cost: float
    """Work of its layers, in the unit of the trunk's."""
    answers: int


@dataclass(order=True)
class _Tied:
    """Work that is done without a break. Sorts by rate, the most rewarding first, then as it came."""

    negative_rate: float = field(init=False)
    number: int
    cost: float = field(compare=False)
    answers: float = field(compare=False)
    tasks: list[str] = field(compare=False)

    def __post_init__(self) -> None:
        self.negative_rate = -self.answers / self.cost if self.cost else float("-inf")

    def with_next(self, other: "_Tied") -> "_Tied":
        tasks = [*self.tasks, *other.tasks]
        return _Tied(number=self.number, cost=self.cost + other.cost, answers=self.answers + other.answers, tasks=tasks)


def best_order(trunk_costs: Sequence[float], branches: Mapping[str, BranchWork]) -> list[str]:
    """The tasks in the order that makes the sum over all answers of the time until they leave smallest.

    Args:
        trunk_costs: of layers 1, 2, … to the deepest branch's.
    """
    numbers = iter(range(-len(trunk_costs), len(branches)))
    reachable: list[_Tied] = []
    by_depth: dict[int, list[str]] = {}
    for task, work in branches.items():
        by_depth.setdefault(work.depth, []).append(task)
    for depth in range(len(trunk_costs), -1, -1):
        for task in by_depth.get(depth, []):
            work = branches[task]
            heapq.heappush(reachable, _Tied(number=next(numbers), cost=work.cost, answers=work.answers, tasks=[task]))
        if depth:
            layer = _Tied(number=next(numbers), cost=trunk_costs[depth - 1], answers=0, tasks=[])
            while reachable and reachable[0].negative_rate <= layer.negative_rate:
                layer = layer.with_next(heapq.heappop(reachable))
            heapq.heappush(reachable, layer)
    return [task for _ in range(len(reachable)) for task in heapq.heappop(reachable).tasks]
