"""Which module of each task: the paper's mixed rule, and the best depths under a layer count.

A branch of l layers that leaves the trunk after layer k; together they cost max k + Σ l layers (the layer count).
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Branch(NamedTuple):
    frozen_depth: int
    layers: int
    value: float
    """The task's metric, in points (91.0, not 0.91)."""


def layer_count(branches: Sequence[Branch]) -> int:
    return max(branch.frozen_depth for branch in branches) + sum(branch.layers for branch in branches)


def average(branches: Sequence[Branch]) -> float:
    return sum(branch.value for branch in branches) / len(branches)


def mixed_choice(branches: Sequence[Branch], *, least_gain: float) -> Branch:
    """The paper's rule (section 4.2, appendix D): add layers as long as each brings so much.

    Starts at the fewest layers and moves to the next larger module that gains at least `least_gain` points for every
    layer that it adds, until there is none.
    """
    by_layers = sorted(branches, key=lambda branch: branch.layers)
    chosen = by_layers[0]
    for branch in by_layers[1:]:
        added = branch.layers - chosen.layers
        # The tables' figures have one decimal: 2.0 points must be 2.0 in binary too.
        if added and branch.value - chosen.value >= added * least_gain - 1e-9:
            chosen = branch
    return chosen


def free_depth_choice(branches: Mapping[str, Sequence[Branch]], *, count: int) -> Mapping[str, Branch] | None:
    """One branch a task with the highest average whose layer count is at most `count`; None where nothing fits.

    Exact: for each depth that the trunk could have, the layers that are left are shared out by dynamic programming
    over the tasks. Of equal averages the smaller layer count, then the shallower trunk.
    """
    best: tuple[float, int, Mapping[str, Branch]] | None = None
    for depth in sorted({branch.frozen_depth for options in branches.values() for branch in options}):
        for chosen in _shared_out(branches, depth=depth, room=count - depth):
            rank = (math.fsum(branch.value for branch in chosen.values()), -layer_count(list(chosen.values())))
            if best is None or rank > best[:2]:
                best = (*rank, chosen)
    return None if best is None else best[2]


def _shared_out(branches: Mapping[str, Sequence[Branch]], *, depth: int, room: int) -> Sequence[Mapping[str, Branch]]:
    """For every sum of layers up to `room`: the best choice of branches that leave after layer `depth` or before."""
    found: dict[int, tuple[float, dict[str, Branch]]] = {0: (0.0, {})}
    for task, options in branches.items():
        longer: dict[int, tuple[float, dict[str, Branch]]] = {}
        for used, (total, chosen) in found.items():
            for branch in options:
                layers = used + branch.layers
                if branch.frozen_depth > depth or layers > room:
                    continue
                if layers not in longer or total + branch.value > longer[layers][0]:
                    longer[layers] = (total + branch.value, {**chosen, task: branch})
        found = longer
    return [chosen for _, chosen in found.values()]
