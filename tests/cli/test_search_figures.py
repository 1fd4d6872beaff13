"""What the pictures of a search are drawn from, reckoned by hand."""

import pytest

from cli.search_figures import (
    Runs,
    Spread,
    Stopped,
    cost_of,
    initialisation_pairs,
    student_grids,
    teachers_of,
)
from registry.domain.searches import SearchChoice, TrialState
from tests.search_records import search, trial


def test_a_spread_has_its_sample_deviation_and_quartiles() -> None:
    spread = Spread((0.70, 0.71, 0.72, 0.73, 0.74))
    assert spread.mean == pytest.approx(0.72)
    assert spread.deviation == pytest.approx((0.001 / 4) ** 0.5)
    assert spread.quartiles == pytest.approx((0.71, 0.72, 0.73))
    assert (spread.count, spread.lowest, spread.highest) == (5, 0.70, 0.74)


def test_one_run_has_no_spread() -> None:
    spread = Spread((0.7,))
    assert spread.deviation is None
    assert spread.quartiles == (0.7, 0.7, 0.7)


def test_teachers_are_grouped_by_layers_and_learning_rate_and_the_chosen_one_is_marked() -> None:
    choice = SearchChoice(layers=7, learning_rate=2e-5, teacher=2, statistic="mean of 2 seeds")
    teachers = teachers_of(
        search(
            trial(7, 0.72, seed=1, learning_rate=2e-5),
            trial(7, 0.70, seed=0, learning_rate=2e-5, version=2),
            trial(7, 0.60, learning_rate=1e-4),
            trial(4, 0.65, learning_rate=1e-4),
            trial(1, 0.99, teacher=2),
            choice=choice,
        )
    )
    assert [(row.layers, row.learning_rate, row.chosen) for row in teachers.rows] == [
        (4, 1e-4, False),
        (7, 2e-5, True),
        (7, 1e-4, False),
    ]
    assert teachers.rows[1].runs == Runs(Spread((0.70, 0.72)), (), ())


def test_the_band_is_one_standard_error_pooled_over_all_configurations() -> None:
    rows = [trial(7, score, seed=seed) for seed, score in enumerate((0.72, 0.74))]
    rows += [trial(4, score, seed=seed) for seed, score in enumerate((0.60, 0.66))]
    band = teachers_of(search(*rows)).best
    # Squares around the means: 2 x 0.01^2 + 2 x 0.03^2 = 0.002, of 2 degrees of freedom; the best mean is of 2 runs.
    assert band is not None
    assert (band.low, band.high) == pytest.approx((0.73 - 0.0005**0.5, 0.73 + 0.0005**0.5))


def test_runs_of_one_seed_have_no_band() -> None:
    assert teachers_of(search(trial(7, 0.7), trial(4, 0.6))).best is None
    assert teachers_of(search()).best is None


def test_runs_that_were_stopped_are_never_among_the_finished() -> None:
    paused = TrialState.PAUSED
    row = teachers_of(
        search(
            trial(7, 0.70),
            trial(7, seed=1, state=paused, curve={1: 0.9}),
            trial(7, seed=2, state=paused, curve={1: 0.8}),
            trial(7, seed=3, state=TrialState.RUNNING, curve={1: 0.5, 2: 0.6}),
            trial(7, seed=4, state=TrialState.RUNNING),
            trial(7, seed=5, state=TrialState.FAILED, curve={1: 0.3}, error="loss is NaN"),
            trial(7, seed=6),
        )
    ).rows[0]
    assert row.runs.finished == Spread((0.70,))
    assert row.runs.stopped == (
        Stopped(paused, epoch=1, epochs=3, values=(0.8, 0.9)),
        Stopped(TrialState.RUNNING, epoch=2, epochs=3, values=(0.6,)),
    )
    assert row.runs.unscored == ((TrialState.WAITING, 1), (TrialState.RUNNING, 1), (TrialState.FAILED, 1))


def test_early_points_far_off_do_not_squeeze_the_scale() -> None:
    finished = [trial(7, score, seed=seed) for seed, score in enumerate((0.70, 0.74))]
    near = trial(6, state=TrialState.PAUSED, curve={1: 0.69})
    far = trial(5, state=TrialState.PAUSED, curve={1: 0.1})
    scale = teachers_of(search(*finished, near, far)).scale
    assert scale.holds(0.69)
    assert scale.holds(0.74)
    assert not scale.holds(0.1)
    assert teachers_of(search(far)).scale.holds(0.1)


def test_students_are_a_share_of_their_teachers_score() -> None:
    choice = SearchChoice(layers=7, learning_rate=1e-4, teacher=1, statistic="one run", students={1: 3})
    (grid,) = student_grids(
        search(
            trial(7, 0.80, version=1),
            trial(1, 0.60, depth=5, teacher=1, version=2),
            trial(1, 0.64, depth=5, seed=1, teacher=1, version=3),
            trial(1, depth=8, teacher=1, state=TrialState.PAUSED, curve={1: 0.5}),
            trial(3, depth=5, teacher=1, state=TrialState.FAILED, error="full disk"),
            choice=choice,
        )
    )
    assert (grid.teacher, grid.teacher_score, grid.depths, grid.layers) == (1, 0.80, (5, 8), (1, 3))
    cell = grid.cells[5, 1]
    assert cell.runs.finished == Spread((0.60, 0.64))
    assert cell.share == pytest.approx(0.775)
    assert cell.chosen == 3
    assert grid.cells[8, 1].share is None
    assert grid.cells[8, 1].runs.stopped[0].values == (0.5,)
    assert grid.cells[5, 3].runs.unscored == ((TrialState.FAILED, 1),)
    assert (8, 3) not in grid.cells


@pytest.mark.parametrize("score", [0.0, -0.1])
def test_there_is_no_share_of_a_teacher_that_is_not_above_zero(score: float) -> None:
    (grid,) = student_grids(search(trial(7, score, version=1), trial(1, 0.1, depth=5, teacher=1)))
    assert grid.cells[5, 1].share is None


def test_students_of_two_beginnings_or_two_teachers_are_never_mixed() -> None:
    grids = student_grids(
        search(
            trial(1, 0.6, depth=5, teacher=1, initialisation="teacher"),
            trial(1, 0.5, depth=5, teacher=1, initialisation="backbone"),
            trial(1, 0.7, depth=5, teacher=2, initialisation="teacher"),
        )
    )
    assert [(grid.teacher, grid.initialisation) for grid in grids] == [(1, "teacher"), (1, "backbone"), (2, "teacher")]
    assert [grid.cells[5, 1].runs.finished for grid in grids] == [Spread((0.6,)), Spread((0.5,)), Spread((0.7,))]


def test_initialisations_are_compared_only_where_both_have_finished() -> None:
    (pair,) = initialisation_pairs(
        search(
            trial(2, 0.60, depth=5, teacher=1, initialisation="teacher"),
            trial(2, 0.64, depth=5, seed=1, teacher=1, initialisation="teacher"),
            trial(2, 0.50, depth=5, teacher=1, initialisation="backbone"),
            trial(2, 0.90, depth=8, teacher=1, initialisation="backbone"),
            trial(2, depth=8, teacher=1, initialisation="teacher", state=TrialState.PAUSED, curve={1: 0.9}),
            trial(1, 0.40, depth=5, teacher=1, initialisation="teacher"),
        )
    )
    assert (pair.layers, pair.depths) == (2, (5,))
    assert pair.teacher == Spread((0.60, 0.64))
    assert pair.backbone == Spread((0.50,))


def test_the_cost_counts_what_was_stopped_too() -> None:
    cost = cost_of(
        search(
            trial(7, 0.7, layer_passes=60.0, seconds=30.0),
            trial(4, state=TrialState.FAILED, layer_passes=20.0, seconds=10.0),
            trial(1, teacher=1, state=TrialState.PAUSED, layer_passes=20.0, seconds=2.0),
        )
    )
    assert (cost.teachers, cost.students, cost.spent, cost.share, cost.seconds) == (80.0, 20.0, 100.0, 0.1, 42.0)
    assert cost.teacher_states == ((TrialState.FINISHED, 1), (TrialState.FAILED, 1))
    assert cost.student_states == ((TrialState.PAUSED, 1),)
    assert cost_of(search(exhaustive_layer_passes=0.0)).share is None
