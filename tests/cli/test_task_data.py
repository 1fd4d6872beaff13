"""What `task register` and `task update` say of the data files that a definition names."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TaskFile = Callable[..., Path]


@pytest.fixture(autouse=True)
def team(trunkline: Any) -> None:
    trunkline.done("team", "create", "nlu")


def write_rows(task: Path, split: str, *rows: dict[str, object]) -> Path:
    path = task.parent / "data" / f"{task.stem}-{split}.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def test_what_no_run_could_use_is_refused_with_all_problems_of_both_files(trunkline: Any, task_file: TaskFile) -> None:
    file = task_file("rte", labels="[yes, no]")
    train = write_rows(file, "train", {"text": "a", "label": "Yes"}, {"text": "", "label": "no"})
    dev = write_rows(file, "dev", {"text": "a", "answer": "yes"})
    answer = trunkline("task", "register", file, "--team", "nlu")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err.splitlines()[0] == "error: task rte: 3 problems"
    assert f"train data {train}: line 1: label 'Yes' is not declared" in answer.err
    assert f"train data {train}: line 2: 'text' is empty" in answer.err
    assert f"dev data {dev}: line 1: no column 'label'; there is 'text', 'answer'" in answer.err
    assert trunkline("task", "list", "--json").json == []


def test_data_are_not_looked_at_where_somebody_asks_for_that(trunkline: Any, task_file: TaskFile) -> None:
    file = task_file("rte")
    write_rows(file, "train", {"text": "a", "label": "unheard of"})
    told = trunkline.done("task", "register", file, "--team", "nlu", "--no-check-data")
    assert told == "registered task rte of team nlu, spec revision 1\n"


def test_a_new_definition_that_the_data_do_not_fit_is_refused(trunkline: Any, task_file: TaskFile) -> None:
    file = task_file("rte")
    trunkline.done("task", "register", file, "--team", "nlu")
    file.write_text(file.read_text().replace("entailment, not_entailment", "yes, no"), encoding="utf-8")
    assert "label 'entailment' is not declared" in trunkline("task", "update", file).err
    assert trunkline("task", "show", "rte", "--json").json["spec_revision"] == 1
    assert trunkline("task", "update", file, "--no-check-data").code == 0


def test_a_label_that_no_training_row_has_is_told(trunkline: Any, task_file: TaskFile) -> None:
    file = task_file("rte", labels="[yes, no, maybe]")
    write_rows(file, "train", {"text": "a", "label": "yes"}, {"text": "b", "label": "no"})
    answer = trunkline("task", "register", file, "--team", "nlu")
    assert (answer.code, answer.err) == (
        0,
        "warning: task rte: no training row has 'maybe': nothing can be learnt of that\n",
    )


def test_a_span_type_is_seen_in_its_tags(trunkline: Any, task_file: TaskFile) -> None:
    tagging = {"type": "token_classification", "tag_scheme": "bio", "metric": "entity_f1"}
    file = task_file("slots", labels="[city, day]", **tagging)
    write_rows(file, "train", {"tokens": ["to", "Oslo"], "tags": ["O", "B-city"]})
    assert "no training row has 'day'" in trunkline("task", "register", file, "--team", "nlu").err
    write_rows(file, "train", {"tokens": ["Oslo", "Sunday"], "tags": ["I-city", "B-day"]})
    assert trunkline("task", "update", file).err == ""


def test_many_labels_without_a_row_are_counted(trunkline: Any, task_file: TaskFile) -> None:
    names = ", ".join(f"intent{number:02}" for number in range(14))
    file = task_file("intents", labels=f"[{names}]")
    write_rows(file, "train", {"text": "a", "label": "intent00"}, {"text": "b", "label": "intent13"})
    assert "'intent10' and 2 more: " in trunkline("task", "register", file, "--team", "nlu").err
