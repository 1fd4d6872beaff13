from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert
from sqlalchemy.exc import IntegrityError

from registry.database.engine import Database
from registry.database.schema import ReleaseMoveRow
from registry.domain.release_life import LEGAL_MOVES, ReleaseState
from registry.errors import Conflict, NotAllowed, NotFound, UsageError
from registry.services.audit import list_events
from registry.services.channels import create_channel, promote_release
from registry.services.release_states import approve_release, record_verification, release_moves, retire_release
from registry.services.releases import get_release, register_release
from registry.services.versions import register_version

DRAFT, VERIFIED, APPROVED, RETIRED = ReleaseState
REPORT = {"passed": True}


@pytest.fixture
def drafted(registry: Database, new_version: Any, new_release: Any, change: dict[str, Any]) -> Database:
    """r1 is a draft."""
    with registry.write() as session:
        register_version(session, new_version(), **change)
        assert register_release(session, new_release(gates=None), **change).state is DRAFT
    return registry


def test_a_release_goes_from_draft_to_retired_and_its_journal_tells_it(
    drafted: Database, change: dict[str, Any]
) -> None:
    with drafted.write() as session:
        assert record_verification(session, "r1", REPORT, **change).gates == REPORT
        assert approve_release(session, "r1", reason="tried for a week", **change).state is APPROVED
        assert retire_release(session, "r1", reason="superseded", **change).state is RETIRED
        moves = release_moves(session, "r1")
    with drafted.read() as session:
        actions = [event.action for event in list_events(session, object="release r1")]
    assert [(move.to_state, move.reason) for move in moves] == [
        (DRAFT, None),
        (VERIFIED, None),
        (APPROVED, "tried for a week"),
        (RETIRED, "superseded"),
    ]
    assert actions == ["release.retire", "release.approve", "release.verify", "release.register"]


def test_a_draft_is_not_approved_and_a_retired_release_not_revived(drafted: Database, change: dict[str, Any]) -> None:
    with drafted.write() as session:
        with pytest.raises(NotAllowed, match="r1 is draft, and cannot become approved; run its gates first"):
            approve_release(session, "r1", reason=None, **change)
        retire_release(session, "r1", reason="not wanted", **change)
        with pytest.raises(NotAllowed, match="assemble another one"):
            approve_release(session, "r1", reason=None, **change)
        with pytest.raises(NotAllowed, match="r1 is retired"):
            record_verification(session, "r1", REPORT, **change)


def test_what_failed_is_kept_and_leaves_the_release_where_it_was(drafted: Database, change: dict[str, Any]) -> None:
    failed = {"passed": False, "findings": [{"gate": "integrity", "task": None, "passed": False}]}
    with drafted.write() as session:
        assert record_verification(session, "r1", failed, **change).state is DRAFT
        record_verification(session, "r1", REPORT, **change)
        again = record_verification(session, "r1", failed, **change)
    assert (again.state, again.gates) == (VERIFIED, failed)


def test_what_was_found_against_a_live_release_stands_until_it_is_held_to_one_again(
    drafted: Database, new_release: Any, change: dict[str, Any]
) -> None:
    worse = {"passed": False, "findings": [{"gate": "regression", "task": "rte", "passed": False}]}
    better = {"passed": True, "findings": [{"gate": "regression", "task": "rte", "passed": True}]}
    with drafted.write() as session:
        record_verification(session, "r1", worse, **change)
        again = record_verification(session, "r1", REPORT, **change)
        assert (again.state, again.gates) == (DRAFT, worse)
        assert register_release(session, new_release(gates=REPORT), **change).state is DRAFT
        with pytest.raises(NotAllowed, match="r1 failed its gates the last time"):
            approve_release(session, "r1", reason=None, **change)
        assert record_verification(session, "r1", better, **change).state is VERIFIED
        assert record_verification(session, "r1", REPORT, **change).gates == better


def test_the_selection_of_a_retired_release_is_refused(
    drafted: Database, new_release: Any, change: dict[str, Any]
) -> None:
    with drafted.write() as session:
        retire_release(session, "r1", reason="x", **change)
        with pytest.raises(NotAllowed, match="this selection is r1, which is retired"):
            register_release(session, new_release(gates=REPORT), **change)


def test_assembling_a_draft_again_verifies_it(drafted: Database, new_release: Any, change: dict[str, Any]) -> None:
    with drafted.write() as session:
        assert register_release(session, new_release(gates=None), **change).state is DRAFT
        again = register_release(session, new_release(gates=REPORT), **change)
    assert (again.name, again.state, again.gates) == ("r1", VERIFIED, REPORT)


def test_doing_it_again_changes_nothing(drafted: Database, change: dict[str, Any]) -> None:
    with drafted.write() as session:
        record_verification(session, "r1", REPORT, **change)
        for _ in range(2):
            approve_release(session, "r1", reason=None, **change)
        for _ in range(2):
            retire_release(session, "r1", reason="x", **change)
        assert len(release_moves(session, "r1")) == 4


def test_what_is_live_is_not_retired(drafted: Database, change: dict[str, Any]) -> None:
    with drafted.write() as session:
        record_verification(session, "r1", REPORT, **change)
        create_channel(session, "staging", takes="verified", **change)
        promote_release(session, "r1", "staging", expect=None, **change)
        with pytest.raises(NotAllowed, match="r1 is live on staging: promote another one there first"):
            retire_release(session, "r1", reason="x", **change)


def test_it_takes_a_release_and_a_reason(drafted: Database, change: dict[str, Any]) -> None:
    with drafted.write() as session:
        with pytest.raises(UsageError, match="for a reason"):
            retire_release(session, "r1", reason=" ", **change)
        with pytest.raises(NotFound, match="no release r9"):
            approve_release(session, "r9", reason=None, **change)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(states=st.lists(st.sampled_from(list(ReleaseState)), min_size=1, max_size=5))
def test_the_database_takes_the_legal_moves_and_no_others(
    drafted: Database, change: dict[str, Any], states: list[ReleaseState]
) -> None:
    """Rows written past every service: what Python calls legal is what the tables take."""
    with drafted.write() as session:
        before, is_legal = DRAFT, True
        try:
            for number, state in enumerate(states, start=2):
                is_legal = is_legal and (state in LEGAL_MOVES[before] or state is before is not RETIRED)
                row = {"release_id": 1, "number": number, "previous_number": number - 1, "from_state": before}
                more = {"to_state": state, "report": REPORT, "reason": "x", "actor": "ann", "moved_at": change["at"]}
                session.execute(insert(ReleaseMoveRow).values(**row, **more))
                before = state
            assert is_legal
        except IntegrityError:
            assert not is_legal
        session.rollback()
    with drafted.read() as session:
        assert get_release(session, "r1").state is DRAFT


def test_the_database_takes_no_move_from_a_state_that_was_not(drafted: Database, change: dict[str, Any]) -> None:
    row = {"release_id": 1, "number": 2, "previous_number": 1, "from_state": "verified", "to_state": "approved"}
    with pytest.raises(Conflict), drafted.write() as session:
        session.execute(insert(ReleaseMoveRow).values(**row, actor="ann", moved_at=change["at"]))
