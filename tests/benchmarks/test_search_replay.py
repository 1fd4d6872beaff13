from collections.abc import Mapping
from typing import Any

import pytest
from search_replay import best_epoch, peaked_search, replay, scored_epochs

from pipelines.search.runs import Run
from registry.domain.searches import SearchOptions, TrialShape, TrialState


def options(**more: Any) -> SearchOptions:
    known: dict[str, Any] = {
        "layers": (4, 5, 6, 7, 8, 9, 10),
        "seeds": 5,
        "learning_rates": (1e-4,),
        "students": (1, 2),
        "recipe": {"epochs": 5, "evaluate_from": 3},
        "student_recipe": {"epochs": 10, "evaluate_from": 6, "learning_rate": 1e-4},
        "head": {},
    }
    return SearchOptions(**(known | more))


class Pool:
    """Trials that are all there, or only some: a curve that is highest at L = 7, and its asking written down."""

    def __init__(self, present: Mapping[int, int] | None = None) -> None:
        self.asked: list[Run] = []
        self.present = present
        self.names: dict[tuple[TrialShape, int], int] = {}

    def look(self, run: Run) -> dict[int, float] | None:
        self.asked.append(run)
        if self.present is not None and run.until_epoch > self.present.get(run.shape.task_layers, 0):
            return None
        value = 0.9 - 0.02 * abs(7 - run.shape.task_layers)
        return {epoch: value + 0.001 * epoch for epoch in range(1, run.until_epoch + 1)}

    def name(self, shape: TrialShape, epoch: int) -> int:
        return self.names.setdefault((shape, epoch), len(self.names) + 1)


def replayed(options: SearchOptions, pool: Pool) -> Any:
    return replay(options, 12, look=pool.look, name=pool.name, first_piece_only=False)


def test_an_exhaustive_replay_chooses_the_peak_and_runs_every_teacher_to_the_end() -> None:
    found = replayed(options(strategy="exhaustive", rule="best"), Pool())
    assert found.choice.layers == 7
    teachers = [trial for trial in found.trials if trial.shape.teacher is None]
    assert len(teachers) == 7 * 5
    assert {trial.state for trial in teachers} == {TrialState.FINISHED}
    assert found.layer_passes(students=False) == 5 * 5 * 3 * sum(range(4, 11))


def test_a_halving_replay_chooses_the_peak_and_leaves_most_trials_paused() -> None:
    found = replayed(options(rule="best"), Pool())
    assert found.choice.layers == 7
    paused = [trial for trial in found.trials if trial.state is TrialState.PAUSED]
    assert paused
    assert all(trial.score is None and trial.version is None for trial in paused)
    everything = replayed(options(strategy="exhaustive", rule="best"), Pool())
    assert found.layer_passes(students=False) < everything.layer_passes(students=False) / 3


def test_what_is_not_there_yet_is_asked_for_and_nothing_is_chosen() -> None:
    found = replayed(options(), Pool(present=dict.fromkeys(range(4, 11), 1)))
    assert found.choice is None
    assert {run.until_epoch for run in found.missing} == {3}
    assert {trial.shape.task_layers for trial in found.trials} == {4, 6, 8, 10}


def test_a_finished_trial_has_the_score_of_its_best_epoch_that_counts() -> None:
    assert best_epoch({1: 0.99, 3: 0.7, 4: 0.8, 5: 0.8}, evaluate_from=3) == 4


def test_every_rung_is_scored_and_every_epoch_that_may_be_the_best() -> None:
    assert scored_epochs(5, 3, [1, 3, 5]) == [1, 3, 4, 5]
    assert scored_epochs(10, 6, [3, 10]) == [3, 6, 7, 8, 9, 10]


@pytest.mark.parametrize("peak", [4, 7, 10])
def test_a_search_that_peaks_somewhere_costs_more_the_deeper_it_peaks(peak: int) -> None:
    cheapest = sum(trial.layer_passes for trial in peaked_search(options(), 12, peak=4, first_piece_only=True))
    cost = sum(trial.layer_passes for trial in peaked_search(options(), 12, peak=peak, first_piece_only=True))
    assert (cost > cheapest) is (peak > 4)


@pytest.mark.parametrize("peak", [4, 7, 10])
def test_where_the_peak_is_contested_both_depths_of_the_last_rung_get_all_their_runs(peak: int) -> None:
    ended = [
        {
            (trial.shape.task_layers, trial.shape.seed)
            for trial in peaked_search(options(), 12, peak=peak, contested=contested, first_piece_only=True)
            if trial.shape.teacher is None and trial.state is TrialState.FINISHED
        }
        for contested in (False, True)
    ]
    clearly, barely = ended
    (other,) = {layers for layers, _ in barely} - {peak}
    assert clearly == {(peak, 0), (peak, 1), (other, 0)}
    assert barely == clearly | {(other, 1)}
