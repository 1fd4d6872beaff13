"""The driver of a search, with a ledger in memory and an executor that ends trials as it is told."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.execution.executor import Ended, Event, Progressed, Warned
from pipelines.execution.trial_file import TrialFailure, TrialFile, TrialOutcome, TrialResult
from pipelines.search.depth_search import MOST_ATTEMPTS, DepthSearch
from registry.domain.searches import LedgerTrial, PlannedTrial, SearchOptions, TrialShape, TrialState
from registry.errors import Conflict, NotAllowed, StorageError, TrainingFailed
from registry.progress import silent

OPTIONS = SearchOptions(
    layers=(2, 3, 4),
    seeds=5,
    learning_rates=(1e-4,),
    students=(1,),
    recipe={"epochs": 5},
    student_recipe={"epochs": 5, "learning_rate": 1e-4},
    head={},
)


class MemoryLedger:
    """As the registry's, for one process."""

    def __init__(self) -> None:
        self.rows: dict[str, LedgerTrial] = {}
        self.held_elsewhere: set[str] = set()
        self.events: list[str] = []
        self.on_hold: Callable[[], None] = lambda: None

    def trials(self) -> Sequence[LedgerTrial]:
        return list(self.rows.values())

    def version(self, number: int) -> Any:
        return SimpleNamespace(number=number)

    def ask_for(self, planned: Sequence[PlannedTrial]) -> None:
        for one in planned:
            new = LedgerTrial(key=one.key, shape=one.shape, state=TrialState.WAITING, epochs=one.epochs)
            self.rows.setdefault(one.key, new)

    def claim(self, key: str) -> bool:
        row = self.rows[key]
        if key in self.held_elsewhere or row.state in (TrialState.FINISHED, TrialState.FAILED, TrialState.RUNNING):
            return False
        self._set(key, state=TrialState.RUNNING)
        return True

    def refuse_if_lost(self) -> None:
        self.on_hold()

    def finish(self, trial: LedgerTrial, outcome: TrialOutcome) -> None:
        assert self.rows[trial.key].state is not TrialState.FINISHED, "finished twice"
        number = 1 + sum(row.version is not None for row in self.rows.values())
        score = outcome.metrics[outcome.epochs_done]["accuracy"]
        self._set(
            trial.key,
            state=TrialState.FINISHED,
            version=number,
            score=score,
            epochs_done=outcome.epochs_done,
            curve=self._curve(trial, outcome),
        )

    def pause(self, trial: LedgerTrial, outcome: TrialOutcome) -> None:
        curve = self._curve(trial, outcome)
        self._set(trial.key, state=TrialState.PAUSED, epochs_done=outcome.epochs_done, curve=curve)

    def _curve(self, trial: LedgerTrial, outcome: TrialOutcome) -> dict[int, float]:
        new = {epoch: metrics["accuracy"] for epoch, metrics in outcome.metrics.items()}
        return new | dict(self.rows[trial.key].curve)

    def give_back(self, trial: LedgerTrial, *, seconds: float, error: str | None) -> None:  # noqa: ARG002
        if self.rows[trial.key].state is not TrialState.RUNNING:
            return
        attempts = self.rows[trial.key].attempts + (error is not None)
        self._set(trial.key, state=TrialState.WAITING, error=error, attempts=attempts)

    def fail(self, trial: LedgerTrial, *, seconds: float, error: str, broke_off: bool) -> None:  # noqa: ARG002
        self._set(trial.key, state=TrialState.FAILED, error=error, attempts=trial.attempts + broke_off)

    def _set(self, key: str, **changes: Any) -> None:
        self.events.append(f"{key} {changes['state']}")
        self.rows[key] = self.rows[key].model_copy(update=changes)


class ScriptedExecutor:
    """Ends every trial at the next look, as `outcome` says; None lets it run on."""

    def __init__(self, outcome: Callable[[TrialFile], TrialResult | None], count: int = 2) -> None:
        self.outcome, self.count = outcome, count
        self.running: dict[str, TrialFile] = {}
        self.started: list[TrialFile] = []
        self.most_at_once = 0
        self.closed = False

    def room(self) -> int:
        return self.count - len(self.running)

    def start(self, file: TrialFile) -> None:
        assert self.room()
        self.running[file.key] = file
        self.started.append(file)
        self.most_at_once = max(self.most_at_once, len(self.running))

    def events(self, *, seconds: float) -> Sequence[Event]:  # noqa: ARG002
        found: list[Event] = [Progressed(key, "epoch 2 of 5", 20, 50) for key in self.running]
        for key, file in list(self.running.items()):
            if (result := self.outcome(file)) is not None:
                del self.running[key]
                found.append(Ended(key, result))
        return found

    def close(self) -> None:
        self.closed = True
        self.running.clear()


def describe(shape: TrialShape, teacher: Any) -> TrialFile:
    recipe = SimpleNamespace(epochs=5)
    return TrialFile.model_construct(
        key=f"{'t' if teacher is None else 's'} k={shape.frozen_depth} l={shape.task_layers} seed={shape.seed}",
        frozen_depth=shape.frozen_depth,
        task_layers=shape.task_layers,
        seed=shape.seed,
        recipe=recipe,
        teacher=teacher,
        until_epoch=None,
    )


def went_well(file: TrialFile) -> TrialResult:
    epoch = file.until_epoch or 5
    outcome = TrialOutcome.model_construct(
        epochs_done=epoch,
        metrics={
            done: {"accuracy": file.task_layers / 10 + file.seed / 100 + done / 1000} for done in range(1, epoch + 1)
        },
        losses={},
        seconds=1.0,
        layer_passes=1.0,
        version=None if file.until_epoch else SimpleNamespace(),
    )
    return TrialResult.model_construct(outcome=outcome, failure=None)


def failed(kind: Any, message: str = "it broke") -> TrialResult:
    return TrialResult(failure=TrialFailure(kind=kind, message=message))


def search(ledger: MemoryLedger, executor: ScriptedExecutor, warnings: list[str] | None = None) -> DepthSearch:
    return DepthSearch(
        options=OPTIONS,
        backbone_layers=4,
        ledger=ledger,
        executor=executor,
        describe=describe,
        report=silent,
        warn=(warnings if warnings is not None else []).append,
        clock=lambda: 0.0,
    )


def test_it_runs_what_the_plan_wants_and_ends_with_its_choice():
    ledger, executor = MemoryLedger(), ScriptedExecutor(went_well)
    choice = search(ledger, executor).run()
    assert choice.layers == 4
    assert ledger.rows["t k=0 l=4 seed=1"].version == choice.teacher
    assert executor.most_at_once == 2
    assert executor.closed


def test_a_promoted_trial_is_asked_to_go_on_and_not_to_begin_again():
    executor = ScriptedExecutor(went_well)
    search(MemoryLedger(), executor).run()
    untils = [file.until_epoch for file in executor.started if file.key == "t k=0 l=4 seed=0"]
    assert untils == [1, None]


def test_an_interrupted_search_gives_its_trials_back_and_ends_as_an_unbroken_one_does():
    unbroken = MemoryLedger()
    expected = search(unbroken, ScriptedExecutor(went_well)).run()
    runs = sum(event.endswith(("paused", "finished")) for event in unbroken.events)
    for stop_after in range(runs):
        ledger, looks = MemoryLedger(), iter(range(1000))

        def interrupted(file: TrialFile, looks: Any = looks, stop_after: int = stop_after) -> TrialResult:
            if next(looks) >= stop_after:
                raise KeyboardInterrupt
            return went_well(file)

        executor = ScriptedExecutor(interrupted)
        with pytest.raises(KeyboardInterrupt):
            search(ledger, executor).run()
        assert executor.closed
        assert TrialState.RUNNING not in {row.state for row in ledger.rows.values()}
        choice = search(ledger, ScriptedExecutor(went_well)).run()
        assert (choice.layers, choice.statistic) == (expected.layers, expected.statistic)
        best = next(row.shape for row in ledger.rows.values() if row.version == choice.teacher)
        assert best == next(row.shape for row in unbroken.rows.values() if row.version == expected.teacher)


def test_a_trial_that_diverges_fails_at_once_and_the_search_goes_on_and_says_so():
    warnings: list[str] = []
    ledger = MemoryLedger()
    diverges = "t k=1 l=3 seed=0"
    executor = ScriptedExecutor(
        lambda file: failed("diverged", "the loss became nan") if file.key == diverges else went_well(file)
    )
    assert search(ledger, executor, warnings).run().layers == 4
    assert ledger.rows[diverges].state is TrialState.FAILED
    assert len([file for file in executor.started if file.key == diverges]) == 1
    assert len(warnings) == 1
    assert "teacher, k 1, l 3" in warnings[0]
    assert "goes on without it: the loss became nan" in warnings[0]


def test_a_broken_attempt_is_repeated_and_a_trial_that_always_breaks_fails():
    warnings: list[str] = []
    ledger = MemoryLedger()
    breaks = "t k=1 l=3 seed=0"
    executor = ScriptedExecutor(lambda file: failed("broken") if file.key == breaks else went_well(file))
    search(ledger, executor, warnings).run()
    assert len([file for file in executor.started if file.key == breaks]) == MOST_ATTEMPTS
    assert ledger.rows[breaks].state is TrialState.FAILED
    assert [("trying again" in warning) for warning in warnings] == [True, True, False]


def test_a_crash_late_in_a_trial_is_its_first_however_many_rungs_it_had_reached():
    warnings: list[str] = []
    crashed: list[str] = []

    def crashes_once_at_the_end(file: TrialFile) -> TrialResult:
        if file.until_epoch is None and file.teacher is None and not crashed:
            crashed.append(file.key)
            return failed("broken")
        return went_well(file)

    ledger = MemoryLedger()
    search(ledger, ScriptedExecutor(crashes_once_at_the_end), warnings).run()
    assert "trying again" in warnings[0]
    assert ledger.rows[crashed[0]].state is TrialState.FINISHED


def test_a_trial_that_is_busy_elsewhere_is_waited_for_and_no_attempt_is_counted():
    busy_until, times = 3, 0
    clock = iter(range(0, 100_000, 5))

    def busy_at_first(file: TrialFile) -> TrialResult:
        nonlocal times
        if file.key == "t k=0 l=4 seed=0" and file.until_epoch == 1:
            times += 1
            if times <= busy_until:
                return failed("busy", "another process is running this trial")
        return went_well(file)

    ledger = MemoryLedger()
    driver = search(ledger, ScriptedExecutor(busy_at_first))
    driver.clock = lambda: float(next(clock))
    assert driver.run().layers == 4
    assert times == busy_until + 1
    assert ledger.rows["t k=0 l=4 seed=0"].attempts == 0


def test_what_the_workers_warn_of_is_passed_on_once():
    warnings: list[str] = []

    class Cautious(ScriptedExecutor):
        def events(self, *, seconds: float) -> Sequence[Event]:
            return [*(Warned(key, "the cache is full") for key in self.running), *super().events(seconds=seconds)]

    search(MemoryLedger(), Cautious(went_well), warnings).run()
    assert warnings == ["the cache is full"]


def test_where_trials_cannot_be_run_the_search_ends_and_loses_nothing():
    ledger = MemoryLedger()
    executor = ScriptedExecutor(
        lambda file: failed("refused", "the disk is full") if file.key == "t k=0 l=4 seed=1" else went_well(file)
    )
    with pytest.raises(StorageError, match="the disk is full"):
        search(ledger, executor).run()
    assert TrialState.RUNNING not in {row.state for row in ledger.rows.values()}
    assert search(ledger, ScriptedExecutor(went_well)).run().layers == 4


def test_a_search_of_which_every_teacher_fails_says_why():
    executor = ScriptedExecutor(lambda file: failed("diverged", "the loss became nan"))
    with pytest.raises(TrainingFailed, match="no teacher reached the end: the loss became nan"):
        search(MemoryLedger(), executor).run()


def test_what_another_process_runs_is_waited_for_and_not_run_twice():
    ledger, held = MemoryLedger(), "t k=0 l=4 seed=0"
    ledger.held_elsewhere.add(held)
    looks = 0

    def elsewhere_it_ends() -> None:
        nonlocal looks
        looks += 1
        if looks == 5:
            ledger.held_elsewhere.clear()
            ledger.pause(ledger.rows[held], went_well(describe_until(held, 1)).outcome)

    ledger.on_hold = elsewhere_it_ends
    executor = ScriptedExecutor(went_well)
    assert search(ledger, executor).run().layers == 4
    assert [file.until_epoch for file in executor.started if file.key == held] == [None]


def describe_until(key: str, epoch: int) -> TrialFile:
    assert key == "t k=0 l=4 seed=0"
    shape = TrialShape(frozen_depth=0, task_layers=4, learning_rate=1e-4, seed=0)
    return describe(shape, None).model_copy(update={"until_epoch": epoch})


def test_a_task_that_changed_meanwhile_ends_the_search():
    ledger = MemoryLedger()

    def changed() -> None:
        raise Conflict("task rte was redefined")

    ledger.on_hold = changed
    executor = ScriptedExecutor(lambda file: None)
    with pytest.raises(Conflict, match="redefined"):
        search(ledger, executor).run()
    assert executor.closed
    assert TrialState.RUNNING not in {row.state for row in ledger.rows.values()}


@pytest.mark.parametrize("method", ["finish", "pause"])
def test_a_trial_whose_end_the_ledger_refuses_is_given_back(method, monkeypatch):
    ledger = MemoryLedger()

    def refuse(trial: LedgerTrial, outcome: TrialOutcome) -> None:
        raise NotAllowed(f"task rte is retired: {trial.key} cannot become a version of it, {outcome.epochs_done}")

    with monkeypatch.context() as patched:
        patched.setattr(ledger, method, refuse)
        with pytest.raises(NotAllowed, match="retired"):
            search(ledger, ScriptedExecutor(went_well)).run()
    assert TrialState.RUNNING not in {row.state for row in ledger.rows.values()}
    assert search(ledger, ScriptedExecutor(went_well)).run().layers == 4


def test_the_report_counts_epochs_also_those_of_trials_that_still_run():
    told: list[tuple[str, int, int]] = []
    looks = 0

    def ends_at_the_third_look(file: TrialFile) -> TrialResult | None:
        nonlocal looks
        looks += 1
        return went_well(file) if looks > 6 else None

    ledger = MemoryLedger()
    driver = search(ledger, ScriptedExecutor(ends_at_the_third_look))
    while_none_had_ended: list[int] = []

    def report(stage: str, done: int, total: int) -> None:
        told.append((stage, done, total))
        if not any(row.epochs_done for row in ledger.rows.values()):
            while_none_had_ended.append(done)

    driver.report = report
    clock = iter(range(0, 100_000, 5))
    driver.clock = lambda: float(next(clock))
    driver.run()
    first = [(done, total) for stage, done, total in told if "rung 1 of" in stage]
    assert all("epochs" in stage for stage, _, _ in told)
    assert [done for done, _ in first] == sorted(done for done, _ in first)
    assert all(done <= total for _, done, total in told)
    assert first[0][0] == 0
    assert first[-1][0] == first[-1][1]
    assert max(while_none_had_ended) == 2, "two trials of one epoch each ran, and had done it by their own word"
