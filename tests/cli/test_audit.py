import json
import os
import sqlite3
import subprocess
import sys
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


@pytest.mark.usefixtures("versions")
def test_a_chain_that_nobody_touched_is_whole_and_goes_on_from_a_head_kept_elsewhere(trunkline: Any) -> None:
    first = trunkline("audit", "verify", "--json").json
    assert (first["events"], first["breaks"]) == (6, [])
    said = trunkline.done("audit", "verify").splitlines()
    assert said == ["6 events: the chain is whole", f"head: {first['head']}"]
    trunkline.done("team", "create", "later")
    assert trunkline("audit", "verify", "--expect", first["head"]).code == 0
    assert trunkline("audit", "verify", "--expect", "0:" + "0" * 64).code == 0
    assert trunkline("audit", "verify", "--expect", "twelve").code == 2


@pytest.mark.usefixtures("versions")
def test_what_somebody_did_to_the_trail_is_told_and_ends_with_1(trunkline: Any) -> None:
    head = trunkline("audit", "verify", "--json").json["head"]
    with sqlite3.connect(trunkline.home / "registry.db") as connection:
        connection.execute("DROP TRIGGER audit_events_no_update")
        connection.execute("DROP TRIGGER audit_events_no_delete")
        connection.execute("UPDATE audit_events SET actor = 'eve' WHERE id = 3")
        connection.execute("DELETE FROM audit_events WHERE id = 6")
    answer = trunkline("audit", "verify")
    assert (answer.code, answer.err) == (1, "")
    assert answer.out.splitlines()[:3] == [
        "event 3 does not have its hash: it was changed, or the hash of the event before it was",
        "event 6 is missing",
        "5 events: the chain is BROKEN",
    ]
    found = trunkline("audit", "verify", "--json", "--expect", head)
    assert found.code == 1
    assert [one["number"] for one in found.json["breaks"]] == [3, 6, 6]
    with sqlite3.connect(trunkline.home / "registry.db") as connection:
        connection.execute("UPDATE audit_events SET hash = printf('%064d', id)")
    connection.close()
    assert trunkline("team", "create", "later").problem.startswith("the audit trail has lost its last event, number 6")


@pytest.mark.usefixtures("versions")
def test_events_are_exported_with_all_that_recomputes_their_chain(trunkline: Any, tmp_path: Path) -> None:
    exported = trunkline.done("audit", "export")
    events = [json.loads(line) for line in exported.splitlines()]
    assert [event["number"] for event in events] == [1, 2, 3, 4, 5, 6]
    assert [event["previous"] for event in events] == ["0" * 64, *(event["hash"] for event in events[:-1])]
    head = trunkline("audit", "verify", "--json").json["head"]
    assert head == f"6:{events[-1]['hash']}"
    assert trunkline.done("audit", "export", "--from", "5") == "".join(exported.splitlines(keepends=True)[4:])
    assert trunkline.done("audit", "export", "--from", "7") == ""
    assert trunkline("audit", "export", "--from", "0").code == 2
    assert trunkline.done("audit", "export", "--output", "trail.jsonl") == "wrote trail.jsonl: 6 events\n"
    assert (tmp_path / "trail.jsonl").read_text(encoding="utf-8") == exported
    assert trunkline("audit", "export", "--output", "t", "--json").json == {"file": "t", "events": 6}


def test_what_a_terminal_cannot_show_is_exported_all_the_same(trunkline: Any) -> None:
    trunkline.done("--actor", "Ünal \U0001f600", "team", "create", "nlu")
    environment = os.environ | trunkline.environ | {"PYTHONIOENCODING": "ascii"}
    command = [Path(sys.executable).with_name("trunkline"), "audit", "export"]
    done = subprocess.run(command, env=environment, cwd=trunkline.folder, capture_output=True, check=True)
    assert json.loads(done.stdout.decode())["actor"] == "Ünal \U0001f600"


def test_a_reader_that_has_seen_enough_of_an_export_is_no_error(trunkline: Any) -> None:
    for number in range(3):
        trunkline.done("--actor", "x" * 60_000, "team", "create", f"team-{number}")
    trunkline_command = Path(sys.executable).with_name("trunkline")
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {trunkline_command} audit export | head -c 10"],
        env=os.environ | trunkline.environ,
        cwd=trunkline.folder,
        capture_output=True,
    )
    assert (done.returncode, len(done.stdout), done.stderr) == (0, 10, b"")


def test_an_export_that_cannot_be_written_leaves_what_was_there(trunkline: Any, tmp_path: Path) -> None:
    trunkline.done("team", "create", "nlu")
    (tmp_path / "folder").mkdir()
    answer = trunkline("audit", "export", "--output", "folder")
    assert answer.code == 1
    assert answer.problem.startswith(f"cannot write {tmp_path / 'folder'}: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".trunkline", "folder"]
