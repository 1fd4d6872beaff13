from typing import Any


def test_teams_are_created_and_listed(trunkline: Any) -> None:
    assert trunkline.done("team", "list") == "no team yet; create one: trunkline team create NAME\n"
    assert trunkline.done("team", "create", "search") == "created team search\n"
    created = trunkline("team", "create", "nlu", "--json").json
    assert created == {"name": "nlu", "created_at": "2026-05-01T09:01:00Z"}
    assert [line.split() for line in trunkline.done("team", "list").splitlines()[2:]] == [
        ["nlu", "2026-05-01", "09:01"],
        ["search", "2026-05-01", "09:00"],
    ]
    assert [team["name"] for team in trunkline("team", "list", "--json").json] == ["nlu", "search"]


def test_an_empty_list_is_json_too(trunkline: Any) -> None:
    assert trunkline("team", "list", "--json").json == []


def test_a_name_that_is_taken_is_a_conflict(trunkline: Any) -> None:
    trunkline.done("team", "create", "nlu")
    answer = trunkline("team", "create", "nlu")
    assert answer.code == 5
    assert "team nlu already exists" in answer.problem


def test_a_name_with_a_path_in_it_is_a_usage_error(trunkline: Any) -> None:
    answer = trunkline("team", "create", "../nlu")
    assert answer.code == 2
    assert "'../nlu' is not a name" in answer.problem
