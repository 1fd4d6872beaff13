"""Releases listed and their history; assembling itself is in test_main_job.py."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from registry.database.engine import Database
from registry.domain.records import NewRelease, Release
from registry.services.releases import register_release

FIRST_MINUTE = datetime(2026, 5, 1, 9, 0, tzinfo=UTC)


@pytest.fixture
def add_release(trunkline: Any) -> Callable[..., Release]:
    """Registers a release as assembling would, so many minutes after nine."""

    def add(minute: int, **tasks: int) -> Release:
        database = Database.open(f"sqlite:///{trunkline.home / 'registry.db'}")
        with database.write() as session:
            new = NewRelease(
                manifest=f"{minute:064x}",
                backbone="small",
                tasks=tasks,
                trunk_depth=1,
                layer_count=1 + len(tasks),
                gates={},
            )
            release = register_release(session, new, actor="ann", at=FIRST_MINUTE + timedelta(minutes=minute))
        database.close()
        return release

    return add


@pytest.fixture
def three(
    trunkline: Any, versions: Callable[..., Any], task_file: Callable[..., Path], add_release: Callable[..., Release]
) -> None:
    """r1 of rte/1; r2 of rte/2 and cola/1; r3 of cola/1."""
    trunkline.done("task", "register", task_file("cola"), "--team", "nlu")
    versions("cola")
    add_release(0, rte=1)
    add_release(1, rte=2, cola=1)
    add_release(2, cola=1)


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()[2:]]


@pytest.mark.usefixtures("three")
def test_the_history_says_what_each_release_changed_against_the_one_before(trunkline: Any) -> None:
    table = rows(trunkline.done("release", "history"))
    assert [row[0] for row in table] == ["r1", "r2", "r3"]
    assert [" ".join(row[4:]) for row in table] == ["2 +rte/1", "3 (+1) rte/1 → 2, +cola/1", "2 (-1) -rte/2"]
    first, second, third = trunkline("release", "history", "--json").json
    assert first["tasks"] == {"added": {"rte": 1}, "removed": {}, "moved": {}}
    assert second["tasks"] == {"added": {"cola": 1}, "removed": {}, "moved": {"rte": [1, 2]}}
    assert third["tasks"] == {"added": {}, "removed": {"rte": 2}, "moved": {}}
    assert (first["layer_count_before"], third["layer_count_before"], third["layer_count"]) == (None, 3, 2)


@pytest.mark.usefixtures("three")
def test_the_history_of_one_task_leaves_out_releases_that_kept_it(trunkline: Any) -> None:
    history = trunkline("release", "history", "--task", "cola", "--json").json
    assert [(change["release"], change["tasks"]["added"]) for change in history] == [("r2", {"cola": 1})]
    assert [row[0] for row in rows(trunkline.done("release", "history", "--task", "rte"))] == ["r1", "r2", "r3"]
    assert trunkline("release", "history", "--task", "nothing").code == 1


@pytest.mark.usefixtures("three")
def test_the_history_at_a_time_is_the_latest_release_then(trunkline: Any) -> None:
    def at(time: str, *options: str) -> tuple[str | None, dict[str, int]]:
        then = trunkline("release", "history", "--at", time, "--json", *options).json
        return then["release"], then["tasks"]

    assert at("2026-05-01T08:59:59") == (None, {})
    assert at("2026-05-01T09:00") == ("r1", {"rte": 1})
    assert at("2026-05-01T11:01:30+02:00") == ("r2", {"cola": 1, "rte": 2})
    assert at("2026-05-01T09:01", "--task", "rte") == ("r2", {"rte": 2})
    assert at("2026-05-02", "--task", "rte") == ("r3", {})
    sentence, header, _, *table = trunkline.done("release", "history", "--at", "2026-05-01T09:01").splitlines()
    assert "the latest release was r2, made 2026-05-01 09:01 by ann: backbone small, 3 layers" in sentence
    assert header.split() == ["task", "version"]
    assert [row.split() for row in table] == [["cola", "cola/1"], ["rte", "rte/2"]]
    assert trunkline.done("release", "history", "--at", "2026-05-02", "--task", "rte").endswith("without task rte\n")
    assert trunkline.done("release", "history", "--at", "2026-05-01").endswith("there was no release\n")
    assert trunkline("release", "history", "--at", "2026-05-01", "--limit", 1).code == 2


@pytest.mark.usefixtures("three")
def test_the_list_tells_where_a_task_or_a_version_is_used(trunkline: Any) -> None:
    def names(*options: str) -> list[str]:
        return [release["name"] for release in trunkline("release", "list", *options, "--json").json]

    assert names() == ["r1", "r2", "r3"]
    assert names("--task", "cola") == ["r2", "r3"]
    assert names("--version", "rte/2") == ["r2"]
    trunkline.done("task", "promote", "rte/1", "--alias", "champion")
    assert names("--version", "rte@champion") == ["r1"]
    assert names("--limit", "2") == ["r2", "r3"]
    assert trunkline.done("release", "list", "--version", "rte/3") == "no release holds rte/3\n"
    assert trunkline("release", "list", "--version", "rte/9").code == 1
    assert trunkline("release", "list", "--task", "nothing").code == 1
    assert trunkline("release", "list", "--task", "rte", "--version", "rte/1").code == 2


@pytest.mark.usefixtures("three")
def test_what_a_table_leaves_out_is_said_and_json_leaves_out_nothing(
    trunkline: Any, add_release: Callable[..., Release]
) -> None:
    for minute in range(3, 60):
        add_release(minute, rte=1 + minute % 3)
    assert trunkline.done("release", "list").splitlines()[-1] == "and 10 older; use --limit"
    assert trunkline.done("release", "history", "--limit", 7).splitlines()[-1] == "and 53 older; use --limit"
    assert rows(trunkline.done("release", "history", "--limit", 1))[0][0] == "r60"
    assert len(trunkline("release", "list", "--json").json) == len(trunkline("release", "history", "--json").json) == 60


def test_many_changes_are_cut_and_said_to_be(
    trunkline: Any, versions: Callable[..., Any], task_file: Callable[..., Path], add_release: Callable[..., Release]
) -> None:
    tasks = [f"task{number:02}" for number in range(14)]
    for task in tasks:
        trunkline.done("task", "register", task_file(task), "--team", "nlu")
        versions(task)
    add_release(0, **dict.fromkeys(tasks, 1))
    shown = " ".join(trunkline.done("release", "history").split())
    assert "+task09/1, 4 more (--json shows all)" in shown
    assert len(trunkline("release", "history", "--json").json[0]["tasks"]["added"]) == 14


def test_without_a_release_history_and_list_say_so(trunkline: Any) -> None:
    assert trunkline.done("release", "history") == "no release yet\n"
    assert "trunkline release assemble" in trunkline.done("release", "list")
    assert trunkline("release", "history", "--json").json == []


@pytest.mark.usefixtures("versions")
def test_a_clock_that_went_back_does_not_reorder_the_history(
    trunkline: Any, add_release: Callable[..., Release]
) -> None:
    add_release(10, rte=1)
    add_release(5, rte=2)
    then = trunkline("release", "history", "--at", "2026-05-01T09:10", "--json").json
    assert then["release"] == "r2"
    assert trunkline("release", "history", "--at", "2026-05-01T09:07", "--json").json["release"] is None


def test_a_selection_by_alias_says_which_tasks_it_leaves_out(
    trunkline: Any, versions: Callable[..., Any], task_file: Callable[..., Path]
) -> None:
    for task in ("places", "moods", "old", "gone"):
        trunkline.done("task", "register", task_file(task), "--team", "nlu")
    versions("old")
    for version in ("rte/2", "old/1"):
        trunkline.done("task", "promote", version, "--alias", "stable")
    for task in ("old", "gone"):
        trunkline.done("task", "retire", task, "--reason", "nobody asks")
    answer = trunkline("release", "assemble", "--select", "stable")
    assert answer.err.splitlines()[:2] == [
        "not in it: moods, places (no alias stable)",
        "not in it: old (retired, with alias stable)",
    ]
    assert "not in it" not in trunkline("release", "assemble", "--task", "rte@stable").err


@pytest.mark.usefixtures("versions")
def test_many_tasks_that_are_left_out_are_counted(trunkline: Any, task_file: Callable[..., Path]) -> None:
    for number in range(23):
        trunkline.done("task", "register", task_file(f"task{number:02}"), "--team", "nlu")
    trunkline.done("task", "promote", "rte/2", "--alias", "stable")
    (note, *_) = trunkline("release", "assemble", "--select", "stable").err.splitlines()
    assert note.endswith("task18, task19 and 3 more (no alias stable)")
