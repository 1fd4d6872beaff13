"""The plan of a search, driven by simulated trials: what it asks for, and what it chooses."""

import math
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.search.own_part import own_part
from pipelines.search.plan import Step, default_student_depths, exhaustive_layer_passes, next_step
from pipelines.search.rungs import depth_stride
from pipelines.search.runs import Run, has_reached
from registry.domain.searches import (
    LedgerTrial,
    Search,
    SearchChoice,
    SearchOptions,
    TrialShape,
    TrialState,
)
from tests.search_records import search as search_record

DEPTH = 12
Metric = Callable[[TrialShape, int], float]
"""What a run reaches at an epoch."""


def options(**changes: Any) -> SearchOptions:
    values: dict[str, Any] = {
        "layers": tuple(range(4, 11)),
        "seeds": 5,
        "learning_rates": (1e-4,),
        "students": (1, 2, 3),
        "recipe": {"epochs": 5},
        "student_recipe": {"epochs": 10, "learning_rate": 1e-4},
        "head": {},
    }
    return SearchOptions(**values | changes)


def rising(shape: TrialShape, epoch: int) -> float:
    """Better with depth and epochs, levelling off; students best half way up."""
    if shape.teacher is None:
        return 1 - math.exp(-shape.task_layers / 3) + epoch / 100
    return shape.task_layers / 10 - abs(shape.frozen_depth - 7) / 100 + epoch / 1000


class Simulated:
    """A ledger whose trials end as a metric says."""

    def __init__(
        self,
        wanted: SearchOptions,
        metric: Metric,
        *,
        fails: Callable[[TrialShape], bool] = lambda _: False,
        attempts: Callable[[TrialShape], int] = lambda _: 0,
    ):
        """
        Args:
            attempts: of a trial that fails: 0 where it diverged.
        """
        self.options, self.metric, self.fails, self.attempts = wanted, metric, fails, attempts
        self.trials: dict[TrialShape, LedgerTrial] = {}
        self.epochs_run = 0
        self.versions = 0

    def run_one(self, run: Run) -> None:
        recipe = self.options.recipe if run.shape.teacher is None else self.options.student_recipe
        before = self.trials.get(run.shape)
        known = before.epochs_done if before else 0
        ended = run.until_epoch >= recipe["epochs"]
        self.epochs_run += run.until_epoch - known
        state = TrialState.FINISHED if ended else TrialState.PAUSED
        if self.fails(run.shape):
            state = TrialState.FAILED
        if state is TrialState.FINISHED:
            self.versions += 1
        reached = known if state is TrialState.FAILED else run.until_epoch
        self.trials[run.shape] = LedgerTrial(
            key=str(hash(run.shape)),
            shape=run.shape,
            state=state,
            epochs=recipe["epochs"],
            epochs_done=reached,
            curve={epoch: self.metric(run.shape, epoch) for epoch in range(1, reached + 1)},
            score=self.metric(run.shape, run.until_epoch) if state is TrialState.FINISHED else None,
            # A name that does not depend on when it ended, as a digest would be.
            version=_number(run.shape) if state is TrialState.FINISHED else None,
            error="the loss became nan" if state is TrialState.FAILED else None,
            attempts=self.attempts(run.shape) if state is TrialState.FAILED else 0,
            layer_passes=3.0 * run.shape.task_layers * reached,
            seconds=7.0 * reached,
        )

    def search(
        self, order: Callable[[list[Run]], Run] = lambda runs: runs[0], most: int = 10_000
    ) -> SearchChoice | str:
        for _ in range(most):
            step = next_step(self.options, DEPTH, list(self.trials.values()))
            if step.choice or step.failure:
                return step.choice or str(step.failure)
            left = [
                run
                for run in step.wanted
                if run.shape not in self.trials or not has_reached(self.trials[run.shape], run)
            ]
            self.run_one(order(left))
        raise AssertionError("it does not end")


def _number(shape: TrialShape) -> int:
    return 1 + int.from_bytes(repr(shape).encode()) % 10**9


def noisy(seed: int, spread: float = 0.05) -> Metric:
    def metric(shape: TrialShape, epoch: int) -> float:
        return rising(shape, epoch) + random.Random(f"{seed} {shape} {epoch}").gauss(0, spread)

    return metric


@given(seed=st.integers(0, 50), order=st.randoms(use_true_random=False), cut=st.integers(1, 60))
def test_the_choice_does_not_depend_on_which_run_ends_first_nor_on_interruptions(seed, order, cut):
    straight, shuffled = Simulated(options(), noisy(seed)), Simulated(options(), noisy(seed))
    expected = straight.search()
    assert shuffled.search(order=order.choice) == expected
    assert straight.trials == shuffled.trials
    # Interrupted: a ledger that holds only a part of what an unbroken search left goes on to the same end.
    resumed = Simulated(options(), noisy(seed))
    kept = list(straight.trials)[:cut]
    resumed.trials = {shape: straight.trials[shape] for shape in kept}
    assert resumed.search() == expected


def test_halving_runs_every_depth_a_little_and_few_to_the_end():
    simulated = Simulated(options(), rising)
    choice = simulated.search()
    teachers = [trial for trial in simulated.trials.values() if trial.shape.teacher is None]
    # Every other depth at first; 9 is promoted for what stands on its two sides.
    assert {trial.shape.task_layers for trial in teachers} == {4, 6, 8, 9, 10}
    finished = {trial.shape.task_layers for trial in teachers if trial.state is TrialState.FINISHED}
    assert finished == {9, 10}
    assert choice.layers == 10
    assert sum(trial.epochs_done for trial in teachers) == 20  # of 7 depths x 5 seeds x 5 epochs: 175


def runs_of(simulated: Simulated) -> dict[int, int]:
    """L -> teachers that were run to the end."""
    finished = [trial for trial in simulated.trials.values() if trial.state is TrialState.FINISHED]
    return dict(Counter(trial.shape.task_layers for trial in finished if trial.shape.teacher is None))


def test_a_depth_that_a_smaller_one_equals_gets_no_more_runs():
    simulated = Simulated(options(students=()), lambda shape, epoch: 0.9)
    assert simulated.search().layers == 4
    assert runs_of(simulated) == {4: 2, 5: 1}


def test_it_gets_them_when_the_smaller_one_falls_below_it_after_all():
    def metric(shape: TrialShape, epoch: int) -> float:
        return 0.5 if (shape.task_layers, shape.seed) == (4, 1) else 0.9

    simulated = Simulated(options(students=()), metric)
    choice = simulated.search()
    assert runs_of(simulated) == {4: 2, 5: 2}
    assert (choice.layers, choice.statistic) == (5, "mean of 2 seeds")
    assert Simulated(options(students=(), rule="best"), lambda shape, epoch: 0.9).search().statistic == "max of 2 seeds"


def test_a_depth_whose_first_run_failed_gets_its_others():
    wanted = options(layers=(9, 10), students=())
    simulated = Simulated(wanted, rising, fails=lambda shape: (shape.task_layers, shape.seed) == (10, 0))
    simulated.search()
    assert runs_of(simulated) == {9: 2, 10: 1}


def test_exhaustive_runs_everything_to_the_end():
    simulated = Simulated(options(strategy="exhaustive", rule="best"), rising)
    choice = simulated.search()
    teachers = [trial for trial in simulated.trials.values() if trial.shape.teacher is None]
    assert len(teachers) == 35
    assert all(trial.state is TrialState.FINISHED for trial in simulated.trials.values())
    assert (choice.layers, choice.statistic) == (10, "max of 5 seeds")


def flat(shape: TrialShape, epoch: int) -> float:
    return 0.9 + 0.01 * shape.seed if shape.teacher is None else 0.5


def test_the_parsimonious_rule_takes_the_smallest_depth_within_a_standard_error():
    choice = Simulated(options(strategy="exhaustive", students=()), flat).search()
    assert choice.layers == 4
    better = Simulated(
        options(strategy="exhaustive", students=()), lambda s, e: flat(s, e) + (0.05 if s.task_layers >= 7 else 0)
    ).search()
    assert better.layers == 7
    assert better.statistic == "mean of 5 seeds"


def test_where_it_gives_up_a_little_for_fewer_layers_it_says_so():
    def metric(shape: TrialShape, epoch: int) -> float:
        return flat(shape, epoch) + shape.task_layers / 10_000

    choice = Simulated(options(strategy="exhaustive", students=()), metric).search()
    assert (choice.layers, choice.statistic) == (4, "mean of 5 seeds, within one standard error of the best")


def test_the_best_rule_takes_the_highest_single_run():
    def metric(shape: TrialShape, epoch: int) -> float:
        return 0.99 if (shape.task_layers, shape.seed) == (5, 3) else flat(shape, epoch)

    choice = Simulated(options(strategy="exhaustive", rule="best", students=()), metric).search()
    assert (choice.layers, choice.statistic) == (5, "max of 5 seeds")
    assert choice.teacher == _number(TrialShape(frozen_depth=7, task_layers=5, learning_rate=1e-4, seed=3))


def test_students_are_searched_over_depth_and_the_best_one_of_each_size_is_chosen():
    simulated = Simulated(options(layers=(10,)), rising)
    choice = simulated.search()
    assert choice.students.keys() == {1, 2, 3}
    students = {trial.version: trial.shape for trial in simulated.trials.values() if trial.shape.teacher is not None}
    assert {students[version].frozen_depth for version in choice.students.values()} == {6, 7}
    for shape in students.values():
        assert 2 <= shape.frozen_depth <= DEPTH - shape.task_layers
        assert shape.teacher == choice.teacher


def test_depths_that_no_branch_can_have_are_passed_over():
    simulated = Simulated(options(layers=(4,), student_depths=(2, 8, 10, 11)), rising)
    simulated.search()
    depths = {(t.shape.task_layers, t.shape.frozen_depth) for t in simulated.trials.values() if t.shape.teacher}
    assert depths == {(1, 8), (1, 10), (1, 11), (2, 8), (2, 10), (3, 8)}


@pytest.mark.parametrize(("reached", "runs"), [(0.89, 2), (0.9, 1), (0.95, 1)])
def test_a_student_as_good_as_its_teacher_gets_no_more_runs(reached, runs):
    wanted = options(layers=(4,), students=(1,), student_depths=(8, 9))
    simulated = Simulated(wanted, lambda shape, epoch: 0.9 if shape.teacher is None else reached)
    simulated.search()
    finished = [trial for trial in simulated.trials.values() if trial.version and trial.shape.teacher is not None]
    assert [trial.shape.seed for trial in finished] == list(range(runs))


def at_the_last_rung(simulated: Simulated) -> Step:
    while (step := next_step(simulated.options, DEPTH, list(simulated.trials.values()))).wanted:
        *_, number, _, rungs = step.stage.split()
        if number == rungs:
            return step
        for run in step.wanted:
            simulated.run_one(run)
    raise AssertionError("there was no last rung")


@pytest.mark.parametrize("first", [4, 5])
def test_the_further_runs_of_the_one_that_leads_begin_with_the_last_rung(first):
    def metric(shape: TrialShape, epoch: int) -> float:
        return 0.9 + (0.05 if shape.task_layers == first else 0.01 if shape.task_layers in (4, 5) else 0)

    step = at_the_last_rung(Simulated(options(students=()), metric))
    assert {(run.shape.task_layers, run.shape.seed) for run in step.wanted} == {(4, 0), (5, 0), (first, 1)}


def test_of_a_single_depth_no_run_waits_for_another():
    step = next_step(options(students=(), layers=(10,)), DEPTH, [])
    assert {run.shape.seed for run in step.wanted} == {0, 1}


def at_the_end(scores: dict[int, tuple[float, float]], leader: int) -> Metric:
    """Scores of two seeds at the last epoch; before it one depth leads."""

    def metric(shape: TrialShape, epoch: int) -> float:
        if epoch == 5 and shape.task_layers in scores:
            return scores[shape.task_layers][shape.seed]
        return 0.5 - abs(shape.task_layers - leader) / 100

    return metric


@pytest.mark.parametrize(
    ("of_nine", "of_ten", "runs", "chosen"),
    [
        ((0.929, 0.99), (0.95, 0.93), {9: 1, 10: 2}, 10),  # below both runs of ten layers
        ((0.931, 0.931), (0.95, 0.93), {9: 2, 10: 2}, 10),  # a standard error below, until it has two runs that agree
        ((0.931, 0.939), (0.95, 0.93), {9: 2, 10: 2}, 9),
        ((0.97, 0.97), (0.95, 0.93), {9: 2, 10: 2}, 9),
        ((254 / 277, 0.5), (259 / 277, 254 / 277), {9: 2, 10: 2}, 10),  # equal to the lower one, whatever the sums say
    ],
)
@pytest.mark.parametrize("layers", [(9, 10), tuple(range(4, 11))])
def test_a_smaller_depth_gets_further_runs_where_the_rule_would_take_it(layers, of_nine, of_ten, runs, chosen):
    simulated = Simulated(options(students=(), layers=layers), at_the_end({9: of_nine, 10: of_ten}, leader=10))
    assert simulated.search().layers == chosen
    assert runs_of(simulated) == (runs if len(layers) > 2 or of_nine[0] < of_ten[0] else {9: 2, 10: 1})


def test_the_runs_of_the_one_that_led_count_though_another_one_leads_now():
    simulated = Simulated(options(students=()), at_the_end({4: (0.9, 0.99), 5: (0.92, 0.92)}, leader=4))
    assert simulated.search().layers == 4
    assert runs_of(simulated) == {4: 2, 5: 1}


def test_the_one_that_leads_is_not_lost_with_its_first_run():
    lost = TrialShape(frozen_depth=2, task_layers=10, learning_rate=1e-4, seed=0)
    simulated = Simulated(options(students=()), rising)
    for run in at_the_last_rung(simulated).wanted:
        simulated.fails = lambda shape: shape == lost
        simulated.run_one(run)
    assert simulated.search().layers == 10
    assert runs_of(simulated) == {9: 1, 10: 1}


def test_runs_that_another_rule_had_wanted_decide_nothing():
    metric = at_the_end({9: (0.929, 0.99), 10: (0.95, 0.93)}, leader=10)
    simulated = Simulated(options(students=()), metric)
    simulated.run_one(Run(TrialShape(frozen_depth=3, task_layers=9, learning_rate=1e-4, seed=1), 5))
    assert simulated.search().layers == 10


def test_no_student_is_larger_than_its_teacher():
    simulated = Simulated(options(layers=(2,)), rising)
    assert simulated.search().students.keys() == {1, 2}


def test_both_initialisations_are_tried_when_asked_for():
    simulated = Simulated(options(layers=(6,), initialisations=("teacher", "backbone")), rising)
    simulated.search()
    begun = {trial.shape.initialisation for trial in simulated.trials.values() if trial.shape.teacher is not None}
    assert begun == {"teacher", "backbone"}


def test_a_failed_run_is_left_out_and_the_search_goes_on():
    choice = Simulated(options(), rising, fails=lambda shape: shape.task_layers == 10).search()
    assert choice.layers == 9


def test_a_search_whose_teachers_all_fail_says_why():
    assert Simulated(options(), rising, fails=lambda shape: True).search() == (
        "no teacher reached the end: the loss became nan"
    )


def of_two_layers(shape: TrialShape) -> bool:
    return shape.teacher is not None and shape.task_layers == 2


def test_where_all_students_of_one_size_diverge_the_search_goes_on_without_them():
    choice = Simulated(options(), rising, fails=of_two_layers).search()
    assert isinstance(choice, SearchChoice)
    assert choice.students.keys() == {1, 3}


@pytest.mark.parametrize("depths", [range(DEPTH), (2,), (10,)])
def test_where_students_of_a_size_that_nobody_finished_broke_off_the_search_may_be_gone_on_with(depths):
    broken = Simulated(
        options(), rising, fails=of_two_layers, attempts=lambda shape: 3 if shape.frozen_depth in depths else 0
    )
    assert broken.search() == "no student of 2 layers reached the end: the loss became nan"


@given(seed=st.integers(0, 1000), chosen=st.randoms(use_true_random=False))
def test_what_becomes_of_trials_after_they_were_stopped_changes_no_choice(seed, chosen):
    simulated = Simulated(options(), noisy(seed))
    choice = simulated.search()
    for shape, trial in simulated.trials.items():
        if trial.state is TrialState.PAUSED and chosen.random() < 0.5:
            simulated.trials[shape] = trial.model_copy(update={"state": TrialState.FAILED, "error": "later"})
    assert next_step(simulated.options, DEPTH, list(simulated.trials.values())).choice == choice


@given(seed=st.integers(0, 1000), chosen=st.randoms(use_true_random=False))
def test_what_other_searches_did_with_its_trials_is_no_part_of_a_search(seed, chosen):
    simulated = Simulated(options(), noisy(seed))
    choice = simulated.search()
    own = tuple(simulated.trials.values())
    for trial in own:
        if trial.state is TrialState.PAUSED and chosen.random() < 0.5:
            simulated.run_one(Run(trial.shape, chosen.choice([trial.epochs_done + 1, trial.epochs])))
    search = found_by(simulated, choice)
    assert own_part(search).trials == own
    assert own_part(search.model_copy(update={"trials": own})).trials == own


def test_a_search_that_is_not_finished_or_would_choose_otherwise_now_is_left_as_it_is():
    simulated = Simulated(options(), rising)
    choice = simulated.search()
    search = found_by(simulated, choice)
    for other in (None, choice.model_copy(update={"layers": 3})):
        changed = search.model_copy(update={"choice": other})
        assert own_part(changed) is changed
    fewer = search.model_copy(update={"trials": search.trials[1:]})
    assert own_part(fewer) is fewer


def found_by(simulated: Simulated, choice: SearchChoice) -> Search:
    return search_record(*simulated.trials.values(), choice=choice, options=simulated.options, backbone_layers=DEPTH)


def test_of_learning_rates_the_better_one_wins():
    def metric(shape: TrialShape, epoch: int) -> float:
        return rising(shape, epoch) + (0.2 if shape.learning_rate == 2e-4 else 0)

    assert Simulated(options(learning_rates=(1e-4, 2e-4)), metric).search().learning_rate == 2e-4


def test_neighbours_speak_for_a_depth_so_that_one_lucky_run_does_not_decide():
    def metric(shape: TrialShape, epoch: int) -> float:
        if shape.teacher is not None:
            return 0.5
        lucky = shape.task_layers == 4
        return 0.82 if lucky else (0.8 if shape.task_layers >= 7 else 0.5)

    simulated = Simulated(options(students=()), metric)
    simulated.search()
    assert {t.shape.task_layers for t in simulated.trials.values() if t.epochs_done > 1} == {8, 9, 10}


@pytest.mark.parametrize(
    ("layers", "stride", "asked"),
    [
        ((4, 5, 6, 7, 8), 2, {4, 6, 8}),
        ((4, 5, 6, 7, 8, 9), 2, {4, 5, 7, 9}),
        ((4, 5, 6, 7), 1, {4, 5, 6, 7}),
        ((2, 4, 6, 8, 10, 12), 1, {2, 4, 6, 8, 10, 12}),
        ((3,), 1, {3}),
    ],
)
def test_every_other_one_of_many_neighbouring_depths_is_run_at_first_and_both_ends(layers, stride, asked):
    assert depth_stride(layers) == stride
    step = next_step(options(layers=layers), DEPTH, [])
    assert {run.shape.task_layers for run in step.wanted} == asked


@pytest.mark.parametrize(
    ("teacher", "layers", "depths"),
    [(2, 1, (2, 7, 11)), (2, 3, (2, 6, 9)), (8, 3, (8, 9)), (9, 3, (9,)), (0, 12, (0,))],
)
def test_default_depths_of_students(teacher, layers, depths):
    assert default_student_depths(teacher, layers, DEPTH) == depths


def test_what_the_paper_protocol_costs():
    # 7 depths x 5 seeds x 5 epochs of k + 3 L (26 on average), 3 sizes x 5 seeds x 10 epochs of 5 + 3 l
    assert exhaustive_layer_passes(options(), DEPTH) == 35 * 5 * 26 + 50 * (8 + 11 + 14)


def test_runs_are_asked_for_longest_first():
    step = next_step(options(), DEPTH, [])
    lengths = [run.shape.task_layers * run.until_epoch for run in step.wanted]
    assert lengths == sorted(lengths, reverse=True)
    assert step.stage == "teachers, rung 1 of 3"


def test_of_a_promoted_run_its_length_is_what_is_left_of_it():
    simulated = Simulated(options(students=(), layers=(9, 10, 11)), lambda shape, epoch: 1 - shape.task_layers / 100)
    step = at_the_last_rung(simulated)
    assert [(run.shape.task_layers, run.shape.seed) for run in step.wanted] == [(9, 1), (10, 0), (9, 0)]


def test_what_another_search_had_run_to_its_end_is_compared_at_the_rungs_epoch_all_the_same():
    expected, shared = Simulated(options(), rising), Simulated(options(), rising)
    for seed in range(2):  # the two depths that are worst: their scores at the end beat all others after one epoch
        for layers in (4, 5):
            shape = TrialShape(frozen_depth=DEPTH - layers, task_layers=layers, learning_rate=1e-4, seed=seed)
            shared.run_one(Run(shape, 5))
    assert shared.search() == expected.search()


def test_the_chosen_learning_rate_is_the_students_too():
    def metric(shape: TrialShape, epoch: int) -> float:
        return rising(shape, epoch) + (0.2 if shape.learning_rate == 1e-4 else 0)

    simulated = Simulated(options(learning_rates=(1e-4, 4e-4)), metric)
    simulated.search()
    assert {trial.shape.learning_rate for trial in simulated.trials.values() if trial.shape.teacher} == {1e-4}
