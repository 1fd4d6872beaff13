import os
import signal
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from registry.database.engine import Database
from registry.database.schema import SearchRow
from registry.domain.records import Retirement
from registry.domain.searches import NewSearch, Search, SearchChoice, SearchState
from registry.errors import Conflict, LostRace, NotAllowed, NotFound
from registry.fault_points import arm
from registry.services.audit import list_events
from registry.services.searches import (
    begin_search,
    finish_search,
    get_search,
    hold_search,
    leave_search,
    list_searches,
    name_mlflow_run,
)
from registry.services.tasks import retire_task, update_task
from registry.services.trials import ask_for

NOON = datetime(2026, 5, 2, 12, tzinfo=UTC)
LEASE = timedelta(minutes=2)
CHOICE = SearchChoice(layers=2, learning_rate=1e-4, teacher=1, statistic="mean of 2 seeds", students={1: 3})


def minute(number: int) -> datetime:
    return NOON + timedelta(minutes=number)


def begin(
    database: Database, new: NewSearch, runner: str = "a", *, at: datetime = NOON, gone: tuple[str, ...] = ()
) -> Search:
    with database.write() as session:
        return begin_search(
            session, new, runner=runner, until=at + LEASE, is_gone=gone.__contains__, actor=f"actor-{runner}", at=at
        )


def hold(database: Database, search: Search, *, at: datetime) -> None:
    with database.write() as session:
        hold_search(session, search, until=at + LEASE)


def leave(database: Database, search: Search) -> None:
    with database.write() as session:
        leave_search(session, search)


def finish(database: Database, search: Search, choice: SearchChoice = CHOICE) -> Search:
    with database.write() as session:
        return finish_search(session, search, choice, actor="ann", at=minute(9))


def read(database: Database, search: Search) -> Search:
    with database.read() as session:
        return get_search(session, search.task, search.number)


def trail(database: Database) -> list[tuple[str, str]]:
    with database.read() as session:
        return [
            (event.action, event.object)
            for event in reversed(list_events(session))
            if event.action.startswith("search.")
        ]


def test_a_search_is_kept_as_it_was_asked_for(registry: Database, new_search: Callable[..., NewSearch]) -> None:
    new = new_search()
    search = begin(registry, new)
    assert NewSearch.model_validate(search.model_dump(include=set(NewSearch.model_fields))) == new
    assert (search.number, search.state, search.metric, search.backbone_layers) == (1, "running", "accuracy", 4)
    assert (search.runner, search.runner_until, search.created_at, search.created_by) == (
        "a",
        minute(2),
        NOON,
        "actor-a",
    )
    assert read(registry, search) == search
    with registry.read() as session:
        event = next(event for event in list_events(session) if event.action == "search.begin")
    assert (event.object, event.actor, event.before) == ("search rte#1", "actor-a", None)
    assert event.after == {"spec_revision": 1, "backbone": "tiny", "options": new.options.model_dump(mode="json")}


def test_searches_are_numbered_within_their_task(registry: Database, new_search: Callable[..., NewSearch]) -> None:
    asked = [("rte", "one"), ("sst", "one"), ("rte", "two"), ("rte", "one")]
    numbers = [begin(registry, new_search(task, content=content)).number for task, content in asked]
    assert numbers == [1, 1, 2, 1]


def test_a_search_that_was_left_is_gone_on_with_by_anybody(
    registry: Database, new_search: Callable[..., NewSearch]
) -> None:
    first = begin(registry, new_search())
    leave(registry, first)
    assert (read(registry, first).runner, read(registry, first).runner_until) == (None, None)
    second = begin(registry, new_search(), "b", at=minute(1))
    assert (second.number, second.runner, second.runner_until) == (1, "b", minute(3))
    assert (second.created_by, second.created_at) == ("actor-a", NOON)
    assert trail(registry) == [("search.begin", "search rte#1")]


@pytest.mark.parametrize(
    ("later", "gone", "is_taken"),
    [(1, (), True), (1, ("b", "c"), True), (2, (), False), (60, (), False), (0, ("a",), False)],
    ids=["leased", "others are gone", "lease just ended", "lease ended long ago", "process gone"],
)
def test_two_processes_do_not_drive_one_search(
    registry: Database, new_search: Callable[..., NewSearch], later: int, gone: tuple[str, ...], is_taken: bool
) -> None:
    search = begin(registry, new_search())
    if is_taken:
        with pytest.raises(
            Conflict, match=r"search rte#1 is being run by a: wait for it, or stop it; `trunkline search"
        ):
            begin(registry, new_search(), "b", at=minute(later), gone=gone)
        assert read(registry, search) == search
    else:
        taken = begin(registry, new_search(), "b", at=minute(later), gone=gone)
        assert (taken.number, taken.runner, taken.runner_until) == (1, "b", minute(later + 2))


def test_other_searches_of_the_task_may_run_meanwhile(registry: Database, new_search: Callable[..., NewSearch]) -> None:
    begin(registry, new_search())
    assert begin(registry, new_search(content="other"), "b").number == 2


def test_the_process_that_drives_a_search_may_begin_it_again(
    registry: Database, new_search: Callable[..., NewSearch]
) -> None:
    begin(registry, new_search())
    assert begin(registry, new_search(), at=minute(1)).runner_until == minute(3)


def test_a_finished_search_is_given_back_as_it_is(registry: Database, new_search: Callable[..., NewSearch]) -> None:
    finished = finish(registry, begin(registry, new_search()))
    assert (finished.state, finished.choice, finished.finished_at) == (SearchState.FINISHED, CHOICE, minute(9))
    assert finished.runner is None
    assert begin(registry, new_search(), "b", at=minute(20)) == finished


def test_what_was_chosen_is_written_down_once(registry: Database, new_search: Callable[..., NewSearch]) -> None:
    search = begin(registry, new_search())
    finished = finish(registry, search)
    assert finish(registry, search, CHOICE.model_copy(update={"layers": 1})) == finished
    assert read(registry, search) == finished
    assert trail(registry) == [("search.begin", "search rte#1"), ("search.finish", "search rte#1")]
    with registry.read() as session:
        assert list_events(session)[0].after == {"choice": CHOICE.model_dump(mode="json")}


def test_nothing_is_searched_for_a_task_that_is_retired_or_unknown_or_on_an_unknown_backbone(
    registry: Database, new_search: Callable[..., NewSearch], change: dict[str, Any]
) -> None:
    with pytest.raises(NotFound, match="there is no task 'mnli'"):
        begin(registry, new_search("mnli"))
    with pytest.raises(NotFound, match="there is no backbone 'huge'"):
        begin(registry, new_search(backbone="huge"))
    with registry.write() as session:
        retire_task(session, "sst", Retirement(reason="merged"), **change)
    with pytest.raises(NotAllowed, match=r"task sst is retired \(merged\): it takes no searches"):
        begin(registry, new_search("sst"))
    with registry.read() as session:
        assert list_searches(session) == []


def test_holding_a_search_puts_off_the_end_of_its_lease(
    registry: Database, new_search: Callable[..., NewSearch]
) -> None:
    search = begin(registry, new_search())
    hold(registry, search, at=minute(1))
    assert read(registry, search).runner_until == minute(3)
    with pytest.raises(Conflict):
        begin(registry, new_search(), "b", at=minute(2))


def test_whoever_lost_its_lease_is_told_who_has_the_search_now(
    registry: Database, new_search: Callable[..., NewSearch]
) -> None:
    search = begin(registry, new_search())
    taken = begin(registry, new_search(), "b", at=minute(3))
    with pytest.raises(LostRace, match=r"search rte#1 was taken over by b, .* what it had finished is kept"):
        hold(registry, search, at=minute(4))
    assert read(registry, search) == taken
    leave(registry, search)
    assert read(registry, search) == taken, "it is no longer its own to leave"


@pytest.mark.parametrize("end", [leave, finish])
def test_a_search_that_another_process_took_over_and_ended_is_not_held(
    registry: Database, new_search: Callable[..., NewSearch], end: Callable[[Database, Search], Any]
) -> None:
    search = begin(registry, new_search())
    end(registry, begin(registry, new_search(), "b", at=minute(3)))
    with pytest.raises(LostRace, match="was taken over by another process, which has ended"):
        hold(registry, search, at=minute(4))


def test_a_task_that_is_retired_in_mid_search_ends_it(
    registry: Database, new_search: Callable[..., NewSearch], change: dict[str, Any]
) -> None:
    search = begin(registry, new_search())
    with registry.write() as session:
        retire_task(session, "rte", Retirement(reason="merged"), **change)
    with pytest.raises(NotAllowed, match="task rte is retired"):
        hold(registry, search, at=minute(1))
    leave(registry, search)
    assert read(registry, search).runner is None


def test_a_task_that_is_redefined_in_mid_search_ends_it(
    registry: Database, new_search: Callable[..., NewSearch], change: dict[str, Any], spec: Any
) -> None:
    search = begin(registry, new_search())
    with registry.write() as session:
        update_task(session, spec("rte", labels=["no", "yes", "perhaps"]), **change)
    with pytest.raises(
        Conflict, match=r"redefined \(spec revision 2\) while revision 1 was searched: .* new definition"
    ):
        hold(registry, search, at=minute(1))
    assert read(registry, search).runner_until == minute(2)
    with registry.write() as session:
        update_task(session, spec("rte"), **change)
    hold(registry, search, at=minute(1))
    assert read(registry, search).runner_until == minute(3), "it means again what was searched for"


def test_a_task_that_is_described_otherwise_in_mid_search_is_searched_on(
    registry: Database, new_search: Callable[..., NewSearch], change: dict[str, Any], spec: Any
) -> None:
    search = begin(registry, new_search())
    data = {"train": "/moved/train.jsonl", "dev": "/moved/dev.jsonl"}
    with registry.write() as session:
        update_task(session, spec("rte", description="entailment", data=data), **change)
    hold(registry, search, at=minute(1))
    assert read(registry, search).runner_until == minute(3)


def test_the_first_run_of_mlflow_that_is_named_stays(registry: Database, new_search: Callable[..., NewSearch]) -> None:
    search = begin(registry, new_search())
    for run in ("first", "second"):
        with registry.write() as session:
            name_mlflow_run(session, search, run)
    assert read(registry, search).mlflow_run == "first"


def test_a_search_is_found_by_its_number_or_as_the_newest(
    registry: Database, new_search: Callable[..., NewSearch], planned_trial: Any
) -> None:
    with (
        registry.read() as session,
        pytest.raises(NotFound, match="task rte has not been searched yet: `trunkline sea"),
    ):
        get_search(session, "rte")
    first, second = (begin(registry, new_search(content=content)) for content in ("one", "two"))
    with registry.write() as session:
        ask_for(session, second, [planned_trial()])
    with registry.read() as session:
        assert get_search(session, "rte", 1) == first
        assert get_search(session, "rte") == get_search(session, "rte", 2)
        assert [trial.key for trial in get_search(session, "rte").trials] == [planned_trial().key]
        with pytest.raises(NotFound, match="task rte has no search 3: `trunkline search list rte` lists them"):
            get_search(session, "rte", 3)
        with pytest.raises(NotFound, match="there is no task 'mnli'"):
            get_search(session, "mnli")


def test_searches_are_listed_by_task_and_number_without_their_trials(
    registry: Database, new_search: Callable[..., NewSearch], planned_trial: Any, change: dict[str, Any], spec: Any
) -> None:
    begun = [
        begin(registry, new_search(task, content=content)) for task in ("sst", "rte") for content in ("one", "two")
    ]
    with registry.write() as session:
        update_task(session, spec("rte", metric="f1_macro"), **change)
        ask_for(session, begun[0], [planned_trial(task="sst")])
        retire_task(session, "sst", Retirement(reason="merged"), **change)
    begun.append(begin(registry, new_search(content="three", spec_revision=2)))
    with registry.read() as session:
        assert list_searches(session) == [begun[2], begun[3], begun[4], begun[0], begun[1]]
        assert [(one.number, one.metric) for one in list_searches(session, "rte")] == [
            (1, "accuracy"),
            (2, "accuracy"),
            (3, "f1_macro"),
        ]
        with pytest.raises(NotFound):
            list_searches(session, "mnli")


def test_what_was_looked_at_before_the_lock_is_read_again_under_it(
    registry: Database, database_url: str, backend: str, new_search: Callable[..., NewSearch]
) -> None:
    """Between looking and locking, on PostgreSQL, somebody else may take it; on SQLite nobody else writes meanwhile."""
    search = begin(registry, new_search())
    if backend == "sqlite":
        return
    rival = Database.open(database_url)
    with registry.write() as session:
        seen = session.scalars(select(SearchRow)).one()
        assert seen.runner == "a"
        taken = begin(rival, new_search(), "b", at=minute(3))
        with rival.write() as other:
            name_mlflow_run(other, taken, "of b")
        leave_search(session, search)
        name_mlflow_run(session, search, "of a")
    rival.close()
    assert (read(registry, search).runner, read(registry, search).mlflow_run) == ("b", "of b")


def test_of_processes_that_begin_one_search_at_once_one_drives_it(
    registry: Database, database_url: str, together: Callable[..., list[Any]], new_search: Callable[..., NewSearch]
) -> None:
    def work(process: int) -> str | None:
        own = Database.open(database_url)
        with suppress(Conflict):
            return begin(own, new_search(), f"process-{process}").runner
        return None

    drivers = [driver for driver in together(8, work) if driver is not None]
    with registry.read() as session:
        (search,) = list_searches(session)
    assert drivers == [search.runner]


def test_searches_that_begin_at_once_are_numbered_without_gap_or_repeat(
    registry: Database, database_url: str, together: Callable[..., list[Any]], new_search: Callable[..., NewSearch]
) -> None:
    def work(process: int) -> int:
        return begin(Database.open(database_url), new_search(content=str(process)), f"process-{process}").number

    assert sorted(together(8, work)) == list(range(1, 9))


@pytest.mark.parametrize("place", ["search.row-written", "search.choice-written"])
def test_a_process_that_is_killed_leaves_the_search_as_it_was(
    registry: Database,
    database_url: str,
    killed: Callable[[Callable[[], None]], None],
    new_search: Callable[..., NewSearch],
    place: str,
) -> None:
    def work() -> None:
        arm(lambda reached: os.kill(os.getpid(), signal.SIGKILL) if reached == place else None)
        own = Database.open(database_url)
        finish(own, begin(own, new_search()))

    killed(work)
    search = begin(registry, new_search(), "b", at=minute(1), gone=("a",))
    assert (search.number, search.state, search.runner) == (1, "running", "b")
    assert finish(registry, search).choice == CHOICE
    assert trail(registry) == [("search.begin", "search rte#1"), ("search.finish", "search rte#1")]
