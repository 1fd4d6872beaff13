from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select

from registry.database.engine import Database
from registry.database.schema import IdempotencyKeyRow
from registry.domain.records import Retirement, Task, Team
from registry.errors import AlreadyExists, Conflict, UsageError
from registry.services.audit import list_events
from registry.services.idempotency import answer_once
from registry.services.tasks import register_task, retire_task
from registry.services.teams import create_team, list_teams

AT = datetime(2026, 5, 2, 8, 30, 0, 7, tzinfo=UTC)


def create(database: Database, key: str | None, name: str = "nlu", *, actor: str = "ann", at: datetime = AT) -> Team:
    with database.write() as session:
        return answer_once(
            session,
            key,
            lambda: create_team(session, name, actor=actor, at=at),
            answer=Team,
            action="team.create",
            request={"name": name},
            actor=actor,
            at=at,
        )


def events(database: Database) -> list[str]:
    with database.read() as session:
        return [event.object for event in list_events(session)]


def test_the_same_request_with_the_same_key_is_done_once_and_answered_alike(database: Database) -> None:
    first = create(database, "setup-17")
    assert create(database, "setup-17", actor="bob", at=AT.replace(year=2027)) == first
    assert events(database) == ["team nlu"]


def test_without_a_key_the_same_request_again_is_an_error(database: Database) -> None:
    create(database, None)
    with pytest.raises(AlreadyExists):
        create(database, None)
    with pytest.raises(AlreadyExists):
        create(database, "late")


def test_another_request_with_the_same_key_is_a_conflict(database: Database) -> None:
    create(database, "k", "nlu")
    with pytest.raises(Conflict, match=r"key 'k' was used by ann for another request \(team\.create\)"):
        create(database, "k", "search")
    assert events(database) == ["team nlu"]


def test_a_request_that_failed_does_not_use_up_its_key(database: Database) -> None:
    create(database, None, "nlu")
    with pytest.raises(AlreadyExists):
        create(database, "k", "nlu")
    assert create(database, "k", "search").name == "search"


def test_a_task_is_answered_as_it_was_registered_whatever_became_of_it(
    registry: Database, spec: Any, change: dict[str, Any]
) -> None:
    def register() -> Task:
        new = spec("new", description="ü", labels=["no", "yes", "perhaps"])
        with registry.write() as session:
            return answer_once(
                session,
                "k",
                lambda: register_task(session, new, team="nlu", **change),
                answer=Task,
                action="task.register",
                request={"team": "nlu", "definition": new.model_dump(mode="json")},
                **change,
            )

    first = register()
    with registry.write() as session:
        retire_task(session, "new", Retirement(reason="merged"), **change)
    assert register() == first


@pytest.mark.parametrize("key", ["", " ", "two\nlines", "x" * 129, "a\0b", "\udcff"])
def test_what_is_no_key_is_refused(database: Database, key: str) -> None:
    with pytest.raises(UsageError, match=r"idempotency key .*: must be 1 to 128 characters on one line"):
        create(database, key)


def test_keys_differ_in_every_character(database: Database) -> None:
    for number, key in enumerate(["k", "K", "k ", "\u00fc", "u\u0308", "x" * 128]):
        create(database, key, f"team-{number}")
    with database.read() as session:
        assert len(list_teams(session)) == 6


def test_processes_that_ask_at_once_with_one_key_are_answered_alike(
    database: Database, database_url: str, together: Callable[..., list[Any]]
) -> None:
    def ask(process: int) -> Team:
        own = Database.open(database_url)
        try:
            return create(own, "k", actor=f"process-{process}")
        finally:
            own.close()

    answers = together(8, ask)
    assert answers == [answers[0]] * 8
    assert isinstance(answers[0], Team)
    assert events(database) == ["team nlu"]
    with database.read() as session:
        assert session.scalars(select(IdempotencyKeyRow.result)).one() == answers[0].model_dump(mode="json")


def test_of_processes_that_ask_for_different_things_with_one_key_one_is_answered(
    database: Database, database_url: str, together: Callable[..., list[Any]]
) -> None:
    def ask(process: int) -> str:
        own = Database.open(database_url)
        try:
            return create(own, "k", f"team-{process}").name
        finally:
            own.close()

    answers = together(6, ask)
    assert len([answer for answer in answers if answer.startswith("team-")]) == 1
    assert len([answer for answer in answers if answer.startswith("Conflict: idempotency key 'k' was used")]) == 5
