from collections.abc import Mapping
from pathlib import Path

import pytest
from benchmark_tasks import Home
from glue_cells import Cell, Score, TaskCells
from glue_rows import Chosen, distilled_cells, table_2
from glue_setting import GlueSetting


def cell(depth: int, layers: int, *values: float) -> Cell:
    return Cell(depth, layers, tuple(Score(value, value - 1.0) for value in values))


def task(
    teachers: Mapping[int, tuple[float, ...]], students: Mapping[tuple[int, int], tuple[float, ...]], of: int
) -> TaskCells:
    return TaskCells(
        {layers: cell(12 - layers, layers, *values) for layers, values in teachers.items()},
        {of: {(depth, few): cell(depth, few, *values) for (depth, few), values in students.items()}},
        None,
    )


@pytest.fixture
def setting() -> GlueSetting:
    return GlueSetting(
        home=Home(Path("/nowhere")),
        model=Path("/nowhere"),
        data=Path("/nowhere"),
        tasks=("rte", "cola"),
        layers=(4, 6, 12),
        teacher_layers=(4, 6),
        students=(1, 2),
        student_depths=(6, 8, 10),
        seeds=2,
        epochs=5,
        student_epochs=10,
        full_seeds=2,
        full_rate=5e-5,
        splits=2,
        limit_rows=None,
        cores=1,
    )


CELLS = {
    "rte": task(
        {4: (70.0, 60.0), 6: (72.0, 50.0), 12: (99.0, 99.0)},
        {(6, 1): (60.0, 58.0), (6, 2): (64.0, 62.0), (8, 1): (66.0, 61.0)},
        of=6,
    ),
    "cola": task(
        {4: (50.0, 40.0), 6: (45.0, 45.0)},
        {(8, 1): (30.0, 28.0), (8, 2): (45.0, 44.0), (10, 1): (20.0, 19.0)},
        of=4,
    ),
}


def rows(setting: GlueSetting, statistic: str) -> dict[str, Chosen]:
    found = [row for row in table_2(setting, CELLS, statistic) if isinstance(row, Chosen)]
    return {row.name.strip(): row for row in found}


def test_the_paper_rows_take_each_teachers_own_depth(setting: GlueSetting) -> None:
    row = rows(setting, "max")["KD-1"]
    assert {name: (one.frozen_depth, one.task_layers) for name, one in row.branches.items()} == {
        "rte": (6, 1),
        "cola": (8, 1),
    }
    assert row.count == 8 + 2


def test_free_depth_takes_the_better_depth_at_the_same_count(setting: GlueSetting) -> None:
    found = rows(setting, "max")
    free = found["free depth, as KD-1"]
    assert free.count <= found["KD-1"].count
    assert free.branches["rte"].frozen_depth == 8
    assert free.reported["rte"] == 65.0


def test_teachers_outside_the_range_teach_nobody_and_the_statistic_decides(setting: GlueSetting) -> None:
    by_maximum, by_mean = (rows(setting, statistic)["without KD"] for statistic in ("max", "mean"))
    assert (by_maximum.branches["rte"].task_layers, by_mean.branches["rte"].task_layers) == (6, 4)


def test_figures_are_of_the_rows_that_did_not_choose(setting: GlueSetting) -> None:
    row = rows(setting, "max")["without KD"]
    assert (row.branches["rte"].score, row.reported["rte"]) == (72.0, 71.0)
    assert rows(setting, "mean")["without KD"].reported["rte"] == 64.0


def test_what_is_not_finished_is_named(setting: GlueSetting) -> None:
    cells = {**CELLS, "cola": task({4: (50.0,)}, {}, of=4)}
    missing = [row for row in table_2(setting, cells, "max") if isinstance(row, str)]
    assert missing == ["full fine-tuning: not run of rte, cola", "KD-1: not run of cola", "KD-2: not run of cola"]


def test_students_of_another_teacher_stand_in_where_the_statistic_chooses_another_one() -> None:
    cells = CELLS["rte"]
    assert distilled_cells(cells, cells.teachers[4]) == cells.taught[6]
