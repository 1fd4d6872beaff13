from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.usefixtures("versions")
def test_every_change_leaves_one_event_with_its_actor_and_its_values(trunkline: Any) -> None:
    trunkline("--actor", "bob", "task", "promote", "rte/1", "--alias", "champion")
    trunkline("task", "promote", "rte/2", "--alias", "champion")
    trunkline("task", "promote", "rte/2", "--alias", "champion")  # there already: no change
    trunkline("task", "promote", "rte/9", "--alias", "champion")  # refused
    events = trunkline("audit", "list", "--object", "alias rte@champion", "--json").json
    assert [(e["actor"], e["action"], e["before"], e["after"]) for e in events] == [
        ("ann", "alias.promote", {"version": 1}, {"version": 2}),
        ("bob", "alias.promote", None, {"version": 1}),
    ]
    rows = trunkline.done("audit", "list", "--object", "alias rte@champion").splitlines()[2:]
    assert " ".join(rows[0].split()[2:]) == "ann alias.promote alias rte@champion version: 1 → 2"
    assert " ".join(rows[1].split()[2:]) == "bob alias.promote alias rte@champion version: 1"


def test_events_come_newest_first_and_can_be_limited(trunkline: Any) -> None:
    assert trunkline.done("audit", "list") == "no change yet\n"
    for name in ("a", "b", "c"):
        trunkline.done("team", "create", name)
    events = trunkline("audit", "list", "--limit", "2", "--json").json
    assert [(e["object"], e["occurred_at"]) for e in events] == [
        ("team c", "2026-05-01T09:02:00Z"),
        ("team b", "2026-05-01T09:01:00Z"),
    ]
    assert trunkline("audit", "list", "--limit", "0").code == 2
    assert "no change of 'team d'" in trunkline.done("audit", "list", "--object", "team d")


@pytest.mark.usefixtures("versions")
def test_what_a_change_took_away_is_shown_and_long_values_are_cut(
    trunkline: Any, task_file: Callable[..., Path]
) -> None:
    trunkline.done("task", "retire", "rte", "--reason", "gone")
    trunkline.done("task", "revive", "rte")
    revived = " ".join(trunkline.done("audit", "list", "--object", "task rte", "--limit", "1").split())
    assert "gone → none" in revived
    trunkline.done("task", "update", task_file("rte"))
    updated = trunkline("audit", "list", "--object", "task rte", "--json").json[0]
    shown = trunkline.done("audit", "list", "--object", "task rte", "--limit", "1")
    assert f"{updated['before']['spec'][:12]}…" in shown
    assert f"{updated['after']['spec'][:12]}…" in shown


@pytest.mark.usefixtures("versions")
def test_of_a_new_object_the_short_values_are_shown(trunkline: Any) -> None:
    shown = " ".join(trunkline.done("audit", "list", "--object", "version rte/1").split())
    assert "kind: teacher" in shown
    assert "frozen_depth: 1" in shown
    assert "module" not in shown
    assert "metrics" not in shown
