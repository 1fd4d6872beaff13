from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy.orm import Session

from registry.database.engine import Database
from registry.domain.records import Retirement
from registry.domain.references import VersionReference
from registry.errors import NotFound
from registry.services.aliases import promote, rollback
from registry.services.audit import list_events
from registry.services.backbones import pin_backbone
from registry.services.releases import register_release
from registry.services.tasks import register_task, retire_task, revive_task, update_task
from registry.services.teams import create_team
from registry.services.versions import register_version

AT = datetime(2026, 7, 1, tzinfo=UTC)
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
