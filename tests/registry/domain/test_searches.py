from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from registry.domain.searches import (
    LedgerTrial,
    Search,
    SearchState,
    TrialShape,
    TrialState,
    process_words,
)

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
SOON = NOON + timedelta(minutes=1)


def trial(key: str, **changes: Any) -> LedgerTrial:
    shape = TrialShape(frozen_depth=8, task_layers=4, learning_rate=1e-4, seed=0)
    held = LedgerTrial(key=key, shape=shape, state=TrialState.RUNNING, epochs=5, worker="dead", lease_until=SOON)
    return held.model_copy(update=changes)


def search(*trials: LedgerTrial, **changes: Any) -> Search:
    fields = {"state": SearchState.RUNNING, "runner": "dead", "runner_until": SOON, "trials": trials}
    return Search.model_construct(**(fields | changes))


def test_what_a_process_that_is_gone_held_is_nobodys() -> None:
    seen = search(
        trial("a"),
        trial("b", epochs_done=2),
        trial("c", worker="another"),
        trial("d", state=TrialState.FINISHED, worker=None, lease_until=None),
    ).driven(lambda process, _: process != "dead")
    assert [one.state for one in seen.trials] == ["waiting", "paused", "running", "finished"]
    assert [one.worker for one in seen.trials] == [None, None, "another", None]
    assert (seen.runner, seen.runner_until, seen.standing) == (None, None, "interrupted")


def test_what_a_process_holds_that_is_at_work_stays_its_own() -> None:
    before = search(trial("a"))
    asked: list[tuple[str, datetime]] = []

    def is_driving(process: str, until: datetime) -> bool:
        asked.append((process, until))
        return True

    assert before.driven(is_driving) == before
    assert before.standing == "running"
    assert set(asked) == {("dead", SOON)}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("node7/6f1c2a44-0000/4026531836/4711:88213", "process 4711 on node7"),
        ("node7/4711:unknown", "process 4711 on node7"),
        ("somebody", "somebody"),
    ],
)
def test_a_process_is_named_for_people(name: str, words: str) -> None:
    assert process_words(name) == words
