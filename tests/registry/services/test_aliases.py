from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.database.engine import Database
from registry.database.schema import AliasRow
from registry.domain.alias_journal import MoveKind
from registry.domain.records import AliasMove, Retirement
from registry.domain.references import VersionReference
from registry.errors import LostRace, NotAllowed, NotFound, UsageError
from registry.services.aliases import aliases_at, history, promote, rollback
from registry.services.audit import list_events
from registry.services.tasks import get_task, retire_task, revive_task
from registry.services.versions import register_version

VERSIONS = 4


def day(number: int) -> datetime:
    return datetime(2026, 5, 1, tzinfo=UTC) + timedelta(days=number)


def rte(number: int) -> VersionReference:
    return VersionReference(task="rte", number=number)


@pytest.fixture
def trained(registry: Database, new_version: Any, change: dict[str, Any]) -> Database:
    """rte/1 to rte/4, and as many of sst."""
    with registry.write() as session:
        for trial in range(VERSIONS):
            register_version(session, new_version(trial=str(trial)), **change)
            register_version(session, new_version("sst", trial=str(trial)), **change)
    return registry


def champions(database: Database) -> list[tuple[MoveKind, int | None, int]]:
    with database.read() as session:
        return [(m.kind, m.from_version, m.to_version) for m in history(session, "rte", alias="champion")]


def test_a_promotion_is_journalled_with_who_and_when(trained: Database) -> None:
    with trained.write() as session:
        move = promote(session, rte(3), "champion", expect=None, actor="bob", at=day(1))
        assert get_task(session, "rte").aliases == {"champion": 3}
    assert (move.kind, move.from_version, move.to_version) == (MoveKind.PROMOTE, None, 3)
    assert (move.task, move.alias, move.actor, move.moved_at) == ("rte", "champion", "bob", day(1))


def test_promoting_what_is_already_there_moves_nothing(trained: Database) -> None:
    with trained.write() as session:
        first = promote(session, rte(3), "champion", expect=None, actor="bob", at=day(1))
        assert promote(session, rte(3), "champion", expect=rte(3), actor="ann", at=day(2)) == first
    with trained.read() as session:
        assert len(list_events(session, object="alias rte@champion")) == 1
    assert len(champions(trained)) == 1


def test_rolling_back_goes_back_promotion_by_promotion(trained: Database) -> None:
    with trained.write() as session:
        for number in (1, 2, 3):
            promote(session, rte(number), "champion", expect=None, actor="ann", at=day(number))
        assert rollback(session, "rte", "champion", actor="ann", at=day(4)).to_version == 2
        assert rollback(session, "rte", "champion", actor="ann", at=day(5)).to_version == 1
        with pytest.raises(NotAllowed, match=r"rte@champion cannot go back: rte/1 is the first version it had"):
            rollback(session, "rte", "champion", actor="ann", at=day(6))
        assert get_task(session, "rte").aliases == {"champion": 1}
    promoted = [(MoveKind.PROMOTE, None, 1), (MoveKind.PROMOTE, 1, 2), (MoveKind.PROMOTE, 2, 3)]
    assert champions(trained) == [*promoted, (MoveKind.ROLLBACK, 3, 2), (MoveKind.ROLLBACK, 2, 1)]


def test_an_alias_that_was_never_set_cannot_go_back(trained: Database) -> None:
    with trained.write() as session, pytest.raises(NotFound, match="task rte has no alias 'champion'"):
        rollback(session, "rte", "champion", actor="ann", at=day(1))


@pytest.mark.parametrize(
    ("expect", "said"),
    [
        (rte(1), "rte@champion is rte/2, but was expected to be rte/1"),
        ("none", "rte@champion is rte/2, but was expected not to be set"),
    ],
)
def test_a_lost_race_changes_nothing(trained: Database, expect: Any, said: str) -> None:
    with trained.write() as session:
        promote(session, rte(1), "champion", expect="none", actor="ann", at=day(1))
        promote(session, rte(2), "champion", expect=rte(1), actor="ann", at=day(2))
    with pytest.raises(LostRace, match=said), trained.write() as session:
        promote(session, rte(3), "champion", expect=expect, actor="bob", at=day(3))
    with pytest.raises(LostRace, match=said), trained.write() as session:
        rollback(session, "rte", "champion", expect=expect, actor="bob", at=day(3))
    assert [to for _, _, to in champions(trained)] == [1, 2]


def test_an_expected_version_of_an_alias_that_is_not_set_is_a_lost_race(trained: Database) -> None:
    with trained.write() as session, pytest.raises(LostRace, match="is not set, but was expected to be rte/1"):
        promote(session, rte(2), "champion", expect=rte(1), actor="ann", at=day(1))


def test_of_processes_that_expect_the_same_one_wins(
    trained: Database, database_url: str, together: Callable[..., list[Any]]
) -> None:
    with trained.write() as session:
        promote(session, rte(1), "champion", expect="none", actor="ann", at=day(1))

    def swap(process: int) -> str:
        own = Database.open(database_url)
        try:
            with own.write() as session:
                promote(session, rte(process + 2), "champion", expect=rte(1), actor=f"p{process}", at=day(2))
        except LostRace:
            return "lost"
        finally:
            own.close()
        return "won"

    assert sorted(together(3, swap)) == ["lost", "lost", "won"]
    assert len(champions(trained)) == 2


def test_a_retired_tasks_aliases_do_not_move(trained: Database, change: dict[str, Any]) -> None:
    with trained.write() as session:
        for number in (1, 2):
            promote(session, rte(number), "champion", expect=None, actor="ann", at=day(number))
        retire_task(session, "rte", Retirement(reason="merged"), **change)
    with trained.write() as session:
        with pytest.raises(NotAllowed, match=r"task rte is retired \(merged\): it takes no promotions"):
            promote(session, rte(3), "champion", expect=None, actor="ann", at=day(3))
        with pytest.raises(NotAllowed, match="it takes no rollbacks"):
            rollback(session, "rte", "champion", actor="ann", at=day(3))


def test_what_cannot_be_promoted_is_refused(trained: Database) -> None:
    def promoted(reference: VersionReference, alias: str, expect: VersionReference | None = None) -> None:
        with trained.write() as session:
            promote(session, reference, alias, expect=expect, actor="ann", at=day(1))

    with pytest.raises(NotFound, match="no version rte/9"):
        promoted(rte(9), "champion")
    with pytest.raises(NotFound, match="no task 'new'"):
        promoted(VersionReference(task="new", number=1), "champion")
    with pytest.raises(UsageError, match="'latest' cannot be an alias"):
        promoted(rte(1), "latest")
    with pytest.raises(UsageError, match="'a/b' is not a name"):
        promoted(rte(1), "a/b")
    with pytest.raises(UsageError, match="expected version sst/1 is of another task"):
        promoted(rte(1), "champion", VersionReference(task="sst", number=1))


def test_the_past_can_be_told_to_the_moment(trained: Database) -> None:
    with trained.write() as session:
        promote(session, rte(1), "champion", expect=None, actor="ann", at=day(1))
        promote(session, rte(2), "candidate", expect=None, actor="ann", at=day(2))
        promote(session, rte(2), "champion", expect=None, actor="ann", at=day(3))
        rollback(session, "rte", "champion", actor="ann", at=day(4))
    with trained.read() as session:
        assert aliases_at(session, "rte", day(0)) == {}
        assert aliases_at(session, "rte", day(1)) == {"champion": 1}
        assert aliases_at(session, "rte", day(3) - timedelta(microseconds=1)) == {"candidate": 2, "champion": 1}
        assert aliases_at(session, "rte", day(3)) == {"candidate": 2, "champion": 2}
        assert aliases_at(session, "rte", day(9)) == {"candidate": 2, "champion": 1}
        assert aliases_at(session, "sst", day(9)) == {}
        assert [move.to_version for move in history(session, "rte", until=day(2))] == [1, 2]
        assert [move.to_version for move in history(session, "rte", alias="candidate")] == [2]
        with pytest.raises(UsageError):
            history(session, "rte", alias="v1")


steps = st.lists(
    st.tuples(
        st.sampled_from(["rte", "sst"]),
        st.sampled_from(["champion", "candidate"]),
        st.one_of(st.sampled_from(["back", "retire", "revive"]), st.integers(1, VERSIONS)),
        st.integers(-3, 3),  # hours since the step before: clocks of two machines may run backwards
    ),
    max_size=14,
)


class Told:
    """What aliases are, and were, as somebody knows who has written every step down."""

    def __init__(self) -> None:
        self.stacks: dict[tuple[str, str], list[int]] = {}
        self.retired: set[str] = set()
        self.moves: list[tuple[str, str, datetime, int]] = []

    def aliases(self, task: str) -> dict[str, int]:
        return {alias: stack[-1] for (owner, alias), stack in self.stacks.items() if owner == task and stack}

    def aliases_at(self, task: str, moment: datetime) -> dict[str, int]:
        return {alias: version for owner, alias, at, version in self.moves if owner == task and at <= moment}

    def allows(self, task: str, alias: str, target: str | int) -> bool:
        if target in ("retire", "revive"):
            return (task in self.retired) == (target == "revive")
        return task not in self.retired and (target != "back" or len(self.stacks.get((task, alias), [])) > 1)

    def step(self, task: str, alias: str, target: str | int, move: AliasMove | None) -> None:
        if target == "retire":
            self.retired.add(task)
        elif target == "revive":
            self.retired.remove(task)
        else:
            assert move is not None
            stack = self.stacks.setdefault((task, alias), [])
            if target == "back":
                stack.pop()
            elif stack[-1:] == [target]:
                return  # it is there already: nothing moved
            else:
                assert isinstance(target, int)
                stack.append(target)
            assert move.to_version == stack[-1]
            self.moves.append((task, alias, move.moved_at, stack[-1]))


def take(session: Session, task: str, alias: str, target: str | int, at: datetime) -> AliasMove | None:
    change: dict[str, Any] = {"actor": "ann", "at": at}
    match target:
        case "back":
            return rollback(session, task, alias, **change)
        case "retire":
            retire_task(session, task, Retirement(reason="merged"), **change)
        case "revive":
            revive_task(session, task, **change)
        case int(number):
            return promote(session, VersionReference(task=task, number=number), alias, expect=None, **change)
    return None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(steps=steps)
def test_the_journal_replays_to_the_alias_table_now_and_at_every_moment(trained: Database, steps: list[Any]) -> None:
    told, clock = Told(), day(1)
    with trained.write() as session:
        for task, alias, target, hours in steps:
            clock += timedelta(hours=hours)
            if told.allows(task, alias, target):
                told.step(task, alias, target, take(session, task, alias, target, clock))
            else:
                with pytest.raises((NotFound, NotAllowed)):
                    take(session, task, alias, target, clock)
            for one in ("rte", "sst"):
                assert get_task(session, one).aliases == told.aliases(one)
                assert aliases_at(session, one, day(99)) == told.aliases(one)
        for moment in {at for _, _, at, _ in told.moves}:
            for one in ("rte", "sst"):
                assert aliases_at(session, one, moment) == told.aliases_at(one, moment)
        session.rollback()


def test_whoever_was_cut_off_before_the_answer_may_ask_for_the_same_move_again(trained: Database) -> None:
    ann: dict[str, Any]
    eve: dict[str, Any]
    ann, eve = {"actor": "ann", "at": day(1)}, {"actor": "eve", "at": day(1)}
    with trained.write() as session:
        first = promote(session, rte(1), "champion", expect="none", **ann)
        assert promote(session, rte(1), "champion", expect="none", **ann) == first
        second = promote(session, rte(2), "champion", expect=rte(1), **ann)
        assert promote(session, rte(2), "champion", expect=rte(1), **ann) == second
        with pytest.raises(LostRace):
            promote(session, rte(2), "champion", expect=rte(1), **eve)
        back = rollback(session, "rte", "champion", expect=rte(2), **ann)
        assert rollback(session, "rte", "champion", expect=rte(2), **ann) == back
        with pytest.raises(LostRace):
            rollback(session, "rte", "champion", expect=rte(2), **eve)
        assert len(history(session, "rte")) == 3


def test_an_alias_that_was_looked_at_before_the_lock_is_read_again_under_it(
    trained: Database, database_url: str, backend: str
) -> None:
    """Between looking and locking, on PostgreSQL, somebody else may move it; on SQLite nobody else writes meanwhile."""
    with trained.write() as session:
        promote(session, rte(1), "champion", expect="none", actor="ann", at=day(1))
    if backend == "sqlite":
        return
    rival = Database.open(database_url)
    with trained.write() as session:
        seen = session.scalars(select(AliasRow)).one()
        assert seen.version_number == 1
        with rival.write() as other:
            promote(other, rte(2), "champion", expect=rte(1), actor="bob", at=day(2))
        with pytest.raises(LostRace, match="rte@champion is rte/2, but was expected to be rte/1"):
            promote(session, rte(3), "champion", expect=rte(1), actor="ann", at=day(3))
    rival.close()
    assert [to for _, _, to in champions(trained)] == [1, 2]
