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
    first = answer.err.splitlines()[0]
    assert first == "error: task rte, its data (--no-check-data leaves them unread): 3 problems"
    assert f"train data {train}: line 1: label 'Yes' is not declared" in answer.err
    assert f"train data {train}: line 2: 'text' is empty" in answer.err
    assert f"dev data {dev}: line 1: no column 'label'; there is 'text', 'answer'" in answer.err
    assert trunkline("task", "list", "--json").json == []


def test_data_are_not_looked_at_where_somebody_asks_for_that(trunkline: Any, task_file: TaskFile) -> None:
    file = task_file("rte")
    write_rows(file, "train", {"text": "a", "label": "unheard of"})
    told = trunkline.done("task", "register", file, "--team", "nlu", "--no-check-data")
    assert told == "registered task rte of team nlu, spec revision 1\n"


def test_many_problems_of_one_file_hide_none_of_the_other(trunkline: Any, task_file: TaskFile) -> None:
    file = task_file("rte", labels="[yes, no]")
    write_rows(file, "train", *({"text": "a", "label": f"wrong {number}"} for number in range(40)))
    write_rows(file, "dev", {"text": "", "label": "yes"})
    answer = trunkline("task", "register", file, "--team", "nlu")
    assert "41 problems" in answer.err
    assert answer.err.count("is not declared") == 19
    assert "'text' is empty" in answer.err
    assert "and 21 more" in answer.err


def test_what_costs_nothing_to_know_is_told_before_data_are_read(trunkline: Any, task_file: TaskFile) -> None:
    file = task_file("rte")
    write_rows(file, "train", {"text": "a", "label": "wrong"})
    assert "there is no team" in trunkline("task", "register", file, "--team", "search").problem
    assert "there is no task 'rte'" in trunkline("task", "update", file).problem


def test_a_folder_is_no_data_file(trunkline: Any, task_file: TaskFile) -> None:
    file = task_file("rte", data="{train: data.jsonl, dev: data/rte-dev.jsonl}")
    (file.parent / "data.jsonl").mkdir()
    assert trunkline("task", "register", file, "--team", "nlu").problem.endswith("is a folder, not a file")
    told = trunkline("task", "register", file, "--team", "nlu", "--no-check-data")
    assert "there is no train data file" in told.err


def test_a_definition_that_is_in_force_needs_no_look_at_its_data(trunkline: Any, task_file: TaskFile) -> None:
    file = task_file("rte")
    trunkline.done("task", "register", file, "--team", "nlu")
    write_rows(file, "train", {"text": "a", "label": "wrong"})
    assert trunkline.done("task", "update", file) == "task rte is unchanged, spec revision 1\n"


def test_texts_of_train_among_the_dev_rows_are_told(trunkline: Any, task_file: TaskFile) -> None:
    file = task_file("rte")
    rows = [{"text": "a", "label": "entailment"}, {"text": "b", "label": "not_entailment"}]
    write_rows(file, "train", *rows)
    write_rows(file, "dev", *reversed(rows), {"text": "c", "label": "entailment"})
    warning = "2 of 3 dev rows are texts that train data have too"
    assert warning in trunkline("task", "register", file, "--team", "nlu").err


def test_few_rows_of_train_in_dev_are_counted_and_no_news(trunkline: Any, task_file: TaskFile) -> None:
    file = task_file("rte")
    rows = [{"text": f"text {number}", "label": "entailment"} for number in range(100)]
    write_rows(file, "train", *rows, {"text": "a", "label": "not_entailment"})
    write_rows(file, "dev", *({**row, "text": f"dev {row['text']}"} for row in rows[1:]), rows[0])
    checked = trunkline("task", "check", file, "--json")
    assert (checked.json["dev_rows_in_train"], checked.err) == (1, "")


def test_a_name_that_no_reader_knows_is_refused_wherever_the_file_is(trunkline: Any, task_file: TaskFile) -> None:
    file = task_file("rte", data="{train: train.xlsx, dev: data/rte-dev.jsonl}")
    assert "its name tells no format" in trunkline("task", "register", file, "--team", "nlu").err


def test_one_file_may_be_elsewhere(trunkline: Any, task_file: TaskFile) -> None:
    file = task_file("rte")
    train = file.parent / "data" / "rte-train.jsonl"
    train.unlink()
    write_rows(file, "dev", {"text": "a", "label": "entailment"})
    answer = trunkline("task", "register", file, "--team", "nlu")
    assert answer.out == "registered task rte of team nlu, spec revision 1; 1 dev row\n"
    assert answer.err == f"warning: task rte: there is no train data file {train} on this machine\n"


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
        "warning: task rte: no training row has 'maybe': no version can learn that\n",
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


def test_second_texts_that_a_task_of_single_texts_leaves_unread_are_told(trunkline: Any, task_file: TaskFile) -> None:
    file = task_file("rte")
    rows = [{"text": "c", "label": "not_entailment"}, {"text": "a", "text_pair": "b", "label": "entailment"}]
    write_rows(file, "train", *rows)
    write_rows(file, "dev", {"text": "d", "label": "entailment"})
    warned = (
        "warning: task rte: its train data have second texts ('text_pair'), which a task of single texts does not read"
    )
    told = trunkline("task", "check", file).err.splitlines()
    assert [line.partition(";")[0] for line in told] == [warned]
    write_rows(file, "train", *({**row, "text_pair": "b"} for row in rows))
    file.write_text(file.read_text() + "input_form: pair\n", encoding="utf-8")
    write_rows(file, "dev", {**rows[1], "text": "d"})
    assert trunkline("task", "check", file).err == ""


def test_a_definition_is_checked_with_its_data_where_there_is_no_registry(trunkline: Any, task_file: TaskFile) -> None:
    file = task_file("rte", labels="[yes, no, maybe]")
    train = write_rows(file, "train", *({"text": f"t{n}", "label": "no" if n else "yes"} for n in range(4)))
    write_rows(file, "dev", {"text": "d", "label": "yes"})
    away = ("--home", trunkline.folder / "elsewhere")
    told = trunkline(*away, "task", "check", file)
    assert (told.code, told.err) == (0, "warning: task rte: no training row has 'maybe': no version can learn that\n")
    lines = [line.split() for line in told.out.splitlines()]
    assert ["train", "data", "4", "rows,", str(train)] in lines
    assert ["no", "3", "(75%)", "0", "(0%)"] in lines
    assert trunkline(*away, "task", "check", file, "--json").json == {
        "task": "rte",
        "data": {
            "train": {"rows": 4, "counts": {"yes": 1, "no": 3, "maybe": 0}, "numbers": None},
            "dev": {"rows": 1, "counts": {"yes": 1, "no": 0, "maybe": 0}, "numbers": None},
        },
        "missing": [],
        "dev_rows_in_train": 0,
    }
    assert not (trunkline.folder / "elsewhere").exists()
    write_rows(file, "dev", {"text": "", "label": "perhaps"})
    refused = trunkline("task", "check", file)
    assert (refused.code, refused.out) == (1, "")
    assert "label 'perhaps' is not declared" in refused.err
    assert "--no-check-data" not in refused.err, "an option that it does not have"


def test_numbers_and_spans_are_shown_as_what_they_are(trunkline: Any, task_file: TaskFile) -> None:
    file = task_file("sim", type="regression", metric="pearson", labels="[]")
    for split in ("train", "dev"):
        write_rows(file, split, *({"text": f"{split}{n}", "label": n} for n in (1, 2, 4.5)))
    lines = [line.split() for line in trunkline.done("task", "check", file).splitlines()]
    assert lines[-3:] == [["least", "1", "1"], ["mean", "2.5", "2.5"], ["greatest", "4.5", "4.5"]]
    tagging = {"type": "token_classification", "tag_scheme": "bio", "metric": "entity_f1"}
    file = task_file("slots", labels="[city, day]", **tagging)
    tags = ["I-city", "I-city", "B-city", "I-day", "O", "I-day"]
    write_rows(file, "train", {"tokens": list("abcdef"), "tags": tags})
    file.write_text(file.read_text().replace("slots-dev", "slots-other"), encoding="utf-8")
    told = trunkline("task", "check", file)
    assert [line.split() for line in told.out.splitlines()][-2:] == [["city", "2"], ["day", "2"]]
    assert "there is no dev data file" in told.err
    assert trunkline("task", "check", file, "--json").json["dev_rows_in_train"] is None
