from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.database.engine import Database
from registry.domain.release_life import PlacementKind
from registry.errors import AlreadyExists, LostRace, NotAllowed, NotFound, UsageError
from registry.services.audit import list_events
from registry.services.channels import (
    create_channel,
    get_channel,
    history,
    list_channels,
    live_release,
    promote_release,
    revert_channel,
)
from registry.services.release_states import approve_release, record_verification, retire_release
from registry.services.releases import register_release
from registry.services.versions import register_version

RELEASES = 4


def day(number: int) -> datetime:
    return datetime(2026, 5, 1, tzinfo=UTC) + timedelta(days=number)


@pytest.fixture
def staged(registry: Database, new_version: Any, new_release: Any, change: dict[str, Any]) -> Database:
    """r1 to r4, verified; channels staging, which takes them, and production, which takes approved ones."""
    with registry.write() as session:
        register_version(session, new_version(), **change)
        for number in range(RELEASES):
            register_release(session, new_release(str(number)), **change)
        create_channel(session, "staging", takes="verified", **change)
        create_channel(session, "production", takes="approved", **change)
    return registry


def promoted(database: Database, *releases: int) -> None:
    with database.write() as session:
        for number in releases:
            promote_release(session, f"r{number}", "staging", expect=None, actor="ann", at=day(number))


def test_a_placement_is_journalled_with_who_and_when(staged: Database) -> None:
    with staged.write() as session:
        placed = promote_release(session, "r2", "staging", expect="none", actor="bob", at=day(1))
        assert live_release(session, "staging").name == "r2"
        assert [(one.name, one.release) for one in list_channels(session)] == [("production", None), ("staging", "r2")]
    with staged.read() as session:
        event, _ = list_events(session, object="channel staging")
    assert (placed.kind, placed.from_release, placed.to_release) == (PlacementKind.PROMOTE, None, "r2")
    assert (placed.actor, placed.placed_at) == ("bob", day(1))
    assert (event.action, event.before, event.after) == ("channel.promote", None, {"release": "r2"})


def test_reverting_goes_back_promotion_by_promotion(staged: Database) -> None:
    promoted(staged, 1, 2, 3)
    with staged.write() as session:
        assert revert_channel(session, "staging", actor="ann", at=day(4)).to_release == "r2"
        assert revert_channel(session, "staging", actor="ann", at=day(5)).to_release == "r1"
        with pytest.raises(NotAllowed, match="staging cannot go back: r1 is the first release it had"):
            revert_channel(session, "staging", actor="ann", at=day(6))
        with pytest.raises(NotAllowed, match="production cannot go back: nothing is live on it"):
            revert_channel(session, "production", actor="ann", at=day(6))
        assert [one.to_release for one in history(session, "staging")] == ["r1", "r2", "r3", "r2", "r1"]


def test_what_was_live_at_a_moment_is_told(staged: Database) -> None:
    promoted(staged, 1, 3)
    with staged.read() as session:
        assert history(session, "staging", until=day(0)) == []
        assert history(session, "staging", until=day(2))[-1].to_release == "r1"
        assert history(session, "staging", until=day(3))[-1].to_release == "r3"


def test_a_channel_takes_what_is_far_enough(staged: Database, change: dict[str, Any]) -> None:
    with staged.write() as session:
        with pytest.raises(NotAllowed, match=r"production takes approved releases, and r1 is verified.*approve r1"):
            promote_release(session, "r1", "production", expect=None, **change)
        approve_release(session, "r1", reason=None, **change)
        promote_release(session, "r1", "production", expect=None, **change)
        retire_release(session, "r2", reason="x", **change)
        with pytest.raises(NotAllowed, match="staging takes verified releases, and r2 is retired: promote another"):
            promote_release(session, "r2", "staging", expect=None, **change)


def test_a_draft_goes_nowhere(staged: Database, new_release: Any, change: dict[str, Any]) -> None:
    with staged.write() as session:
        register_release(session, new_release("draft", gates=None), **change)
        with pytest.raises(NotAllowed, match=r"r5 is draft: `trunkline release verify r5`"):
            promote_release(session, "r5", "staging", expect=None, **change)


def test_a_channel_does_not_go_back_to_a_release_that_was_retired(staged: Database, change: dict[str, Any]) -> None:
    promoted(staged, 1, 2)
    with staged.write() as session:
        retire_release(session, "r1", reason="wrong answers", **change)
        with pytest.raises(NotAllowed, match="r1 is retired"):
            revert_channel(session, "staging", **change)
        assert get_channel(session, "staging").release == "r2"


@pytest.mark.parametrize(
    ("expect", "said"), [("r1", "r2 is live on channel staging, but r1 was"), ("none", "but nothing was expected")]
)
def test_a_lost_race_changes_nothing(staged: Database, expect: str, said: str, change: dict[str, Any]) -> None:
    promoted(staged, 1, 2)
    with pytest.raises(LostRace, match=said), staged.write() as session:
        promote_release(session, "r3", "staging", expect=expect, **change)
    with pytest.raises(LostRace, match=said), staged.write() as session:
        revert_channel(session, "staging", expect=expect, **change)
    with staged.read() as session:
        assert len(history(session, "staging")) == 2


def test_asking_again_after_a_lost_answer_moves_nothing(staged: Database) -> None:
    promoted(staged, 1)
    with staged.write() as session:
        first = promote_release(session, "r2", "staging", expect="r1", actor="ann", at=day(2))
        again = promote_release(session, "r2", "staging", expect="r1", actor="ann", at=day(3))
        assert (again.repeated, again.model_copy(update={"repeated": False})) == (True, first)
        with pytest.raises(LostRace):
            promote_release(session, "r2", "staging", expect="r1", actor="bob", at=day(3))
        back = revert_channel(session, "staging", expect="r2", actor="ann", at=day(4))
        assert revert_channel(session, "staging", expect="r2", actor="ann", at=day(5)).placed_at == back.placed_at
        assert len(history(session, "staging")) == 3


def test_of_two_who_promote_at_once_one_loses(
    staged: Database, database_url: str, together: Callable[..., list[Any]]
) -> None:
    promoted(staged, 1)

    def promote(process: int) -> str:
        own = Database.open(database_url)
        try:
            with own.write() as session:
                placed = promote_release(
                    session, f"r{process + 2}", "staging", expect="r1", actor=f"p{process}", at=day(2)
                )
            return placed.to_release
        except LostRace:
            return "lost"
        finally:
            own.close()

    outcomes = together(3, promote)
    assert sorted(outcomes)[:2] == ["lost", "lost"]
    with staged.read() as session:
        assert [one.to_release for one in history(session, "staging")] == ["r1", sorted(outcomes)[2]]


def test_channels_have_names_of_their_own(staged: Database, change: dict[str, Any]) -> None:
    with staged.write() as session:
        with pytest.raises(AlreadyExists, match="there is a channel staging already"):
            create_channel(session, "staging", takes="approved", **change)
        with pytest.raises(UsageError):
            create_channel(session, "No Name", takes="approved", **change)
        with pytest.raises(NotFound, match="did you mean production"):
            get_channel(session, "prodution")
        with pytest.raises(NotFound, match="nothing is live on channel production yet"):
            live_release(session, "production")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.one_of(st.integers(1, RELEASES), st.just("back")), max_size=10))
def test_a_channel_is_a_stack_of_promotions(staged: Database, steps: list[int | str]) -> None:
    with staged.write() as session:
        stack: list[int] = []
        for number, step in enumerate(steps):
            if isinstance(step, int):
                promote_release(session, f"r{step}", "staging", expect=None, actor="ann", at=day(number))
                if not stack or stack[-1] != step:
                    stack.append(step)
            elif len(stack) > 1:
                revert_channel(session, "staging", actor="ann", at=day(number))
                stack.pop()
            assert get_channel(session, "staging").release == (f"r{stack[-1]}" if stack else None)
        session.rollback()


def test_promotions_in_opposite_directions_do_not_wait_for_each_other(
    staged: Database, database_url: str, together: Callable[..., list[Any]]
) -> None:
    """Each places the release that the other replaces: no lock may be taken in two orders."""
    with staged.write() as session:
        create_channel(session, "canary", takes="verified", actor="ann", at=day(0))
        promote_release(session, "r1", "staging", expect=None, actor="ann", at=day(1))
        promote_release(session, "r2", "canary", expect=None, actor="ann", at=day(1))

    def swap(process: int) -> None:
        own = Database.open(database_url)
        for turn in range(10):
            with own.write() as session:
                channel = ("staging", "canary")[process]
                promote_release(session, f"r{1 + (process + turn + 1) % 2}", channel, expect=None, actor="p", at=day(2))
        own.close()

    together(2, swap)
    with staged.read() as session:
        assert [len(history(session, channel)) for channel in ("staging", "canary")] == [11, 11]


def test_a_release_that_failed_its_gates_is_placed_nowhere(staged: Database, change: dict[str, Any]) -> None:
    promoted(staged, 1, 2)
    with staged.write() as session:
        for name in ("r1", "r3"):
            record_verification(
                session,
                name,
                {"passed": False, "findings": [{"gate": "integrity", "task": None, "passed": False}]},
                **change,
            )
        with pytest.raises(NotAllowed, match="r3 failed its gates the last time"):
            promote_release(session, "r3", "staging", expect=None, **change)
        assert revert_channel(session, "staging", **change).to_release == "r1", "going back is always possible"
