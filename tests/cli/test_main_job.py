"""The main job as a user runs it: pin, register, train, distil, promote, assemble, show, predict."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet
import pytest
import yaml

from tests.cli.conftest import RUN, assembled


def test_a_version_records_what_made_it(trained):
    teacher, student = sorted(trained("task", "versions", "token", "--json").json, key=lambda v: v["number"])
    assert (teacher["kind"], teacher["frozen_depth"], teacher["task_layers"]) == ("teacher", 1, 3)
    assert (student["kind"], student["frozen_depth"], student["task_layers"]) == ("student", 2, 1)
    assert student["teacher"] == 1
    assert student["backbone"] == "small"
    assert student["spec_revision"] == 1
    assert student["recipe"]["distillation"] == {
        "initialisation": "teacher",
        "temperature": 2.0,
        "soft_weight": 0.7,
        "hidden_weight": 0.0,
    }
    assert student["recipe"]["learning_rate"] == 0.003
    assert student["statistic"] == "epoch 3, one run"
    assert set(student["metrics"]) == {"entity_f1", "accuracy", "f1_macro"}
    assert student["train_digest"] == teacher["train_digest"] != student["dev_digest"]
    assert {"python", "torch", "transformers", "device"} <= set(student["environment"])
    for blob in ("module", "golden", "dev_predictions"):
        assert (trained.home / "artifacts" / "sha256" / student[blob][:2] / student[blob][2:]).is_file()


def test_every_version_has_its_mlflow_run_with_recipe_curves_and_reference(trained):
    from mlflow import MlflowClient

    (student,) = [v for v in trained("task", "versions", "token", "--json").json if v["number"] == 2]
    client = MlflowClient(tracking_uri=f"sqlite:///{trained.home / 'mlflow.db'}")
    run = client.get_run(student["mlflow_run"])
    assert run.data.params["temperature"] == "2.0"
    assert run.data.params["frozen_depth"] == "2"
    assert run.data.tags["trunkline.version"] == "token/2"
    assert run.data.tags["trunkline.teacher"] == "token/1"
    assert run.data.metrics["best_dev_entity_f1"] == student["metrics"]["entity_f1"]
    assert [point.step for point in client.get_metric_history(run.info.run_id, "train_loss")] == [1, 2, 3]
    assert not (Path.cwd() / "mlruns").exists()
    assert not (trained.folder / "mlruns").exists()


def test_the_same_trial_is_not_run_again(trained):
    answer = trained("train", "token", "--layers", 3, *RUN, "--json")
    assert answer.code == 0
    assert answer.json["number"] == 1
    assert "has been run before: token/1" in answer.err
    assert len(trained("task", "versions", "token", "--json").json) == 2


def test_a_finished_trial_leaves_only_its_caches_behind(trained):
    assert {path.suffix for path in (trained.home / "trials").iterdir()} == {".lock"}
    activations = list((trained.home / "cache" / "activations").glob("*/*.safetensors"))
    # Train and dev at depths 1 and 2, for single sentences (which two tasks share) and for pairs.
    assert len(activations) == 8


def test_a_release_is_assembled_shown_and_asked(trained):
    release = assembled(trained)
    assert release["release"]["name"] == "r1"
    assert release["layers"] == {"layers_in_use": 2 + 3, "layers_if_separate": 12}
    shown = trained.done("release", "show", "r1")
    assert "2 shared + 3 task layers = 5, instead of 3 × 4 = 12 (42%)" in shown
    assert "■ layer 2    ─┬─■─▶ classification/2  classification" in shown
    assert "              └─■─▶ token/2           token_classification" in shown
    assert "· layer 3    not needed" in shown
    assert all(len(line) <= 80 for line in shown.splitlines())

    text = "anna saw new york"
    (line,) = trained.done("predict", "r1", text, "--json").splitlines()
    answers = json.loads(line)["answers"]
    assert set(answers) == {"classification", "token"}
    assert sum(answers["classification"]["probabilities"].values()) == pytest.approx(1)
    for span in answers["token"]["spans"]:
        assert text[span["start"] : span["end"]] == span["text"]
    (line,) = trained.done("predict", "latest", "anna", "--pair", "bob", "--json").splitlines()
    assert 80 < json.loads(line)["answers"]["regression"]["value"] < 120
    assert "classification" in trained.done("predict", "r1", text, "--tasks", "classification")


def test_the_same_selection_is_the_same_release(trained):
    first = assembled(trained)["release"]
    assert assembled(trained)["release"] == first
    lock = trained.folder / "lock.yaml"
    lock.write_text(trained.done("release", "lock", "r1"), encoding="utf-8")
    assert trained("release", "assemble", "--lock", lock, "--json").json["release"] == first
    named = [part for task in ("token@champion", "regression/2", "classification/2") for part in ("--task", task)]
    assert trained("release", "assemble", *named, "--json").json["release"] == first
    assert len(trained("release", "list", "--json").json) == 1


def test_a_draft_is_verified_and_what_a_damaged_blob_did_is_kept(trained):
    draft = trained("release", "assemble", "--select", "champion", "--draft", "--json").json["release"]
    assert (draft["state"], draft["gates"]) == ("draft", None)
    assert "not run yet" in trained.done("release", "show", "r1")
    verified = trained("release", "verify", "r1", "--json").json["release"]
    assert (verified["state"], verified["gates"]["passed"]) == ("verified", True)
    assert "golden answers alone and mixed" in trained.done("release", "show", "r1")
    assert verified["gates"] == assembled(trained)["release"]["gates"]
    _damage(trained, lambda data: data[:-1])
    failed = trained("release", "verify", "r1")
    assert (failed.code, "integrity of token" in failed.err) == (3, True)
    shown = trained("release", "show", "r1", "--json").json["release"]
    assert (shown["state"], shown["gates"]["passed"]) == ("verified", False)
    assert "FAILED the last time" in trained.done("release", "show", "r1")


def test_one_tasks_update_leaves_every_other_answer_as_it_was(trained):
    assembled(trained)
    trained.promote("classification/1", "--expect", "classification/2")
    second = assembled(trained)
    assert second["release"]["name"] == "r2"
    assert second["layers"]["layers_in_use"] == 2 + 1 + 1 + 3
    texts = trained.folder / "texts.jsonl"
    texts.write_text('{"text": "anna saw new york"}\n{"text": "bob", "text_pair": "the world"}\n', encoding="utf-8")
    answers = [
        [json.loads(line)["answers"] for line in trained.done("predict", name, "--input", texts, "--json").splitlines()]
        for name in ("r1", "r2")
    ]
    before, after = answers
    assert before[0]["token"] == after[0]["token"]
    assert before[1]["regression"]["value"] == after[1]["regression"]["value"]
    assert before[0]["classification"]["probabilities"] != after[0]["classification"]["probabilities"]


def test_json_lines_with_pairs_are_read_from_a_file(trained):
    assembled(trained)
    rows = trained.folder / "rows.jsonl"
    rows.write_text('{"text": "anna"}\n{"text": "anna", "text_pair": "bob"}\n', encoding="utf-8")
    lines = trained.done("predict", "r1", "--input", rows, "--json").splitlines()
    assert [set(json.loads(line)["answers"]) for line in lines] == [{"classification", "token"}, {"regression"}]


def test_a_retired_task_takes_no_training_and_no_place(trained):
    trained.done("task", "retire", "token", "--reason", "nobody asks")
    refused = trained("train", "token", "--layers", 2)
    assert refused.code == 4
    assert "token is retired" in refused.problem
    refused = trained("release", "assemble", "--task", "token/2")
    assert refused.code == 4
    assert "retired tasks take no place in a new release: token" in refused.problem
    assert set(assembled(trained)["release"]["tasks"]) == {"classification", "regression"}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("train", "token", "--layers", 5), 2, "a branch can have 1 to 4, not 5; choose --layers in that range"),
        (("train", "token", "--layers", 0), 2, "a branch can have 1 to 4, not 0"),
        (("train", "token", "--layers", 2, "--lr", "0"), 2, "recipe: learning_rate"),
        (("train", "token", "--layers", 2, "--lr", "nan"), 2, "recipe: learning_rate"),
        (("train", "token", "--layers", 2, "--seed", 2**63), 2, "seed"),
        (("train", "nothing", "--layers", 2), 1, "no task 'nothing'"),
        (("train", "../token", "--layers", 2), 2, "is not a name"),
        (("train", "token", "--layers", 2, "--backbone", "large"), 1, "no backbone 'large'"),
        (("train", "token", "--layers", 2, "--device", "abacus"), 2, "--device abacus"),
        (("distil", "token/1", "--layers", 1, "--depth", 0), 2, "choose a depth >= 1"),
        (("distil", "token/1", "--layers", 3, "--depth", 2), 2, "do not fit"),
        (("distil", "token/2", "--layers", 1), 2, "distil its teacher, token/1"),
        (("distil", "token/9", "--layers", 1), 1, "token/9"),
        (("distil", "token@best", "--layers", 1), 1, "best"),
        (("distil", "token", "--layers", 1), 2, "is no reference to a version"),
        (("distil", "token/1", "--layers", 1, "--soft-weight", "2"), 2, "soft_weight"),
        (("distil", "token/1", "--layers", 1, "--hidden-weight", "-1"), 2, "hidden_weight"),
        (("distil", "token/1", "--layers", 1, "--init", "nobody"), 2, "--init"),
        (("train", "token", "--layers", 2, "--pooling", "mean"), 2, "pooling: a token_classification head reads the"),
        (("train", "token", "--layers", 2, "--gather", "lots"), 2, "--gather"),
        (("train", "regression", "--layers", 2, "--crf"), 2, "cannot have this head: crf: only tags follow each other"),
        (("release", "assemble"), 2, "exactly one of --select ALIAS, --lock FILE and --task VERSION"),
        (("release", "assemble", "--select", "nobody"), 2, "no version is selected"),
        (("release", "assemble", "--task", "token/1", "--task", "token/2"), 2, "selected twice: token"),
        (("release", "show", "r9"), 1, "r9"),
        (("predict", "r9", "hello"), 1, "r9"),
        (("predict", "r9"), 2, "either a TEXT or --input FILE"),
        (("predict", "r9", "hello", "--tasks", ","), 2, "names no task"),
        (("predict", "r9", "--input", "missing.txt"), 1, "missing.txt"),
    ],
)  # fmt: skip
def test_a_wrong_command_is_one_clear_line_and_changes_nothing(trained, arguments, code, said):
    before = trained("audit", "list", "--json").json
    answer = trained(*arguments)
    assert answer.code == code
    assert said in answer.problem
    assert trained("audit", "list", "--json").json == before


@pytest.mark.parametrize(
    ("kind", "split", "rows", "said"),
    [
        ("classification", "train", '{"text": "a", "label": "village"}\n', "label 'village' is not declared"),
        ("classification", "train", "", "holds no rows"),
        ("classification", "train", '{"text": "a", "label": "city"}\n' * 2, "nothing to learn"),
        ("regression", "dev", '{"text": "a", "text_pair": "b", "label": NaN}\n', "line 1"),
        ("token_classification", "train", '{"tokens": ["a", "b"], "tags": ["O"]}\n', "2 tokens"),
        ("token_classification", "dev", '{"tokens": ["a"], "tags": ["B-village"]}\n', "B-village"),
        ("classification", "train", '{"text": "a", "label": "city"\n', "line 1"),
    ],
)  # fmt: skip
def test_bad_data_are_refused_before_training_naming_file_and_line(trained, kind, split, rows, said):
    task = kind.split("_")[0]
    path = Path(trained("task", "show", task, "--json").json["spec"]["data"][split])
    whole = path.read_bytes()
    path.write_text(rows, encoding="utf-8")
    try:
        answer = trained("train", task, "--layers", 2)
    finally:
        path.write_bytes(whole)
    assert answer.code == 1
    assert said in answer.err
    assert f"task {task}, {split}" in answer.err
    assert path.name in answer.err
    assert len(trained("task", "versions", task, "--json").json) == 2


def _damage(trained, how: Callable[[bytearray], bytes]) -> None:
    (version,) = [v for v in trained("task", "versions", "token", "--json").json if v["number"] == 2]
    blob = trained.home / "artifacts" / "sha256" / version["module"][:2] / version["module"][2:]
    blob.chmod(0o644)
    blob.write_bytes(how(bytearray(blob.read_bytes())))


@pytest.mark.parametrize(
    "how",
    [lambda data: data[:-1], lambda data: data[:-1] + bytes([data[-1] ^ 1]), lambda data: b"\x80\x04." + data[3:]],
    ids=["truncated", "bit-flipped", "pickled"],
)
def test_damaged_weights_are_refused_naming_the_version_and_nothing_is_registered(trained, how):
    _damage(trained, how)
    answer = trained("release", "assemble", "--select", "champion")
    assert answer.code == 3
    told = " ".join(answer.out.split())
    assert "integrity token FAILED the module of token/2: blob" in told
    assert "damaged" in told
    assert trained("release", "list", "--json").json == []


def test_answers_are_shown_as_a_table_of_tasks(trained):
    assembled(trained)
    shown = trained.done("predict", "r1", "anna saw new york")
    assert shown.splitlines()[0] == "anna saw new york"
    assert "classification  " in shown
    assert "%)" in shown
    assert "anna  |  bob" in trained.done("predict", "r1", "anna", "--pair", "bob")


@pytest.mark.parametrize(
    ("content", "forms"),
    [
        ("anna\nbob\n", ["single", "single"]),
        ('{"text": "anna"}\n{"text": "anna", "text_pair": "bob"}\n', ["single", "pair"]),
    ],
)
def test_texts_or_json_lines_are_read_from_standard_input(trained, monkeypatch, content, forms):
    assembled(trained)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    rows = [json.loads(line) for line in trained.done("predict", "r1", "--input", "-", "--json").splitlines()]
    assert ["pair" if "regression" in row["answers"] else "single" for row in rows] == forms


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", '\ufeff{"text": "anna\u2028saw new york"}\n'),
        ("texts.txt", "\ufeffanna\u2028saw new york\n"),
        ("rows.csv", 'text\n"anna\u2028saw new york"\n'),
    ],
)
def test_only_a_line_feed_ends_a_text_and_a_byte_order_mark_is_none(trained, name, content):
    assembled(trained)
    (trained.folder / name).write_text(content, encoding="utf-8")
    (line,) = trained.done("predict", "r1", "--input", name, "--json").removesuffix("\n").split("\n")
    assert json.loads(line)["text"] == "anna\u2028saw new york"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("texts.txt", b"\n \n", "holds no text"),
        ("texts.txt", b"\xff\xfe", "byte 1 is not UTF-8"),
        ("texts.jsonl", b'{"text": "a"}\n{"text": 1}\n{"text": " "}\n', "2 problems"),
        ("texts.jsonl", b'{"text": "a"}\nnot json\n', "line 2: is not JSON"),
        ("texts.jsonl", b'{"text": "a", "text_pair": 2}\n', "line 1: needs"),
    ],
)
def test_an_input_that_cannot_be_read_is_refused_naming_its_lines(trained, name, content, said):
    assembled(trained)
    (trained.folder / name).write_bytes(content)
    answer = trained("predict", "r1", "--input", name)
    assert answer.code == 1
    assert said in answer.err
    assert f"input {name}" in answer.err


def test_texts_and_pairs_are_read_from_parquet(trained):
    assembled(trained)
    table = {"text": ["anna saw new york", "anna"], "text_pair": [None, "bob"], "vector": [[[0.5]], [[0.5]]]}
    pyarrow.parquet.write_table(pyarrow.table(table), trained.folder / "texts.parquet")
    lines = trained.done("predict", "r1", "--input", "texts.parquet", "--json").splitlines()
    assert [json.loads(line)["text"] for line in lines] == table["text"]
    assert ["regression" in json.loads(line)["answers"] for line in lines] == [False, True]
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", None]}), trained.folder / "texts.parquet")
    answer = trained("predict", "r1", "--input", "texts.parquet")
    assert (answer.code, "row 2: needs" in answer.err) == (1, True)


def test_a_tracking_server_that_fails_costs_the_run_and_not_the_module(trained, caplog):
    trained.environ["MLFLOW_TRACKING_URI"] = "nowhere://at.all"
    answer = trained("train", "classification", "--layers", 1, *RUN, "--json")
    assert answer.code == 0, answer.err
    assert answer.json["number"] == 3
    assert answer.json["mlflow_run"] is None
    assert "the version is registered without it" in caplog.text


def test_a_closed_tracking_server_is_given_up_soon_and_its_password_not_shown(trained, caplog):
    trained.environ["MLFLOW_TRACKING_URI"] = "http://ada:s3cret@127.0.0.1:9"
    answer = trained("train", "classification", "--layers", 1, *RUN, "--json")
    assert answer.code == 0, answer.err
    assert answer.json["mlflow_run"] is None
    assert "127.0.0.1:9" in caplog.text
    assert "s3cret" not in caplog.text + answer.err + answer.out


@pytest.mark.parametrize("change", [{"labels": ["city", "other"]}, {"input_form": "pair"}])
def test_a_teacher_of_other_labels_or_input_form_is_refused(trained, change):
    spec = trained("task", "show", "classification", "--json").json["spec"] | change
    path = trained.folder / "swapped.yaml"
    path.write_text(yaml.safe_dump(spec), encoding="utf-8")
    updated = trained("task", "update", path, "--no-check-data")
    assert updated.code == 0
    assert "champion 2 answers as revision 1 defined it" in updated.err
    answer = trained("distil", "classification/1", "--layers", 1)
    assert answer.code == 2
    assert "another type, input form or labels than spec revision 2" in answer.problem


def test_a_version_is_shown_with_everything_that_made_it(trained):
    shown = trained.done("version", "show", "token@champion")
    for part in (
        "token/2 (student)",
        "teacher        token/1",
        "head           type token_classification, outputs 3, pooling first",
        "distillation.initialisation teacher",
        "temperature 2.0",
        "epochs 3",
        "spec revision  1",
        "seed",
    ):
        assert part in shown
    assert trained("version", "show", "token/2", "--json").json["number"] == 2


def test_head_and_distillation_are_chosen_recorded_and_served(trained):
    pooled = trained("train", "classification", "--layers", 2, "--pooling", "mean", "--gather", "mix", *RUN, "--json")
    assert pooled.code == 0, pooled.err
    assert pooled.json["head"] == {"type": "classification", "outputs": 2, "pooling": "mean", "gather": "mix"}
    options = ("--init", "backbone", "--hidden-weight", 0.5, "--temperature", 3, "--soft-weight", 0.6)
    student = trained("distil", "classification/3", "--layers", 1, *options, *RUN, "--json")
    assert student.code == 0, student.err
    assert student.json["head"] == pooled.json["head"]
    assert student.json["recipe"]["distillation"] == {
        "initialisation": "backbone",
        "temperature": 3.0,
        "soft_weight": 0.6,
        "hidden_weight": 0.5,
    }
    tagger = trained("train", "token", "--layers", 2, "--crf", *RUN, "--json")
    assert tagger.json["head"] == {"type": "token_classification", "outputs": 3, "pooling": "first", "crf": True}
    assert "crf True" in trained.done("version", "show", "token/3")
    assert trained("release", "assemble", "--task", "classification/4", "--task", "token/3").code == 0
    (line,) = trained.done("predict", "r1", "anna saw new york", "--json").splitlines()
    answers = json.loads(line)["answers"]
    assert answers["classification"]["label"] in {"city", "other"}
    assert all(0 < span["probability"] <= 1 for span in answers["token"]["spans"])


def test_a_student_far_below_its_teacher_is_warned_about(trained):
    answer = trained("distil", "classification/1", "--layers", 1, "--epochs", 1, "--lr", "1e-9")
    assert answer.code == 0
    assert "% of its teacher's accuracy" in answer.err
    assert "(this run: 1)" in answer.err
    assert "teacher     classification/1, accuracy 0." in answer.out


def test_damaged_blobs_of_a_version_are_mended_by_its_own_trial(trained):
    _damage(trained, lambda data: data[:-1])
    again = trained("distil", "token/1", "--layers", 1, "--depth", 2, *RUN)
    assert again.code == 0, again.err
    assert "token/2: mended by running its trial again" in again.err
    assert trained("release", "assemble", "--select", "champion").code == 0


def test_assembling_a_known_selection_says_which_release_it_is(trained):
    assembled(trained)
    again = ("release", "assemble", "--select", "champion")
    assert trained(*again).err == "this selection has been assembled before: it is r1\n"
    trained("release", "assemble", "--task", "token/2")
    assert trained(*again).err == "this selection has been assembled before: it is r1; latest is still r2\n"


def test_a_text_longer_than_the_backbone_reads_is_answered_with_a_warning(trained):
    assembled(trained)
    answer = trained("predict", "r1", "anna saw new york " * 30)
    assert answer.code == 0
    assert "text 1 is longer than 40 tokens: its end was not read" in answer.err
    (line,) = trained.done("predict", "r1", "anna", "--json").splitlines()
    assert json.loads(line)["truncated"] is False


def test_a_damaged_backbone_blob_is_named_and_mended_by_pinning_again(trained, pinned):
    assembled(trained)
    blob = trained("backbone", "show", "small", "--json").json["layers"][0]
    path = trained.home / "artifacts" / "sha256" / blob[:2] / blob[2:]
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])
    refused = trained("predict", "r1", "anna")
    assert refused.code == 1
    assert "the backbone's layer 1" in refused.problem
    assert "trunkline backbone pin" in refused.problem
    assert trained("backbone", "pin", "small", pinned.backbone.source).code == 0
    assert trained("predict", "r1", "anna").code == 0
