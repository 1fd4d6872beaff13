from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ModelFolder = Callable[..., Path]


def test_a_backbone_is_pinned_listed_and_shown(trunkline: Any, model_folder: ModelFolder) -> None:
    assert trunkline.done("backbone", "list").startswith("no backbone yet")
    folder = model_folder("mini", layers=[1, 2, 3])
    pinned = trunkline.done("backbone", "pin", "mini", folder, "--max-length", "64")
    record = trunkline("backbone", "show", "mini", "--json").json
    assert pinned == f"pinned backbone mini: 3 layers x 2, 64 tokens, P(3) = {record['prefix_digests'][3][:12]}\n"
    assert record["source"] == str(folder)
    shown = trunkline.done("backbone", "show", "mini")
    for depth, digest in enumerate(record["prefix_digests"]):
        assert f"{depth}  {digest}" in shown
    listed = trunkline.done("backbone", "list").splitlines()[-1].split()
    assert listed == ["mini", "bert", "3", "2", "64", record["prefix_digests"][3][:12], "2026-05-01", "09:00"]
    assert trunkline("backbone", "list", "--json").json == [record]


def test_pinning_the_same_again_changes_nothing_and_other_content_is_a_conflict(
    trunkline: Any, model_folder: ModelFolder
) -> None:
    trunkline.done("backbone", "pin", "mini", model_folder("a", layers=[1, 2]))
    again = trunkline.done("backbone", "pin", "mini", model_folder("b", layers=[1, 2]))
    assert again == "backbone mini is pinned already, with the same content\n"
    other = trunkline("backbone", "pin", "mini", model_folder("c", layers=[1, 3]))
    assert other.code == 5
    assert "already exists with other content" in other.problem
    assert len(trunkline("audit", "list", "--json").json) == 1


@pytest.mark.parametrize(
    ("layers", "embedding", "options", "shared", "difference"),
    [
        ([1, 2, 3], 0, (), [0, 1, 2, 3], None),
        ([1, 2, 9], 0, (), [0, 1, 2], "layer 3"),
        ([1, 9, 3], 0, (), [0, 1], "layer 2"),
        ([1, 2, 3, 4], 0, (), [0, 1, 2, 3], "layer 4 (missing in one of them)"),
        ([1, 2, 3], 5, (), [], "embeddings"),
        ([1, 2, 3], 0, ("--max-length", "16"), [], "max_length (128 against 16)"),
    ],
)
def test_diff_names_where_two_backbones_part(
    trunkline: Any,
    model_folder: ModelFolder,
    layers: list[int],
    embedding: int,
    options: tuple[str, ...],
    shared: list[int],
    difference: str | None,
) -> None:
    trunkline.done("backbone", "pin", "left", model_folder("left", layers=[1, 2, 3]))
    trunkline.done("backbone", "pin", "right", model_folder("right", layers=layers, embedding=embedding), *options)
    assert trunkline("backbone", "diff", "left", "right", "--json").json == {
        "a": "left",
        "b": "right",
        "shared_depths": shared,
        "first_difference": difference,
    }
    sentence, *table = trunkline.done("backbone", "diff", "left", "right").splitlines()
    if difference is None:
        assert sentence == "left and right are the same at every depth"
    elif not shared:
        assert sentence == f"left and right share no depth: they differ in {difference}"
    else:
        parting = f"share depths 0 to {shared[-1]} and part at depth {shared[-1] + 1}: {difference}"
        assert sentence == f"left and right {parting}"
        assert [row.split()[-1] for row in table[2:]] == ["yes"] * len(shared) + ["no"] * (len(table) - 2 - len(shared))


def test_a_folder_that_is_no_model_is_refused_with_what_is_missing(trunkline: Any, tmp_path: Path) -> None:
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "pytorch_model.bin").touch()
    answer = trunkline("backbone", "pin", "mini", "pickled")
    assert (answer.code, answer.out) == (1, "")
    for part in ("config.json is missing", "tokenizer.json is missing", "reads only safetensors"):
        assert part in answer.err
    missing = trunkline("backbone", "pin", "mini", "nowhere")
    assert missing.code == 1
    assert "is not a folder" in missing.problem
    assert trunkline("backbone", "list", "--json").json == []


def test_unusable_names_and_lengths_are_usage_errors(trunkline: Any, model_folder: ModelFolder) -> None:
    folder = model_folder("mini", layers=[1])
    assert "is not a name" in trunkline("backbone", "pin", "a/b", folder).problem
    too_long = trunkline("backbone", "pin", "mini", folder, "--max-length", "513")
    assert too_long.code == 2
    assert "3 to 512" in too_long.problem
    unknown = trunkline("backbone", "show", "mini")
    assert unknown.code == 1
    assert "trunkline backbone list" in unknown.problem
