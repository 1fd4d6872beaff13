"""The rows of the paper's table 2 from finished runs, and beside them what free depth gives at the same layer count."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from statistics import fmean
from typing import NamedTuple

from glue_cells import Cell, TaskCells
from glue_setting import GlueSetting

from pipelines.planning import Candidate, plan_by_budget, plan_by_gain, plan_of
from registry.errors import NothingFits


class Chosen(NamedTuple):
    """One row of table 2."""

    name: str
    branches: Mapping[str, Candidate]
    """Task -> branch, its value as chosen by."""
    reported: Mapping[str, float]
    count: int
    beside: "Chosen | None" = None
    """The row whose layer count it had, where it is one of free depth."""

    @property
    def average(self) -> float:
        return fmean(self.reported.values())


def table_2(setting: GlueSetting, cells: Mapping[str, TaskCells], statistic: str) -> Iterator[Chosen | str]:
    """Its rows; in place of one that cannot be made yet, what is missing."""
    full = {task: of.full for task, of in cells.items()}
    if missing := [task for task, cell in full.items() if cell is None]:
        yield f"full fine-tuning: not run of {', '.join(missing)}"
    else:
        yield _row("full fine-tuning", {task: cell for task, cell in full.items() if cell is not None}, statistic,
                   count=setting.backbone_layers * len(cells))  # fmt: skip
    teachers = {task: of.best_teacher(statistic, setting.teacher_layers) for task, of in cells.items()}
    if missing := [task for task, cell in teachers.items() if cell is None]:
        yield f"without KD, and every row below: no teacher finished of {', '.join(missing)}"
        return
    best = {task: cell for task, cell in teachers.items() if cell is not None}
    yield _row("without KD", best, statistic)
    distilled = {task: distilled_cells(cells[task], best[task]) for task in cells}
    for few in setting.students:
        row = {task: of.get((_taught_depth(of, best[task]), few)) for task, of in distilled.items()}
        if missing := [task for task, cell in row.items() if cell is None]:
            yield f"KD-{few}: not run of {', '.join(missing)}"
            continue
        paper = _row(f"KD-{few}", {task: cell for task, cell in row.items() if cell is not None}, statistic)
        yield paper
        yield from _free(distilled, paper, statistic)
    if all(any(depth == best[task].frozen_depth for depth, _ in of) for task, of in distilled.items()):
        for least in (1.0, 2.0, 3.0):
            mixed = {
                task: _mixed([*(c for (k, _), c in of.items() if k == _taught_depth(of, best[task])), best[task]],
                             statistic, least)
                for task, of in distilled.items()
            }  # fmt: skip
            row = _row(f"mixed (c = {least:g})", mixed, statistic)
            yield row
            yield from _free(
                {
                    task: {**of, (best[task].frozen_depth, best[task].layers): best[task]}
                    for task, of in distilled.items()
                },
                row, statistic, note=" with teachers",
            )  # fmt: skip


def distilled_cells(cells: TaskCells, best: Cell) -> Mapping[tuple[int, int], Cell]:
    """(k', l) -> students of the teachers with as many layers as the best one.

    The statistic can choose another L than the search did, whose rule is the maximum: then the students there are are
    those of the search's own teacher.
    """
    if best.layers in cells.taught:
        return cells.taught[best.layers]
    return max(cells.taught.values(), key=len, default={})


def _taught_depth(distilled: Mapping[tuple[int, int], Cell], best: Cell) -> int:
    """The teacher's depth: the lowest that its students have, where they are another teacher's than the best one."""
    depths = {depth for depth, _ in distilled}
    return best.frozen_depth if best.frozen_depth in depths or not depths else min(depths)


def _mixed(cells: Sequence[Cell], statistic: str, least: float) -> Cell:
    by_branch = {cell.branch(statistic): cell for cell in cells}
    return by_branch[plan_by_gain({"": list(by_branch)}, least_gain=least).selection[""]]


def _free(
    distilled: Mapping[str, Mapping[tuple[int, int], Cell]], paper: Chosen, statistic: str, note: str = ""
) -> Iterator[Chosen]:
    """The best choice of any depth at the layer count of a row."""
    options = {task: {cell.branch(statistic): cell for cell in of.values()} for task, of in distilled.items()}
    with suppress(NothingFits):
        plan = plan_by_budget({task: list(of) for task, of in options.items()}, budget=paper.count)
        chosen = {task: options[task][branch] for task, branch in plan.selection.items()}
        yield _row(f"  free depth{note}, as {paper.name}", chosen, statistic, beside=paper)


def _row(
    name: str,
    cells: Mapping[str, Cell],
    statistic: str,
    *,
    count: int | None = None,
    beside: Chosen | None = None,
) -> Chosen:
    branches = {task: cell.branch(statistic) for task, cell in cells.items()}
    reported = {task: cell.reported(statistic) for task, cell in cells.items()}
    return Chosen(name, branches, reported, plan_of(branches).layer_count if count is None else count, beside)
