"""All registry commands in the order in which a new team uses them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.usefixtures("versions")
def test_every_command_prints_its_record_as_json(
    trunkline: Any, task_file: Callable[..., Path], model_folder: Callable[..., Path]
) -> None:
    steps: list[tuple[str, dict[str, Any] | list[dict[str, Any]]]] = [
        ("team create search", {"name": "search"}),
        ("team list", [{"name": "nlu"}, {"name": "search"}]),
        (f"backbone pin mini {model_folder('mini', layers=[1, 2])}", {"name": "mini", "layer_count": 2}),
        ("backbone list", [{"name": "mini"}, {"name": "small"}]),
        ("backbone show mini", {"name": "mini", "hidden_size": 2}),
        ("backbone diff mini small", {"shared_depths": [0, 1, 2]}),
        (f"task register {task_file('nli')} --team search", {"name": "nli", "team": "search", "spec_revision": 1}),
        (f"task update {task_file('nli')}", {"name": "nli", "spec_revision": 1}),
        ("task list", [{"name": "nli", "version_count": 0}, {"name": "rte", "version_count": 3}]),
        ("task promote rte/2 --alias champion", {"kind": "promote", "from_version": None, "to_version": 2}),
        ("task promote rte/3 --alias champion --expect rte/2", {"from_version": 2, "to_version": 3}),
        ("task rollback rte --alias champion --expect rte/3", {"kind": "rollback", "to_version": 2}),
        ("task versions rte", [{"number": 1}, {"number": 2}, {"number": 3}]),
        ("task show rte", {"aliases": {"champion": 2}}),
        ("task history rte", [{"kind": "promote"}, {"kind": "promote"}, {"kind": "rollback"}]),
        ("task history rte --at 2027-01-01", {"aliases": {"champion": 2}}),
        ("task retire rte --reason over --superseded-by nli", {"state": "retired"}),
        ("task revive rte", {"state": "active"}),
        ("audit list --limit 2", [{"action": "task.revive"}, {"action": "task.retire"}]),
    ]
    for command, expected in steps:
        answer = trunkline(*command.split(), "--json")
        assert (command, answer.code, answer.err) == (command, 0, "")
        found = answer.json
        for record, part in zip(_listed(found), _listed(expected), strict=True):
            assert {name: record[name] for name in part} == part


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


@pytest.mark.usefixtures("versions")
def test_every_table_fits_a_terminal_of_80_columns_even_with_the_longest_names(
    trunkline: Any,
    task_file: Callable[..., Path],
    model_folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "dumb")  # no colours, and 80 columns
    longest = "n" * 63
    for command in (
        f"team create {longest}",
        f"backbone pin {longest} {model_folder('mini', layers=[1, 2])}",
        f"task register {task_file(longest)} --team {longest}",
        f"task promote rte/1 --alias {longest}",
    ):
        trunkline.done(*command.split())
    for command in (
        "team list",
        "backbone list",
        f"backbone show {longest}",
        "task list",
        f"task show {longest}",
        "task versions rte",
        "task history rte",
        "task history rte --at 2027-01-01",
        "audit list",
    ):
        output = trunkline.done(*command.split())
        assert output.count("n") >= len(longest)
        assert [line for line in output.splitlines() if len(line) > 80] == []
    _, *table = trunkline.done("backbone", "diff", "small", longest).splitlines()  # the sentence is never broken
    assert [line for line in table if len(line) > 80] == []


@pytest.mark.usefixtures("versions")
def test_tasks_are_listed_with_what_is_most_asked_for(trunkline: Any) -> None:
    trunkline.done("task", "promote", "rte/2", "--alias", "champion")
    header, _, row = trunkline.done("task", "list").splitlines()
    assert header.split() == ["task", "team", "type", "versions", "aliases", "state"]
    assert row.split() == ["rte", "nlu", "classification", "3", "champion", "2", "active"]
