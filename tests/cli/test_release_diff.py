"""What a release changes against another one, on real modules: /1 is a teacher (1, 3), /2 its student (2, 1)."""

from typing import Any

import pytest

from tests.cli.conftest import assembled


@pytest.fixture
def two(trained: Any) -> Any:
    """r1: the three students; r2: the teacher of classification, the student of token."""
    assembled(trained)
    trained.done("release", "assemble", "--task", "classification/1", "--task", "token/2")
    return trained


def test_versions_shapes_scores_and_layers_are_told(two: Any) -> None:
    found = two("release", "diff", "r1", "r2", "--json").json
    assert (found["layer_count_before"], found["layer_count"], found["unchanged"]) == (5, 6, ["token"])
    by_task = {one["task"]: one for one in found["changed"]}
    assert set(by_task) == {"classification", "regression"}
    before, after = by_task["classification"]["before"], by_task["classification"]["after"]
    assert (before["version"], before["frozen_depth"], before["task_layers"]) == (2, 2, 1)
    assert (after["version"], after["frozen_depth"], after["task_layers"]) == (1, 1, 3)
    assert found["gains"]["classification"] == pytest.approx(after["score"] - before["score"])
    assert (by_task["regression"]["after"], found["gains"]["regression"]) == (None, None)
    assert found["new_blobs"] == 2, "the teacher's module and its golden examples"


def test_it_is_drawn_with_what_changed(two: Any) -> None:
    shown = two.done("release", "diff", "r1", "r2")
    assert "layers     5 → 6 (+1)" in shown
    earlier, later = shown.split("\nr1\n")[1].split("\nr2\n")
    assert "classification/2  ◆ becomes /1" in earlier
    assert "regression/2      ◆ removed" in earlier
    assert "classification/1  ◆ was /2" in later
    assert "token/2           token_classification" in earlier
    assert "token/2           token_classification" in later
    assert "regression" not in later
    backwards = two.done("release", "diff", "r2", "r1")
    assert "◆ added" in backwards.split("\nr1\n")[1]


def test_nothing_changed_is_nothing_to_show(two: Any) -> None:
    found = two("release", "diff", "r1", "r1", "--json").json
    assert (found["changed"], found["new_blobs"]) == ([], 0)
    assert "0 changed, 3 the same" in two.done("release", "diff", "r1", "r1")


def test_the_notes_are_markdown_with_gates_and_journal(two: Any) -> None:
    two.done("channel", "create", "production", "--takes", "verified")
    two.done("release", "promote", "r1", "--channel", "production")
    two.done("release", "update", "--channel", "production", "--task", "classification/1", "--tolerance", 100)
    two.done("release", "approve", "r3", "--reason", "tried for a week")
    notes = two.done("release", "notes", "r3", "--since", "r1")
    assert notes.startswith("# Release r3, since r1\n")
    for line in ("| classification | /2 (2, 1)", "The same: regression, token.", "| non-interference | token | ok |"):
        assert line in notes
    assert notes.rstrip().endswith("UTC, approved by ann: tried for a week")
    document = two("release", "notes", "r3", "--since", "r1", "--json").json
    assert [move["to_state"] for move in document["journal"]] == ["draft", "verified", "approved"]
