import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event
from sqlalchemy.orm import Session

from registry.database.engine import Database
from registry.domain.records import NewVersion, Version
from registry.domain.searches import LedgerTrial, NewSearch, PlannedTrial, Search, TrialProgress, TrialState
from registry.fault_points import arm
from registry.services import trials
from registry.services.searches import begin_search, get_search
from registry.services.versions import list_versions, register_version

NOON = datetime(2026, 5, 2, 12, tzinfo=UTC)
LEASE = timedelta(minutes=2)
METRIC = "accuracy"


def minute(number: int) -> datetime:
    return NOON + timedelta(minutes=number)


def progress(epochs_done: int, *, seconds: float = 10.0, layer_passes: float = 3.0) -> TrialProgress:
    curve = {epoch: epoch / 10 for epoch in range(1, epochs_done + 1)}
    return TrialProgress(epochs_done=epochs_done, curve=curve, seconds=seconds, layer_passes=layer_passes)


@dataclass(frozen=True)
class Ledger:
    """The ledger of the task rte, with every function a transaction of its own, as a search's runner calls it."""

    database: Database
    search: Search
    planned_trial: Callable[..., PlannedTrial]
    new_version: Callable[..., NewVersion]

    def ask_for(self, *names: str, search: Search | None = None) -> None:
        with self.database.write() as session:
            trials.ask_for(session, search or self.search, [self.planned_trial(name) for name in names])

    def claim(self, name: str, worker: str = "a", *, at: datetime = NOON, gone: tuple[str, ...] = ()) -> bool:
        with self.database.write() as session:
            return claim(session, self.key(name), worker, at=at, gone=gone)

    def hold(self, worker: str, *, until: datetime) -> None:
        with self.database.write() as session:
            trials.hold_trials(session, "rte", worker=worker, until=until)

    def pause(self, name: str, worker: str = "a", *, epochs_done: int = 2) -> None:
        with self.database.write() as session:
            trials.pause_trial(session, "rte", self.key(name), worker=worker, progress=progress(epochs_done))

    def give_back(self, name: str, worker: str = "a", *, error: str | None = None) -> None:
        with self.database.write() as session:
            trials.give_back_trial(session, "rte", self.key(name), worker=worker, seconds=5.0, error=error)

    def fail(self, name: str, worker: str = "a", *, error: str = "loss is NaN", broke_off: bool = False) -> None:
        with self.database.write() as session:
            trials.fail_trial(
                session, "rte", self.key(name), worker=worker, seconds=5.0, error=error, broke_off=broke_off
            )

    def register(self, name: str) -> Version:
        """What `trunkline train` does: a version, past the ledger."""
        with self.database.write() as session:
            return register_version(session, self.new_version(trial=name), actor="ann", at=NOON)

    def finish(self, name: str) -> Version:
        with self.database.write() as session:
            return finish(session, self.new_version(trial=name))

    def key(self, name: str) -> str:
        return self.planned_trial(name).key

    def __getitem__(self, name: str) -> LedgerTrial:
        (found,) = (trial for trial in self.asked_for() if trial.key == self.key(name))
        return found

    def asked_for(self, search: Search | None = None) -> tuple[LedgerTrial, ...]:
        of = search or self.search
        with self.database.read() as session:
            return get_search(session, of.task, of.number).trials


def claim(session: Session, key: str, worker: str, *, at: datetime = NOON, gone: tuple[str, ...] = ()) -> bool:
    return trials.claim_trial(session, "rte", key, worker=worker, until=at + LEASE, is_gone=gone.__contains__, at=at)


def finish(session: Session, new: NewVersion) -> Version:
    version = register_version(session, new, actor="ann", at=NOON)
    score = version.metrics[METRIC]
    trials.finish_trial(session, "rte", new.trial_key, version=version, score=score, progress=progress(5))
    return version


def begin(database: Database, new: NewSearch) -> Search:
    with database.write() as session:
        return begin_search(session, new, runner="a", until=NOON + LEASE, is_gone=lambda _: False, actor="ann", at=NOON)


@pytest.fixture
def ledger(registry: Database, new_search: Any, planned_trial: Any, new_version: Any) -> Ledger:
    return Ledger(registry, begin(registry, new_search()), planned_trial, new_version)


def test_trials_wait_in_the_order_in_which_they_were_asked_for(ledger: Ledger) -> None:
    ledger.ask_for("c", "a", "b")
    ledger.ask_for("d", "a", "d", "e")
    assert [trial.key for trial in ledger.asked_for()] == [ledger.key(name) for name in "cabde"]
    planned = ledger.planned_trial("a")
    assert ledger["a"] == LedgerTrial(key=planned.key, shape=planned.shape, state=TrialState.WAITING, epochs=5)


def test_asking_for_nothing_changes_nothing(ledger: Ledger) -> None:
    ledger.ask_for()
    assert ledger.asked_for() == ()


def test_two_searches_of_one_task_share_their_trials_each_in_its_own_order(
    ledger: Ledger, new_search: Callable[..., NewSearch]
) -> None:
    other = begin(ledger.database, new_search(content="other"))
    ledger.ask_for("a", "b", "c")
    ledger.claim("b")
    ledger.finish("c")
    ledger.ask_for("d", "c", "b", search=other)
    assert [trial.key for trial in ledger.asked_for()] == [ledger.key(name) for name in "abc"]
    assert [trial.key for trial in ledger.asked_for(other)] == [ledger.key(name) for name in "dcb"]
    assert ledger.asked_for(other)[1:] == (ledger["c"], ledger["b"])
    assert [trial.state for trial in ledger.asked_for(other)] == ["waiting", "finished", "running"]


def test_a_trial_of_another_task_is_another_trial(
    ledger: Ledger, new_search: Callable[..., NewSearch], planned_trial: Callable[..., PlannedTrial]
) -> None:
    other = begin(ledger.database, new_search("sst"))
    ledger.ask_for("a")
    with ledger.database.write() as session:
        trials.ask_for(session, other, [planned_trial("a")])
    ledger.claim("a")
    assert [trial.state for trial in ledger.asked_for(other)] == ["waiting"]
    ledger.hold("a", until=minute(9))
    with ledger.database.write() as session:
        assert trials.claim_trial(
            session, "sst", ledger.key("a"), worker="a", until=minute(2), is_gone=lambda _: False, at=NOON
        )
        trials.hold_trials(session, "rte", worker="a", until=minute(20))
    assert [trial.lease_until for trial in ledger.asked_for(other)] == [minute(2)]


def test_a_trial_whose_version_training_made_is_run_for_its_curve_and_becomes_that_version(ledger: Ledger) -> None:
    version = ledger.register("a")
    ledger.ask_for("a")
    assert ledger["a"].state is TrialState.WAITING
    ledger.claim("a")
    assert ledger.finish("a").number == version.number
    assert (ledger["a"].state, ledger["a"].version) == (TrialState.FINISHED, version.number)


def test_what_only_broke_off_may_be_tried_anew_and_what_diverged_may_not(ledger: Ledger) -> None:
    ledger.ask_for("broken", "diverged", "begun")
    for name in ("broken", "diverged", "begun"):
        ledger.claim(name)
    ledger.pause("begun", epochs_done=1)
    ledger.claim("begun")
    ledger.fail("broken", error="killed", broke_off=True)
    ledger.fail("begun", error="killed", broke_off=True)
    ledger.fail("diverged")
    with ledger.database.write() as session:
        trials.forgive_broken_trials(session, ledger.search)
    assert [ledger[name].state for name in ("broken", "diverged", "begun")] == ["waiting", "failed", "paused"]
    assert ledger["broken"].attempts == 0
    assert ledger.claim("broken")
    assert not ledger.claim("diverged")


def test_what_broke_off_once_and_then_diverged_is_not_tried_anew(ledger: Ledger) -> None:
    ledger.ask_for("a")
    ledger.claim("a")
    ledger.give_back("a", error="killed")
    assert ledger["a"].attempts == 1
    ledger.claim("a")
    ledger.fail("a")
    with ledger.database.write() as session:
        trials.forgive_broken_trials(session, ledger.search)
    assert ledger["a"].state is TrialState.FAILED


def test_a_rung_that_was_decided_stays_decided_when_its_trial_is_begun_again(ledger: Ledger) -> None:
    ledger.ask_for("a")
    ledger.claim("a")
    ledger.pause("a", epochs_done=1)
    first = ledger["a"].curve
    ledger.claim("a")
    again = TrialProgress(epochs_done=3, curve={1: 0.9, 3: 0.95}, seconds=1.0, layer_passes=1.0)
    with ledger.database.write() as session:
        trials.pause_trial(session, "rte", ledger.key("a"), worker="a", progress=again)
    assert ledger["a"].curve == {**first, 3: 0.95}


def test_a_trial_that_is_claimed_is_running_under_a_lease(ledger: Ledger) -> None:
    ledger.ask_for("a", "b")
    assert ledger.claim("a", "worker")
    trial = ledger["a"]
    assert (trial.state, trial.worker, trial.lease_until, trial.attempts) == ("running", "worker", minute(2), 0)
    assert ledger["b"].worker is None


@pytest.mark.parametrize(
    ("later", "gone", "is_taken_over"),
    [(1, (), False), (1, ("b", "c"), False), (2, (), True), (60, (), True), (0, ("a",), True)],
    ids=["leased", "others are gone", "lease just ended", "lease ended long ago", "process gone"],
)
def test_a_trial_that_another_holds_is_claimed_only_when_its_lease_is_over_or_its_process_gone(
    ledger: Ledger, later: int, gone: tuple[str, ...], is_taken_over: bool
) -> None:
    ledger.ask_for("a")
    ledger.claim("a")
    before = ledger["a"]
    assert ledger.claim("a", "b", at=minute(later), gone=gone) is is_taken_over
    if is_taken_over:
        assert (ledger["a"].worker, ledger["a"].lease_until, ledger["a"].attempts) == ("b", minute(later + 2), 0)
    else:
        assert ledger["a"] == before


def test_whoever_holds_a_trial_may_claim_it_again(ledger: Ledger) -> None:
    ledger.ask_for("a")
    assert ledger.claim("a")
    assert ledger.claim("a", at=minute(1))
    assert ledger["a"].lease_until == minute(3)


def test_what_is_finished_or_failed_is_not_run_again(ledger: Ledger) -> None:
    ledger.ask_for("a", "b")
    ledger.claim("a")
    ledger.finish("a")
    ledger.claim("b")
    ledger.fail("b")
    before = ledger.asked_for()
    for name in "ab":
        assert not ledger.claim(name, "b", at=minute(60), gone=("a",))
    assert ledger.asked_for() == before


def test_holding_puts_off_the_end_of_what_the_worker_runs_and_of_nothing_else(ledger: Ledger) -> None:
    ledger.ask_for(*"abcd")
    for name, worker in (("a", "a"), ("b", "a"), ("c", "b"), ("d", "a")):
        ledger.claim(name, worker)
    ledger.finish("d")
    ledger.hold("a", until=minute(7))
    assert [trial.lease_until for trial in ledger.asked_for()] == [minute(7), minute(7), minute(2), None]
    assert not ledger.claim("a", "b", at=minute(6))


def test_a_trial_that_is_finished_while_its_worker_holds_it_stays_finished(
    ledger: Ledger, database_url: str, backend: str
) -> None:
    """On PostgreSQL another process may do so between any two statements; on SQLite nobody else writes meanwhile."""
    ledger.ask_for("a")
    ledger.claim("a")
    version = ledger.register("a")
    if backend == "sqlite":
        return
    rival, done = Database.open(database_url), []

    def finish_meanwhile(*arguments: Any) -> None:
        if arguments[2].startswith("UPDATE trials") and not done:
            done.append(arguments[2])
            with rival.write() as other:
                trials.finish_trial(other, "rte", ledger.key("a"), version=version, score=0.75, progress=progress(5))

    with ledger.database.write() as session:
        engine = session.get_bind()
        event.listen(engine, "before_cursor_execute", finish_meanwhile)
        trials.hold_trials(session, "rte", worker="a", until=minute(7))
    rival.close()
    assert len(done) == 1
    assert (ledger["a"].state, ledger["a"].lease_until) == (TrialState.FINISHED, None)


def test_a_trial_that_reached_its_rung_waits_with_its_curve(ledger: Ledger) -> None:
    ledger.ask_for("a")
    ledger.claim("a")
    ledger.pause("a", epochs_done=2)
    trial = ledger["a"]
    assert (trial.state, trial.worker, trial.lease_until) == (TrialState.PAUSED, None, None)
    assert (trial.epochs_done, trial.curve, trial.seconds, trial.layer_passes) == (2, {1: 0.1, 2: 0.2}, 10.0, 3.0)
    assert ledger.claim("a", "b")


@pytest.mark.parametrize("paused", [False, True])
def test_what_was_stopped_by_the_users_wish_is_to_be_run_again_and_was_no_attempt(ledger: Ledger, paused: bool) -> None:
    ledger.ask_for("a")
    if paused:
        ledger.claim("a")
        ledger.pause("a")
    before = ledger["a"]
    ledger.claim("a")
    ledger.give_back("a")
    assert ledger["a"] == before.model_copy(update={"seconds": before.seconds + 5.0})


def test_an_attempt_that_broke_off_is_counted_and_its_reason_kept_until_the_trial_is_finished(ledger: Ledger) -> None:
    ledger.ask_for("a")
    ledger.claim("a")
    ledger.give_back("a", error="the worker was killed")
    trial = ledger["a"]
    assert (trial.state, trial.attempts, trial.error) == ("waiting", 1, "the worker was killed")
    ledger.claim("a")
    ledger.finish("a")
    assert (ledger["a"].attempts, ledger["a"].error) == (1, None)


def test_a_trial_that_failed_says_why(ledger: Ledger) -> None:
    ledger.ask_for("a")
    ledger.claim("a")
    ledger.fail("a")
    trial = ledger["a"]
    assert (trial.state, trial.error, trial.seconds, trial.worker) == ("failed", "loss is NaN", 5.0, None)


LATE: dict[str, Callable[[Ledger], None]] = {
    "pause": lambda ledger: ledger.pause("a", epochs_done=4),
    "give back": lambda ledger: ledger.give_back("a"),
    "break off": lambda ledger: ledger.give_back("a", error="killed"),
    "fail": lambda ledger: ledger.fail("a"),
}


@pytest.mark.parametrize("then", ["running", "paused", "finished", "failed"])
@pytest.mark.parametrize("what", LATE)
def test_who_lost_its_lease_changes_nothing_of_what_another_did_with_the_trial(
    ledger: Ledger, what: str, then: str
) -> None:
    ledger.ask_for("a")
    ledger.claim("a")
    ledger.claim("a", "b", at=minute(3))
    {"running": lambda: None, "paused": lambda: ledger.pause("a", "b"), "failed": lambda: ledger.fail("a", "b")}.get(
        then, lambda: ledger.finish("a")
    )()
    before = ledger["a"]
    assert before.state == then
    LATE[what](ledger)
    assert ledger["a"] == before


@pytest.mark.parametrize("then", ["running", "paused", "failed", "waiting"])
def test_a_trial_that_came_to_its_end_is_finished_whoever_holds_it(ledger: Ledger, then: str) -> None:
    ledger.ask_for("a")
    ledger.claim("a")
    ledger.claim("a", "b", at=minute(3))
    {
        "running": lambda: None,
        "paused": lambda: ledger.pause("a", "b"),
        "failed": lambda: ledger.fail("a", "b"),
        "waiting": lambda: ledger.give_back("a", "b"),
    }[then]()
    assert ledger["a"].state == then
    version = ledger.finish("a")
    trial = ledger["a"]
    assert (trial.state, trial.version, trial.score) == (TrialState.FINISHED, version.number, version.metrics[METRIC])
    assert (trial.worker, trial.lease_until, trial.error, trial.epochs_done) == (None, None, None, 5)


def test_a_trial_is_finished_once(ledger: Ledger) -> None:
    ledger.ask_for("a")
    ledger.claim("a")
    version = ledger.finish("a")
    before = ledger["a"]
    assert ledger.finish("a").number == version.number
    assert ledger["a"] == before


def test_only_of_a_version_that_a_search_made_the_time_is_known(ledger: Ledger) -> None:
    ledger.ask_for("a", "b")
    ledger.claim("a")
    ledger.give_back("a")  # 5 seconds
    searched, trained = ledger.finish("a"), ledger.register("c")  # 10 seconds
    with ledger.database.read() as session:
        assert trials.seconds_spent(session, [searched, trained]) == {("rte", searched.number): 15.0}
        assert trials.seconds_spent(session, []) == {}


def test_the_seconds_of_every_attempt_are_added_up_and_passes_and_curve_are_of_the_whole_trial(ledger: Ledger) -> None:
    ledger.ask_for("a")
    for step in (
        lambda: ledger.pause("a", epochs_done=1),  # 10 seconds, 3 passes
        lambda: ledger.give_back("a", error="killed"),  # 5 seconds
        lambda: ledger.pause("a", epochs_done=3),
        lambda: ledger.give_back("a"),
        lambda: ledger.finish("a"),
    ):
        assert ledger.claim("a")
        step()
    trial = ledger["a"]
    assert trial.curve == {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4, 5: 0.5}
    assert (trial.seconds, trial.layer_passes, trial.attempts) == (40.0, 3.0, 1)


PLACES = ["search.trials-asked-for", "search.trial-claimed", "version.row-written", "search.trial-finished"]


@pytest.mark.parametrize("place", PLACES)
def test_a_process_that_is_killed_leaves_a_trial_that_another_one_finishes(
    ledger: Ledger, database_url: str, killed: Callable[[Callable[[], None]], None], place: str
) -> None:
    def work() -> None:
        arm(lambda reached: os.kill(os.getpid(), signal.SIGKILL) if reached == place else None)
        own = Ledger(Database.open(database_url), ledger.search, ledger.planned_trial, ledger.new_version)
        own.ask_for("a", "b")
        own.claim("a")
        own.finish("a")

    killed(work)
    ledger.ask_for("a", "b")
    assert [trial.state for trial in ledger.asked_for()] in (["waiting", "waiting"], ["running", "waiting"])
    with ledger.database.read() as session:
        assert list_versions(session, "rte") == []
    assert ledger.claim("a", "b", gone=("a",))
    assert ledger.finish("a").number == 1


def test_of_two_processes_that_ask_for_the_same_trials_none_is_entered_twice(
    ledger: Ledger, database_url: str, together: Callable[..., list[Any]], new_search: Callable[..., NewSearch]
) -> None:
    searches = [begin(ledger.database, new_search(content=str(number))) for number in range(8)]
    names = [str(number) for number in range(20)]

    def work(process: int) -> None:
        own = Ledger(Database.open(database_url), searches[process], ledger.planned_trial, ledger.new_version)
        own.ask_for(*names[process:], *names[:process])

    assert together(8, work) == [None] * 8
    for number, search in enumerate(searches):
        found = [trial.key for trial in ledger.asked_for(search)]
        assert found == [ledger.key(name) for name in (*names[number:], *names[:number])]


def test_sixteen_processes_that_claim_forty_trials_run_each_once(
    ledger: Ledger, database_url: str, together: Callable[..., list[Any]]
) -> None:
    names = [str(number) for number in range(40)]
    ledger.ask_for(*names)

    def work(process: int) -> list[str]:
        own, worker = Database.open(database_url), f"process-{process}"
        mine = []
        for name in names[process:] + names[:process]:
            with own.write() as session:
                is_mine = claim(session, ledger.key(name), worker)
            if is_mine:
                mine.append(name)
                with own.write() as session:
                    trials.hold_trials(session, "rte", worker=worker, until=minute(5))
                with own.write() as session:
                    finish(session, ledger.new_version(trial=name))
        return mine

    run = together(16, work)
    assert all(isinstance(mine, list) for mine in run), run
    assert Counter(name for mine in run for name in mine) == Counter(names)
    assert {(trial.state, trial.attempts) for trial in ledger.asked_for()} == {(TrialState.FINISHED, 0)}
    assert sorted(trial.version or 0 for trial in ledger.asked_for()) == list(range(1, 41))


@dataclass
class Runner:
    """One process, and the trials that it believes to run; which may be another's, if it was silent for too long."""

    name: str
    running: set[str] = field(default_factory=set)


Action = Literal["claim", "pause", "break off", "fail", "finish", "finish but die before the end of it", "hold", "die"]
NAMES = "xyz"
some_steps = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.sampled_from(
            [
                "claim",
                "claim",
                "pause",
                "break off",
                "fail",
                "finish",
                "finish but die before the end of it",
                "hold",
                "die",
            ]
        ),
        st.sampled_from(NAMES),
        st.integers(0, 2),
    ),
    max_size=30,
)


@dataclass
class Story:
    """Two runners that share a ledger, and what must hold whatever becomes of them."""

    session: Session
    search: Search
    key: Callable[[str], str]
    new_version: Callable[..., NewVersion]
    runners: list[Runner] = field(default_factory=lambda: [Runner("a0"), Runner("b0")])
    gone: set[str] = field(default_factory=set)
    at: datetime = NOON
    finished: dict[str, LedgerTrial] = field(default_factory=dict)

    def take(self, number: int, action: str, name: str, minutes: int) -> None:
        self.at += timedelta(minutes=minutes)
        runner = self.runners[number]
        if action == "claim":
            self._claim(runner, name)
        elif action == "hold":
            trials.hold_trials(self.session, "rte", worker=runner.name, until=self.at + LEASE)
        elif action == "die":
            self._die(number)
        elif name in runner.running:
            runner.running.remove(name)
            self._end(number, action, name)

    def _claim(self, runner: Runner, name: str) -> None:
        if name not in runner.running and claim(
            self.session, self.key(name), runner.name, at=self.at, gone=tuple(self.gone)
        ):
            assert name not in self.finished, "a finished trial is run again"
            runner.running.add(name)

    def _die(self, number: int) -> None:
        self.gone.add(self.runners[number].name)
        self.runners[number] = Runner(f"{self.runners[number].name}'")

    def _end(self, number: int, action: str, name: str) -> None:
        runner, key = self.runners[number], self.key(name)
        own = {"worker": runner.name}
        if action == "pause":
            trials.pause_trial(self.session, "rte", key, **own, progress=progress(2))
        elif action == "break off":
            trials.give_back_trial(self.session, "rte", key, **own, seconds=1.0, error="killed")
        elif action == "fail":
            trials.fail_trial(self.session, "rte", key, **own, seconds=1.0, error="loss is NaN", broke_off=False)
        elif action == "finish":
            # Every run of a trial comes to the same module but for its seconds, and the first one counts.
            finish(self.session, self.new_version(trial=name, mlflow_run=runner.name))
        else:
            with self.session.begin_nested() as undone:
                finish(self.session, self.new_version(trial=name))
                undone.rollback()
            self._die(number)

    def check(self) -> None:
        found = {trial.key: trial for trial in trials_of(self.session, self.search)}
        versions = {version.trial_key: version for version in list_versions(self.session, "rte")}
        for name in NAMES:
            trial = found[self.key(name)]
            assert self.finished.get(name, trial) == trial, "a finished trial is lost, or was finished twice"
            if trial.state is TrialState.FINISHED:
                self.finished[name] = trial
            assert (trial.version is not None) == (trial.key in versions)
            holding = [runner.name for runner in self.runners if name in runner.running]
            if trial.lease_until is not None and trial.lease_until > self.at:
                assert trial.worker in [*holding, *self.gone]
        assert len(versions) == len(self.finished)

    def go_on_to_the_end(self) -> None:
        last = Runner("last")
        self.at += LEASE
        for name in NAMES:
            if claim(self.session, self.key(name), last.name, at=self.at):
                finish(self.session, self.new_version(trial=name))
        self.check()
        states = {trial.state for trial in trials_of(self.session, self.search)}
        assert states <= {TrialState.FINISHED, TrialState.FAILED}


def trials_of(session: Session, search: Search) -> tuple[LedgerTrial, ...]:
    return get_search(session, search.task, search.number).trials


@pytest.fixture
def session(ledger: Ledger) -> Iterator[Session]:
    """A transaction for writing that is undone at the end."""
    ledger.ask_for(*NAMES)
    with ledger.database.write() as opened:
        yield opened
        opened.rollback()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(steps=some_steps)
def test_however_two_runners_take_turns_and_die_no_finished_trial_is_lost_or_finished_twice(
    ledger: Ledger, session: Session, steps: list[tuple[int, Action, str, int]]
) -> None:
    with session.begin_nested() as undone:
        story = Story(session, ledger.search, ledger.key, ledger.new_version)
        for step in steps:
            story.take(*step)
            story.check()
        story.go_on_to_the_end()
        undone.rollback()
    session.expunge_all()
