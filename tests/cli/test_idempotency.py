from collections.abc import Callable
from pathlib import Path
from typing import Any


def test_creating_a_team_again_with_its_key_answers_the_same(trunkline: Any) -> None:
    create = ("team", "create", "nlu", "--idempotency-key", "setup-17", "--json")
    first = trunkline(*create)
    again = trunkline(*create)
    assert (again.code, again.out, again.err) == (0, first.out, "")
    assert trunkline("team", "create", "nlu").code == 5
    other = trunkline("team", "create", "search", "--idempotency-key", "setup-17")
    assert other.code == 5
    assert "was used by ann for another request (team.create)" in other.problem
    assert trunkline("team", "create", "search", "--idempotency-key", "").code == 2


def test_registering_a_task_again_with_its_key_answers_the_same(trunkline: Any, task_file: Callable[..., Path]) -> None:
    for team in ("nlu", "search"):
        trunkline.done("team", "create", team)
    register = ("task", "register", task_file("rte"), "--team", "nlu")
    first = trunkline(*register, "--idempotency-key", "k", "--json")
    assert trunkline(*register, "--idempotency-key", "k", "--json").json == first.json
    assert trunkline(*register).code == 5
    assert trunkline("task", "register", task_file("rte"), "--team", "search", "--idempotency-key", "k").code == 5
    changed = task_file("rte", labels="[a, b]")
    assert trunkline("task", "register", changed, "--team", "nlu", "--idempotency-key", "k").code == 5
    assert len(trunkline("audit", "list", "--object", "task rte", "--json").json) == 1


def test_a_task_is_answered_again_whatever_became_of_its_data(trunkline: Any, task_file: Callable[..., Path]) -> None:
    trunkline.done("team", "create", "nlu")
    register = ("task", "register", task_file("rte"), "--team", "nlu", "--idempotency-key", "k", "--json")
    first = trunkline(*register)
    (trunkline.folder / "tasks" / "data" / "rte-dev.jsonl").write_text("garbled")
    assert (trunkline(*register).code, trunkline(*register).json) == (0, first.json)
