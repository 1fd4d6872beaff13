"""The steps of a whole search are weighed by how often it runs them."""

import pytest
from search_steps import Step, default_search, linear, search_steps

from cli.search_options import default_layers

MEASURED = {1: Step(10.0, {"own": 0.2}), 2: Step(40.0, {"own": 0.6}), 8: Step(220.0, {"own": 0.7})}


def test_times_are_linear_between_what_was_measured_and_beyond() -> None:
    points = {2: 40.0, 4: 100.0, 8: 180.0}
    assert [linear(points, at) for at in (1, 2, 3, 4, 6, 8, 10)] == [10.0, 40.0, 70.0, 100.0, 140.0, 180.0, 220.0]


def test_the_default_search_of_twelve_layers_has_teachers_of_four_to_ten_and_students_of_one_to_three() -> None:
    trials = default_search(12, peak=7)
    assert default_layers(12) == (4, 5, 6, 7, 8, 9, 10)
    assert {trial.shape.task_layers for trial in trials if trial.shape.teacher is not None} == {1, 2, 3}
    assert any(trial.shape.task_layers == 7 and trial.score is not None for trial in trials)


@pytest.mark.parametrize("peak", [4, 10])
def test_a_search_s_share_lies_between_those_of_its_steps_and_cheap_steps_weigh_little(peak: int) -> None:
    trials = default_search(12, peak=peak)
    found = search_steps(trials, MEASURED)
    epochs = sum(trial.epochs_done for trial in trials if trial.shape.task_layers == 1)
    total = sum(trial.epochs_done * (30.0 * trial.shape.task_layers - 20.0) for trial in trials)
    assert found.one_layer == pytest.approx(10.0 * epochs / total)
    assert 0.6 < found.shares["own"] < 0.7


def test_a_search_that_is_all_of_one_size_has_the_share_of_that_step() -> None:
    trials = [trial for trial in default_search(12, peak=7) if trial.shape.task_layers == 2]
    assert search_steps(trials, MEASURED).shares == {"own": pytest.approx(0.6)}
