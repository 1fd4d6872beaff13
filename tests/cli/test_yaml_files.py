from collections.abc import Callable
from pathlib import Path

import pytest

from cli.yaml_files import read_yaml
from registry.errors import InvalidInput

Write = Callable[[str | bytes], Path]


@pytest.fixture
def written(tmp_path: Path) -> Write:
    def write(content: str | bytes) -> Path:
        path = tmp_path / "file.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_words_that_yaml_would_turn_into_other_things_stay_words(written: Write) -> None:
    content = read_yaml(written("labels: [yes, No, on, 1, 0.50, 2026-11-23, 0x1f, ~, null]\nempty:"))
    words = ["yes", "No", "on", "1", "0.50", "2026-11-23", "0x1f", None, None]
    assert content == {"labels": words, "empty": None}


def test_anchors_merges_and_any_unicode_encoding_are_read(written: Write) -> None:
    text = "base: &base {a: 1, b: ü}\nuse: {<<: *base, b: 2}\n"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        assert read_yaml(written(text.encode(encoding)))["use"] == {"a": "1", "b": "2"}


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ("task: rte\nlabels: [a, b\nmetric: accuracy\n", "line 3, column 7"),
        ("task: rte\n\tlabels: []\n", "line 2, column 1"),
        ("task: rte\ntype: a\ntask: cola\n", "line 3, column 1: key 'task' stands here and in line 1"),
        ("data: {train: a, train: b}\n", "line 1, column 18: key 'train' stands here and in line 1"),
        ("task: rte\n---\ntask: cola\n", "line 2, column 1"),
        ("a: *missing\n", "line 1, column 4"),
        ("a: !!python/object/apply:os.system ['true']\n", "line 1, column 4"),
        ("{[1, 2]: x}\n", "line 1, column 2"),
        (b"task: \xff\xfe\n", "invalid start byte at position 6"),
        ("task: \x07\n", "position 6"),
        ("[" * 20000, "nested too deeply"),
    ],
)
def test_what_is_not_yaml_is_refused_with_its_place(written: Write, content: str | bytes, place: str) -> None:
    path = written(content)
    with pytest.raises(InvalidInput) as refused:
        read_yaml(path)
    assert place in str(refused.value)
    assert str(refused.value).startswith(f"{path}: ")
    assert "\n" not in str(refused.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="No such file"):
        read_yaml(tmp_path / "missing.yaml")
    with pytest.raises(InvalidInput, match="Is a directory"):
        read_yaml(tmp_path)
