import gzip
import json
from pathlib import Path

import pytest
from benchmark_tasks import TaskFiles, half_of, half_rows, task_names

from pipelines.data.dataset import load_dataset

ROWS = [{"text": f"question {number}", "label": "ABC"[number % 3]} for number in range(90)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "trec"
    folder.mkdir()
    for split, rows in (("train", ROWS[:60]), ("dev", ROWS[60:])):
        with gzip.open(folder / f"{split}.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return tmp_path


def test_the_halves_share_no_row_and_leave_none_out() -> None:
    a, b = (half_rows(ROWS, half, 3) for half in "ab")
    assert sorted(a + b) == list(range(len(ROWS)))
    assert min(len(a), len(b)) > len(ROWS) / 4
    assert a != half_rows(ROWS, "a", 4)


def test_equal_texts_are_in_one_half_whatever_their_label() -> None:
    assert all(half_of({**row, "label": "D"}, 0) == half_of(row, 0) for row in ROWS)


def test_a_task_is_written_with_the_rows_that_were_chosen(data: Path, tmp_path: Path) -> None:
    files = TaskFiles.read("trec", data, tmp_path / "out", limit_rows=None)
    spec = files.spec(dev=files.dev[:7], called="few")
    assert spec.task == "trec-few"
    assert [example.text for example in load_dataset(spec, "dev").examples] == [row["text"] for row in ROWS[60:67]]
    assert spec.labels == ("A", "B", "C")


def test_limited_rows_are_the_same_ones_again(data: Path, tmp_path: Path) -> None:
    one, other = (TaskFiles.read("trec", data, tmp_path / "out", limit_rows=10) for _ in range(2))
    assert len(one.train) == len(one.dev) == 10
    assert one.train == other.train


def test_an_unknown_task_is_named() -> None:
    with pytest.raises(SystemExit, match="unknown tasks treck"):
        task_names("rte,treck")
