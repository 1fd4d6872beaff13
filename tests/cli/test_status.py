"""What is behind and what to run, on real modules: /1 is a teacher, /2 its student and champion."""

import json
from pathlib import Path
from typing import Any

from registry.domain.staleness import channel_updates, retired_standing
from tests.cli.conftest import assembled


def standing(trunkline: Any, task: str, *options: str) -> dict[str, Any]:
    found: dict[str, Any] = {one["task"]: one for one in trunkline("status", "--json", *options).json["tasks"]}
    one: dict[str, Any] = found[task]
    return one


def test_nothing_is_behind_right_after_a_release(trained: Any) -> None:
    assembled(trained)
    trained.done("channel", "create", "production", "--takes", "verified")
    trained.done("release", "promote", "r1", "--channel", "production")
    assert standing(trained, "token") == {
        "task": "token",
        "champion": 2,
        "live": {"production": 2},
        "behind": [],
        "outdated_on": [],
        "run": [],
        "retired": False,
    }
    assert trained.done("status").endswith("nothing is behind\n")


def test_a_champion_that_is_not_live_is_updated_in_the_release(trained: Any) -> None:
    assembled(trained)
    trained.done("channel", "create", "production", "--takes", "verified")
    trained.done("release", "promote", "r1", "--channel", "production")
    for task in ("token", "regression"):
        trained.promote(f"{task}/1")
    assert standing(trained, "token")["behind"] == ["token/2 is live on production"]
    (command,) = trained("status", "--json").json["run"]
    assert command == (
        "trunkline release update --channel production --task regression@champion --task token@champion"
    ), "one release for all: of two, the second would undo the first"
    assert "to catch up:\n  trunkline release update" in trained.done("status")
    assert trained(*command.split()[1:], "--tolerance", 100).code == 0


def test_a_retired_task_that_is_live_is_to_be_removed_together_with_what_else_is_behind(trained: Any) -> None:
    assembled(trained)
    trained.done("channel", "create", "production", "--takes", "verified")
    trained.done("task", "retire", "regression", "--reason", "nobody asks")
    promoted = trained("release", "promote", "r1", "--channel", "production")
    removed = "trunkline release update --channel production --remove regression"
    assert f"warning: r1 answers retired tasks: regression; `{removed}` makes one without them" in promoted.err
    trained.promote("token/1")
    assert standing(trained, "regression")["behind"] == ["retired, and regression/2 is live on production"]
    (command,) = trained("status", "--json").json["run"]
    assert command.startswith("trunkline release update --channel production --")
    assert set(command.split(" --")[2:]) == {"task token@champion", "remove regression"}
    assert trained(*command.split()[1:], "--tolerance", 100).code == 0


def test_a_channel_of_which_nothing_would_be_left_has_no_command() -> None:
    retired = retired_standing("topic", {"production": 1, "staging": 1})
    kept = retired_standing("other", {}).model_copy(update={"live": {"staging": 2}, "retired": False})
    assert channel_updates([retired, kept], "champion") == ["trunkline release update --channel staging --remove topic"]


def test_changed_data_another_definition_and_another_backbone_are_told(trained: Any, pin_model: Any) -> None:
    spec = trained("task", "show", "classification", "--json").json["spec"]
    dev = Path(spec["data"]["dev"])
    kept = dev.read_bytes()
    try:
        dev.write_bytes(kept + kept.splitlines(keepends=True)[-1])
        assert standing(trained, "classification")["behind"] == ["its dev data have changed"]
        assert standing(trained, "classification", "--no-data")["behind"] == []
        dev.unlink()
        unreadable = standing(trained, "classification")
        assert unreadable["behind"][0].startswith("its data cannot be read: ")
        assert unreadable["run"] == []
    finally:
        dev.write_bytes(kept)
    path = trained.folder / "classification.yaml"
    fields = {**spec, "labels": spec["labels"][::-1]}
    path.write_text(json.dumps({name: value for name, value in fields.items() if value is not None}))
    trained("task", "update", path)
    trained.done("backbone", "pin", "other", pin_model(seed=1).backbone.source)
    one = standing(trained, "classification")
    assert one["behind"] == ["trained for spec revision 1, now 2", "on backbone small; the newest is other"]
    assert one["run"] == ["trunkline search run classification --backbone other"]
    only_the_backbone = standing(trained, "token")
    assert only_the_backbone["behind"] == ["on backbone small; the newest is other"]
    assert only_the_backbone["run"] == ["trunkline backbone migrate small other --plan"]
    assert trained("status", "--json").json["run"].count("trunkline backbone migrate small other --plan") == 1
    trained.promote("token/1", alias="stable")
    (stable,) = [
        one for one in trained("status", "--alias", "stable", "--json").json["tasks"] if one["task"] == "token"
    ]
    assert stable["run"] == ["trunkline backbone migrate small other --alias stable --plan"]


def test_a_task_without_version_or_champion(trunkline: Any, versions: Any, task_file: Any) -> None:
    trunkline.done("task", "register", task_file("cola"), "--team", "nlu")
    assert standing(trunkline, "cola", "--no-data")["run"] == ["trunkline search run cola --backbone small"]
    one = standing(trunkline, "rte", "--no-data")
    assert (one["behind"], one["run"]) == (["no champion"], ["trunkline task promote rte/N --alias champion"])


def test_an_empty_registry_has_nothing_to_tell(trunkline: Any) -> None:
    assert "no backbone is pinned yet" in trunkline.done("status")
