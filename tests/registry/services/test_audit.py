import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, insert, literal_column, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from registry.database.engine import Database
from registry.database.schema import AuditEventRow
from registry.domain.records import Retirement
from registry.domain.references import VersionReference
from registry.errors import NotFound, StorageError
from registry.services.aliases import promote, rollback
from registry.services.audit import chain_report, export_events, list_events, verify_chain
from registry.services.backbones import pin_backbone
from registry.services.releases import register_release
from registry.services.tasks import register_task, retire_task, revive_task, update_task
from registry.services.teams import create_team
from registry.services.versions import register_version

AT = datetime(2026, 7, 1, tzinfo=UTC)
EVENTS = 11
"""In `used`."""
BY_EVE: dict[str, Any] = {"actor": "eve", "at": AT}

Change = Callable[[Session, Any], object]


def rte(number: int) -> VersionReference:
    return VersionReference(task="rte", number=number)


CHANGES: dict[str, tuple[str, Change]] = {
    "team.create": ("team ops", lambda session, _: create_team(session, "ops", **BY_EVE)),
    "backbone.pin": (
        "backbone large",
        lambda session, make: pin_backbone(session, make["backbone"]("large"), **BY_EVE),
    ),
    "task.register": (
        "task new",
        lambda session, make: register_task(session, make["spec"]("new"), team="nlu", **BY_EVE),
    ),
    "task.update": (
        "task rte",
        lambda session, make: update_task(session, make["spec"]("rte", description="entailment"), **BY_EVE),
    ),
    "task.retire": ("task sst", lambda session, _: retire_task(session, "sst", Retirement(reason="x"), **BY_EVE)),
    "task.revive": ("task old", lambda session, _: revive_task(session, "old", **BY_EVE)),
    "version.register": (
        "version rte/3",
        lambda session, make: register_version(session, make["version"](trial="c"), **BY_EVE),
    ),
    "alias.promote": (
        "alias rte@candidate",
        lambda session, _: promote(session, rte(1), "candidate", expect=None, **BY_EVE),
    ),
    "alias.rollback": (
        "alias rte@champion",
        lambda session, _: rollback(session, "rte", "champion", **BY_EVE),
    ),
    "release.register": (
        "release r1",
        lambda session, make: register_release(session, make["release"](), **BY_EVE),
    ),
}


@pytest.fixture
def make(spec: Any, new_backbone: Any, new_version: Any, new_release: Any) -> dict[str, Any]:
    return {"spec": spec, "backbone": new_backbone, "version": new_version, "release": new_release}


@pytest.fixture
def used(registry: Database, make: dict[str, Any], change: dict[str, Any]) -> Database:
    """rte with two versions, the champion moved once; the retired task old."""
    with registry.write() as session:
        register_task(session, make["spec"]("old"), team="nlu", **change)
        retire_task(session, "old", Retirement(reason="merged"), **change)
        for number, trial in ((1, "a"), (2, "b")):
            register_version(session, make["version"](trial=trial), **change)
            promote(session, rte(number), "champion", expect=None, **change)
    return registry


@pytest.mark.parametrize("action", CHANGES)
def test_every_change_writes_one_event_of_its_own(used: Database, make: dict[str, Any], action: str) -> None:
    subject, change = CHANGES[action]
    with used.read() as session:
        before = list_events(session)
    with used.write() as session:
        change(session, make)
    with used.read() as session:
        event, *earlier = list_events(session)
    assert earlier == before
    assert (event.action, event.object, event.actor, event.occurred_at) == (action, subject, "eve", AT)
    assert event.after is not None


@pytest.mark.parametrize("action", CHANGES)
def test_a_change_that_is_undone_takes_its_event_with_it(used: Database, make: dict[str, Any], action: str) -> None:
    def fail(session: Session) -> None:
        CHANGES[action][1](session, make)
        raise NotFound("something that the same transaction needed")

    with used.read() as session:
        before = list_events(session)
    with pytest.raises(NotFound), used.write() as session:
        fail(session)
    with used.read() as session:
        assert list_events(session) == before


def test_events_tell_what_was_before_and_after(used: Database, make: dict[str, Any]) -> None:
    with used.write() as session:
        for _, change in CHANGES.values():
            change(session, make)
    with used.read() as session:
        told = {event.action: (event.before, event.after) for event in list_events(session, limit=len(CHANGES))}
    assert told["alias.rollback"] == ({"version": 2}, {"version": 1})
    assert told["alias.promote"] == (None, {"version": 1})
    active, retired = {"state": "active"}, {"state": "retired", "sunset_on": None, "superseded_by": None}
    assert told["task.retire"] == (active, retired | {"reason": "x"})
    assert told["task.revive"] == (retired | {"reason": "merged"}, active)
    before, after = told["task.update"]
    assert before is not None
    assert (before["spec_revision"], after["spec_revision"]) == (1, 2)
    assert before["spec"] != after["spec"]
    assert told["team.create"] == (None, {"name": "ops"})


def test_events_are_listed_newest_first_of_one_object_and_as_many_as_asked(used: Database) -> None:
    with used.read() as session:
        events = list_events(session)
        assert [event.number for event in events] == sorted((event.number for event in events), reverse=True)
        assert list_events(session, limit=3) == events[:3]
        of_alias = list_events(session, object="alias rte@champion")
        assert [event.after for event in of_alias] == [{"version": 2}, {"version": 1}]
        assert list_events(session, object="alias rte@champion", limit=1) == of_alias[:1]
        assert list_events(session, object="task nothing") == []


def let_events_be_changed(session: Session) -> None:
    """What somebody does who owns the database."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("ALTER TABLE audit_events DISABLE TRIGGER USER"))
    else:
        for change in ("update", "delete"):
            session.execute(text(f"DROP TRIGGER audit_events_no_{change}"))


TRAIL = AuditEventRow.__table__
CHANGED: dict[str, Any] = {
    "actor": "eve",
    "action": "task.retire2",
    "object": "task rte ",
    "hash": "5e" * 32,
    "before": {"a": 1},
    "after": {"spec": 0},
    "occurred_at": AT + timedelta(microseconds=1),
}


@st.composite
def tampering(draw: st.DrawFn) -> tuple[list[Any], int]:
    """Statements that change the trail, and which event is named for it."""
    numbers = st.integers(1, EVENTS)
    at, other = draw(st.tuples(numbers, numbers).filter(lambda two: two[0] != two[1]))
    one = TRAIL.c.id == at
    match draw(st.sampled_from([*CHANGED, "spaces", "move", "swap", "delete", "cut off", "add"])):
        case "spaces":
            return [update(TRAIL).where(one).values(after=literal_column("""'{"a": 1}'"""))], at
        case "move":
            return [update(TRAIL).where(one).values(id=99)], at
        case "swap":
            steps = [(at, 0), (other, at), (0, other)]
            return [update(TRAIL).where(TRAIL.c.id == a).values(id=b) for a, b in steps], min(at, other)
        case "delete":
            return [delete(TRAIL).where(one)], at
        case "cut off":
            return [delete(TRAIL).where(TRAIL.c.id >= at)], at
        case "add":
            return [insert(TRAIL).values(CHANGED | {"id": EVENTS + 1})], EVENTS + 1
        case field:
            return [update(TRAIL).where(one).values({field: CHANGED[field]})], at


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80)
@given(tampered=tampering())
def test_whatever_is_changed_in_the_trail_is_found_and_its_event_named(
    used: Database, tampered: tuple[list[Any], int]
) -> None:
    statements, named = tampered
    with used.write() as session:
        assert chain_report(session).events == EVENTS
        assert verify_chain(session) == ()
        let_events_be_changed(session)
        for statement in statements:
            session.execute(statement)
        found = verify_chain(session)
        session.rollback()
    assert found
    assert found[0].number == named


def test_any_single_field_of_any_single_event_is_watched(used: Database) -> None:
    for number in range(1, EVENTS + 1):
        for field, value in CHANGED.items():
            with used.write() as session:
                let_events_be_changed(session)
                session.execute(update(TRAIL).where(TRAIL.c.id == number).values({field: value}))
                assert verify_chain(session)[0].number == number, (number, field)
                session.rollback()


def test_bytes_that_are_no_text_are_found_too(used: Database, backend: str) -> None:
    """SQLite keeps anything in any column; PostgreSQL does not."""
    with used.write() as session:
        if backend == "postgresql":
            with pytest.raises(DBAPIError):
                session.execute(text("UPDATE audit_events SET actor = convert_from('\\xff', 'UTF8')"))
        else:
            let_events_be_changed(session)
            for field in CHANGED:
                session.execute(update(TRAIL).where(TRAIL.c.id == 4).values({field: literal_column(f"X'{'ff' * 64}'")}))
                assert verify_chain(session)[0].number == 4
        session.rollback()


ODD_ANYWHERE = ("NULL", "''", "'null'", "'[]'", "'{}'")
ODD_ON_SQLITE = (
    "CAST({field} AS BLOB)",
    "{field} || ' '",
    "{field} || char(0)",
    "7",
    "1.5",
    "X'ff'",
    "CAST(X'ff' AS TEXT)",
)
ODD_MOMENTS = {
    "sqlite": [
        "replace(occurred_at, ' ', 'T')",
        "replace(occurred_at, ' ', 'X')",
        "replace(occurred_at, ' ', 'T') || '+00:00'",
        "substr(occurred_at, 1, 19)",
        "'now'",
    ],
    "postgresql": [
        "'infinity'",
        "'-infinity'",
        "(occurred_at AT TIME ZONE 'UTC' || ' UTC BC')::timestamptz",
        "occurred_at + interval '10000 years'",
    ],
}


def odd_values(backend: str) -> list[tuple[str, str]]:
    """A column of the trail, and an SQL expression of what it never holds."""
    anywhere = ODD_ANYWHERE + (ODD_ON_SQLITE if backend == "sqlite" else ())
    fields = [field for field in CHANGED if field != "occurred_at" or backend == "sqlite"]
    found = [(field, odd.replace("{field}", field)) for field in fields for odd in anywhere]
    return found + [("occurred_at", odd) for odd in ODD_MOMENTS[backend]]


def holds(session: Session, event: int, field: str) -> Any:
    as_text = (
        f"typeof({field}) || quote(CAST({field} AS BLOB))"
        if session.get_bind().dialect.name == "sqlite"
        else f"{field}::text"
    )
    return session.scalar(text(f"SELECT {as_text} FROM audit_events WHERE id = {event}"))  # noqa: S608


@pytest.mark.parametrize("event", [1, 5, EVENTS])
def test_a_value_that_no_event_ever_holds_is_a_break_that_names_it(used: Database, backend: str, event: int) -> None:
    tried = 0
    for field, odd in odd_values(backend):
        with used.write() as session:
            let_events_be_changed(session)
            before = holds(session, event, field)
            try:
                with session.begin_nested():
                    session.execute(text(f"UPDATE audit_events SET {field} = {odd} WHERE id = {event}"))  # noqa: S608
            except DBAPIError:  # the column takes no such value
                session.rollback()
                continue
            if holds(session, event, field) != before:
                tried += 1
                report = chain_report(session)
                assert report.breaks, (field, odd)
                assert report.breaks[0].number == event, (field, odd)
                assert report.model_dump_json()
                with suppress(StorageError):
                    assert len(list(export_events(session))) == EVENTS
            session.rollback()
    assert tried >= (35 if backend == "sqlite" else 10)


def test_nothing_is_recorded_after_an_event_whose_hash_is_none(used: Database, backend: str) -> None:
    if backend == "postgresql":  # where every hash is a text
        return
    with used.write() as session:
        let_events_be_changed(session)
        session.execute(text(f"UPDATE audit_events SET hash = CAST(hash AS BLOB) WHERE id = {EVENTS}"))  # noqa: S608
    with pytest.raises(StorageError, match=f"has lost the hash of its last event, number {EVENTS}"), used.write() as s:
        create_team(s, "ops", **BY_EVE)


def test_an_export_recomputes_to_the_same_hashes_with_nothing_but_its_lines(used: Database) -> None:
    """As docs/digests.md says it, by a program that knows nothing of ours."""
    with used.read() as session:
        lines = list(export_events(session))
        head = chain_report(session).head
    previous = "0" * 64
    for number, line in enumerate(lines, 1):
        event = json.loads(line)
        assert (event["number"], event["previous"]) == (number, previous)
        stated = event.pop("hash")
        covered = json.dumps(event, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        previous = hashlib.sha256(covered.encode()).hexdigest()
        assert previous == stated
    assert (len(lines), previous) == (head.number, head.hash)


def test_an_export_may_begin_anywhere(used: Database) -> None:
    with used.read() as session:
        everything = list(export_events(session))
        for first in (1, 2, EVENTS):
            assert list(export_events(session, first=first)) == everything[first - 1 :]
        assert list(export_events(session, first=EVENTS + 1)) == []


def test_an_event_that_cannot_be_exported_as_it_was_is_named(used: Database) -> None:
    with used.write() as session:
        let_events_be_changed(session)
        session.execute(update(TRAIL).where(TRAIL.c.id == 4).values(after=literal_column("""'{"a": 1}'""")))
        with pytest.raises(StorageError, match="audit event 4 is not as it was written"):
            list(export_events(session))
        session.rollback()


def test_times_that_run_backwards_change_neither_the_order_nor_the_chain(database: Database) -> None:
    for number, hours in enumerate((0, -5, 3, -900, 0)):
        with database.write() as session:
            create_team(session, f"team-{number}", actor="ann", at=AT + timedelta(hours=hours))
    with database.read() as session:
        assert verify_chain(session) == ()
        assert [event.object for event in list_events(session)] == [
            f"team team-{number}" for number in range(4, -1, -1)
        ]
        assert [json.loads(line)["occurred_at"][:10] for line in export_events(session)][3] == "2026-05-24"
