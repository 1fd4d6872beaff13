"""What a release cannot be made of, or does not survive: each refused, named, and without a trace."""

from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import RUN, Trunkline, assembled

CHAMPIONS = ("classification/2", "regression/2", "token/2")


def blob_file(trunkline: Trunkline, digest: str) -> Path:
    return trunkline.home / "artifacts" / "sha256" / digest[:2] / digest[2:]


def overwrite(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


def lock_file(trunkline: Trunkline, *lines: str, backbone: str = "small") -> Path:
    path = trunkline.folder / "lock.yaml"
    path.write_text("\n".join([f"backbone: {backbone}", "tasks:", *(f"  {line}" for line in lines)]) + "\n")
    return path


def releases(trunkline: Trunkline) -> list[Any]:
    return list(trunkline("release", "list", "--json").json)


@pytest.mark.parametrize(
    ("lines", "code", "said"),
    [
        (("token: 9",), 1, "there is no version token/9"),
        (("nothing: 1",), 1, "there is no task 'nothing'"),
        (("token: 1", "token: 2"), 1, "key 'token' stands here and in line 3"),
        (("token: latest",), 1, "tasks.token"),
    ],
)
def test_a_lock_that_names_what_there_is_not_is_refused(
    trained: Trunkline, lines: tuple[str, ...], code: int, said: str
) -> None:
    answer = trained("release", "assemble", "--lock", lock_file(trained, *lines))
    assert (answer.code, said in answer.problem) == (code, True), answer.err
    assert releases(trained) == []


def test_a_lock_with_a_retired_task_is_refused(trained: Trunkline) -> None:
    trained.done("task", "retire", "token", "--reason", "nobody asks")
    answer = trained("release", "assemble", "--lock", lock_file(trained, "token: 2", "classification: 2"))
    assert answer.code == 4
    assert "token" in answer.problem
    assert releases(trained) == []


def test_versions_of_two_backbones_make_no_release(trained: Trunkline, pin_model: Any) -> None:
    trained.done("backbone", "pin", "other", pin_model(seed=1).backbone.source)
    assert trained("train", "token", "--layers", 1, "--backbone", "other", *RUN).code == 0
    unsaid = trained("release", "assemble", "--task", "token/3", "--task", "classification/2")
    assert unsaid.code == 2
    assert "the versions were trained on other, small: choose one with --backbone" in unsaid.problem
    for backbone, foreign in (("small", "token/3"), ("other", "classification/2")):
        path = lock_file(trained, "token: 3", "classification: 2", backbone=backbone)
        refused = trained("release", "assemble", "--lock", path)
        assert refused.code == 3
        assert f"{foreign} is bound to P(" in refused.err
        assert "they differ in" in refused.err
    assert releases(trained) == []


@pytest.mark.parametrize("part", ["module", "golden"])
def test_a_blob_that_is_damaged_between_draft_and_verification_is_found(trained: Trunkline, part: str) -> None:
    drafted = trained("release", "assemble", "--select", "champion", "--draft", "--json")
    assert drafted.code == 0
    damaged = blob_file(trained, drafted.json["manifest"]["tasks"]["token"][part])
    whole = damaged.read_bytes()
    overwrite(damaged, whole[:-1] + b"?")
    refused = trained("release", "verify", "r1")
    assert refused.code == 3
    assert "1 of 1 findings failed: integrity of token" in refused.err
    kept = trained("release", "show", "r1", "--json").json["release"]
    assert (kept["state"], kept["gates"]["passed"]) == ("draft", False)
    (finding,) = kept["gates"]["findings"]
    assert "of token/2" in finding["words"]
    trained.done("channel", "create", "staging", "--takes", "verified")
    assert trained("release", "promote", "r1", "--channel", "staging").code == 4
    overwrite(damaged, whole)
    assert trained("release", "verify", "r1").code == 0
    assert trained("release", "promote", "r1", "--channel", "staging").code == 0


def test_a_gate_whose_data_are_missing_fails_and_the_others_are_told_too(trained: Trunkline) -> None:
    assembled(trained)
    trained.done("channel", "create", "production", "--takes", "verified")
    trained.done("release", "promote", "r1", "--channel", "production")
    version = trained("version", "show", "token/1", "--json").json
    blob_file(trained, version["dev_predictions"]).unlink()
    tried = trained("release", "try", "--channel", "production", "--task", "token/1", "--json")
    assert tried.code == 3
    found = {(one["gate"], one["task"]): one for one in tried.json["findings"]}
    assert "the dev predictions of token/2 or token/1 cannot be read" in found["regression", "token"]["words"]
    assert [key for key, one in found.items() if not one["passed"]] == [("regression", "token")]


def test_a_release_file_that_was_edited_by_hand_is_used_by_nobody(trained: Trunkline) -> None:
    manifest = assembled(trained)["release"]["manifest"]
    trained.done("channel", "create", "production", "--takes", "verified")
    trained.done("release", "promote", "r1", "--channel", "production")
    path = blob_file(trained, manifest)
    whole = path.read_bytes()
    overwrite(path, whole.replace(b'"version":2', b'"version":1', 1))
    for command in (
        ("release", "show", "r1"),
        ("release", "verify", "r1"),
        ("release", "update", "--channel", "production", "--task", "token/1"),
        ("release", "lock", "r1"),
        ("release", "card", "r1"),
        ("predict", "r1", "the dog runs"),
    ):
        answer = trained(*command)
        assert (answer.code, manifest[:12] in answer.err) == (1, True), (command, answer.err)
        assert answer.out == ""
    assert trained("fsck").code != 0
    assert [one["name"] for one in releases(trained)] == ["r1"]
    assert trained("release", "assemble", "--select", "champion").code == 0, "the same bytes take its place"
    assert path.read_bytes() == whole


def test_a_budget_that_nobody_meets_says_so(trained: Trunkline) -> None:
    answer = trained("plan", "--budget", 1)
    assert answer.code == 1
    assert "no plan of 1 layers" in answer.problem
    assembled(trained)
    trained.done("channel", "create", "production", "--takes", "verified")
    trained.done("release", "promote", "r1", "--channel", "production")
    over = trained("release", "try", "--channel", "production", "--remove", "token", "--max-layers", 1)
    assert over.code == 3
    assert "more than 1" in over.out
