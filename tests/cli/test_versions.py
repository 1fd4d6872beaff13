"""Modules that were trained elsewhere, imported by the command: here, in another registry."""

import json
import re
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tokenizers import Tokenizer
from transformers import BertConfig, BertForTokenClassification

RUN = ("--epochs", "12", "--lr", "0.003", "--precision", "fp32")
KINDS = ("classification", "regression", "token_classification")


def register_tasks(trunkline: Any, pinned: Any, labelled: Any) -> None:
    trunkline.done("backbone", "pin", "small", pinned.backbone.source)
    trunkline.done("team", "create", "nlu")
    for kind in KINDS:
        task = labelled(kind)
        content = task.fields | {"task": kind.split("_")[0], "data": task.write(trunkline.folder)}
        path = trunkline.folder / f"{kind}.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        trunkline.done("task", "register", path, "--team", "nlu")


@pytest.fixture(scope="module")
def kept_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trained")


@pytest.fixture
def elsewhere(trunkline: Any, pinned: Any, labelled: Any, kept_folder: Path) -> dict[str, dict[str, Any]]:
    """By task, a version that another registry trained, with `file`: a copy of its weights. Trained once."""
    told = kept_folder / "versions.json"
    if not told.exists():
        other = ("--home", kept_folder / "home")
        trunkline(*other, "db", "upgrade")
        for kind in KINDS:
            data = labelled(kind).write(trunkline.folder)
            path = trunkline.folder / f"{kind}.yaml"
            path.write_text(yaml.safe_dump(labelled(kind).fields | {"task": kind.split("_")[0], "data": data}))
        trunkline.done(*other, "backbone", "pin", "small", pinned.backbone.source)
        trunkline.done(*other, "team", "create", "nlu")
        versions = {}
        for kind in KINDS:
            task = kind.split("_")[0]
            trunkline.done(*other, "task", "register", trunkline.folder / f"{kind}.yaml", "--team", "nlu")
            version = trunkline(*other, "train", task, "--layers", 2, *RUN, "--json").json
            blob = kept_folder / "home" / "artifacts" / "sha256" / version["module"][:2] / version["module"][2:]
            shutil.copy(blob, kept_folder / f"{task}.safetensors")
            versions[task] = version | {"file": str(kept_folder / f"{task}.safetensors")}
        told.write_text(json.dumps(versions))
    register_tasks(trunkline, pinned, labelled)
    return json.loads(told.read_bytes())


@pytest.fixture
def manifest(trunkline: Any) -> Callable[..., Path]:
    """Writes what the version says of itself, with changes; a field that is None is left out."""

    def write(version: dict[str, Any], *, name: str = "module.yaml", **changes: Any) -> Path:
        fields = ("backbone", "frozen_depth", "task_layers", "kind", "prefix_digest", "metrics", "recipe", "seed")
        content = {field: version[field] for field in fields} | changes
        path = trunkline.folder / name
        content = {field: value for field, value in content.items() if value is not None}
        path.write_text(json.dumps(content) if name.endswith(".json") else yaml.safe_dump(content), encoding="utf-8")
        return path

    return write


def imported(trunkline: Any, version: dict[str, Any], path: Path, *options: object) -> Any:
    answer = trunkline("version", "import", version["task"], version["file"], "--manifest", path, *options, "--json")
    assert answer.code == 0, answer.err
    return answer.json


def test_an_imported_module_is_a_version_like_any_other(
    trunkline: Any, elsewhere: dict[str, dict[str, Any]], manifest: Callable[..., Path]
) -> None:
    for task, trained in elsewhere.items():
        version = imported(trunkline, trained, manifest(trained))
        same = ("module", "golden", "dev_predictions", "metrics", "train_digest", "dev_digest", "head", "prefix_digest")
        assert {field: version[field] for field in same} == {field: trained[field] for field in same}
        assert (version["number"], version["seed"], version["mlflow_run"]) == (1, trained["seed"], None)
        assert version["statistic"] == "imported, evaluated here"
        assert version["recipe"]["imported"]["recipe"]["learning_rate"] == "0.003"
        trunkline.promote(f"{task}/1")
    student = trunkline("distil", "token/1", "--layers", 1, "--depth", 3, *RUN, "--json")
    assert (student.code, student.json["teacher"]) == (0, 1), student.err

    release = trunkline("release", "assemble", "--select", "champion", "--json").json
    assert release["release"]["tasks"] == dict.fromkeys(("classification", "regression", "token"), 1)
    (line,) = trunkline.done("predict", "r1", "anna saw new york", "--json").splitlines()
    assert set(json.loads(line)["answers"]) == {"classification", "token"}


def test_the_same_module_again_is_the_version_that_exists(
    trunkline: Any, elsewhere: dict[str, dict[str, Any]], manifest: Callable[..., Path]
) -> None:
    trained = elsewhere["classification"]
    first = imported(trunkline, trained, manifest(trained))
    before = trunkline("audit", "list", "--json").json
    again = trunkline(
        "version", "import", "classification", trained["file"], "--manifest", manifest(trained, notes="again"), "--json"
    )
    assert (again.code, again.json) == (0, first)
    assert again.err == "this module has been imported before: it is classification/1\n"
    assert trunkline("audit", "list", "--json").json == before


def test_importing_again_mends_a_damaged_blob(
    trunkline: Any, elsewhere: dict[str, dict[str, Any]], manifest: Callable[..., Path]
) -> None:
    trained = elsewhere["classification"]
    version = imported(trunkline, trained, manifest(trained))
    for part in ("module", "golden", "dev_predictions"):
        blob = trunkline.home / "artifacts" / "sha256" / version[part][:2] / version[part][2:]
        whole = blob.read_bytes()
        blob.unlink()
        blob.write_bytes(whole[:-1])
        imported(trunkline, trained, manifest(trained))
        assert blob.read_bytes() == whole


def test_a_manifest_may_be_json_and_what_it_says_is_shown(
    trunkline: Any, elsewhere: dict[str, dict[str, Any]], manifest: Callable[..., Path]
) -> None:
    trained = elsewhere["regression"]
    path = manifest(trained, name="module.json", trained_by="bob", notes="on his own machine", metrics=None)
    assert imported(trunkline, trained, path)["recipe"]["imported"]["recipe"]["learning_rate"] == 0.003
    shown = trunkline.done("version", "show", "regression/1")
    for part in ("(teacher)", "imported, evaluated here", "as told notes on his own machine, seed 0, trained_by bob"):
        assert part in " ".join(shown.split())


def test_a_module_comes_with_the_head_that_its_manifest_describes(trunkline, pinned, labelled, manifest):
    register_tasks(trunkline, pinned, labelled)
    trained = trunkline("train", "token", "--layers", 2, "--crf", "--epochs", 1, "--lr", "0.003", "--json").json
    blob = trunkline.home / "artifacts" / "sha256" / trained["module"][:2] / trained["module"][2:]
    version = trained | {"file": str(blob)}
    refused = trunkline("version", "import", "token", blob, "--manifest", manifest(version))
    assert refused.code == 1
    assert "tensor head.crf.between does not belong there" in refused.problem
    found = imported(trunkline, version, manifest(version, crf=True))
    assert (found["head"], found["metrics"]) == (trained["head"], trained["metrics"])
    assert found["head"]["crf"] is True


def test_a_student_names_its_teacher_and_is_held_to_it(
    trunkline: Any, elsewhere: dict[str, dict[str, Any]], manifest: Callable[..., Path]
) -> None:
    teacher = elsewhere["classification"]
    imported(trunkline, teacher, manifest(teacher))
    student = imported(trunkline, teacher, manifest(teacher, kind="student", teacher=1))
    assert (student["number"], student["kind"], student["teacher"]) == (2, "student", 1)
    for changes, said in (
        ({"kind": "student", "teacher": 2}, "classification/2 is a student: only a teacher can be distilled"),
        ({"kind": "student", "teacher": 9}, "no version classification/9"),
        ({"kind": "student"}, "teacher: is missing"),
        ({"teacher": 1}, "teacher: only a student has one"),
        (
            {"kind": "student", "teacher": 1, "frozen_depth": 1, "prefix_digest": None},
            "its frozen depth 1 is less than 2",
        ),
    ):
        path = manifest(teacher, **changes)
        refused = trunkline("version", "import", "classification", teacher["file"], "--manifest", path)
        assert (refused.code, said in refused.err) == (1, True), refused.err


def test_all_problems_of_a_manifest_are_reported_at_once(
    trunkline: Any, elsewhere: dict[str, dict[str, Any]], manifest: Callable[..., Path]
) -> None:
    def problems(**changes: Any) -> list[str]:
        trained = elsewhere["classification"]
        path = manifest(trained, **changes)
        answer = trunkline("version", "import", "classification", trained["file"], "--manifest", path)
        assert (answer.code, answer.out) == (1, "")
        first, *rest = answer.err.splitlines()
        assert first.startswith(f"error: manifest {path}: ")
        return [line.strip(" -") for line in rest] or [first.partition(f"{path}: ")[2]]

    unreadable = problems(backbone="A b", kind="student", metrics={"beauty": 1}, colour="red", seed=-1, task_layers=0)
    assert [line.split(":")[0] for line in unreadable] == [
        "backbone",
        "task_layers",
        "metrics.beauty.[key]",
        "seed",
        "colour",
        "teacher",
    ]
    unfit = problems(task_layers=9, metrics={"pearson": 1.0}, kind="student", teacher=7)
    assert len(unfit) == 3
    assert "no version classification/7" in unfit[0]
    assert unfit[1].startswith("metrics.pearson: is not one of a classification task")
    assert "frozen depth 2 + 9 task layers is 11, but backbone small has 4 layers" in unfit[2]
    nowhere = problems(backbone="large", spec_revision=7)
    assert ["no spec revision 7" in nowhere[0], "no backbone 'large'" in nowhere[1]] == [True, True]
    (prefix,) = problems(prefix_digest="f" * 64)
    assert "trained on another P(2) (ffffffffffff…) than that of backbone small" in prefix
    (claim,) = problems(metrics={"accuracy": 0.123})
    assert "metrics.accuracy: claims 0.1230, but on the task's dev data the module reaches" in claim
    assert trunkline("task", "versions", "classification", "--json").json == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("- a list\n", "is not a mapping of fields"),
        ("backbone: [small\n", "line 2, column 1"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_file_that_is_no_manifest_is_one_clear_line(
    trunkline: Any, elsewhere: dict[str, dict[str, Any]], content: str | None, said: str
) -> None:
    if content is not None:
        (trunkline.folder / "m.yaml").write_text(content)
    file = elsewhere["classification"]["file"]
    assert said in trunkline("version", "import", "classification", file, "--manifest", "m.yaml").problem
    (trunkline.folder / "m.json").write_text('{"recipe": {"x": NaN}}')
    answer = trunkline("version", "import", "classification", file, "--manifest", "m.json")
    assert answer.problem.endswith("m.json: is not JSON: NaN is no number")


def test_weights_of_another_task_or_none_are_refused(
    trunkline: Any, elsewhere: dict[str, dict[str, Any]], manifest: Callable[..., Path]
) -> None:
    trained = elsewhere["classification"]
    path = manifest(trained)
    other = trunkline("version", "import", "classification", elsewhere["token"]["file"], "--manifest", path)
    assert other.code == 1
    assert "tensor head.linear.weight has shape [3, 24], not [2, 24]" in other.problem
    missing = trunkline("version", "import", "classification", "nothing.safetensors", "--manifest", path)
    assert "nothing.safetensors: cannot be read" in missing.problem
    lower = manifest(trained, frozen_depth=0, prefix_digest=None)
    moved = trunkline("version", "import", "classification", trained["file"], "--manifest", lower)
    assert "metrics.accuracy: claims" in moved.err, "elsewhere on the trunk it does not reach what it reached"
    assert trunkline("task", "versions", "classification", "--json").json == []


def test_a_retired_or_unknown_task_takes_no_import(
    trunkline: Any, elsewhere: dict[str, dict[str, Any]], manifest: Callable[..., Path]
) -> None:
    trained = elsewhere["classification"]
    trunkline.done("task", "retire", "classification", "--reason", "over")
    path = manifest(trained)
    assert trunkline("version", "import", "classification", trained["file"], "--manifest", path).code == 4
    assert trunkline("version", "import", "mood", trained["file"], "--manifest", path).code == 1
    assert trunkline("version", "import", "a/b", trained["file"], "--manifest", path).code == 2


def test_stated_training_data_are_kept_and_need_not_be_here(
    trunkline: Any, elsewhere: dict[str, dict[str, Any]], manifest: Callable[..., Path]
) -> None:
    trained = elsewhere["classification"]
    Path(trunkline("task", "show", "classification", "--json").json["spec"]["data"]["train"]).unlink()
    refused = trunkline("version", "import", "classification", trained["file"], "--manifest", manifest(trained))
    assert "train data" in refused.problem
    version = imported(trunkline, trained, manifest(trained, train_digest="a" * 64))
    assert version["train_digest"] == version["recipe"]["imported"]["train_digest"] == "a" * 64


@pytest.fixture
def tagger(trunkline: Any, pinned: Any) -> BertForTokenClassification:
    """A model as transformers saves it, in `my-tagger`: the backbone's bottom two layers, others above, labels in an
    order of its own."""
    labels = ["I-city", "O", "B-city"]
    config = BertConfig(
        **pinned.backbone.config
        | {"id2label": dict(enumerate(labels)), "label2id": {label: number for number, label in enumerate(labels)}}
    )
    torch.manual_seed(7)
    model = BertForTokenClassification(config).eval()
    model.bert.load_state_dict(pinned.model.state_dict())
    with torch.no_grad():
        for parameter in [*model.bert.encoder.layer[2:].parameters(), model.classifier.weight]:
            parameter.add_(torch.randn_like(parameter) * 0.3)
    model.save_pretrained(trunkline.folder / "my-tagger")
    model.bert.save_pretrained(trunkline.folder / "my-encoder")
    shutil.copy(Path(pinned.backbone.source) / "tokenizer.json", trunkline.folder / "my-encoder")
    return model


def code(language: str) -> str:
    document = (Path(__file__).parents[2] / "docs" / "modules.md").read_text(encoding="utf-8")
    (block,) = re.findall(rf"^```{language}\n(.*?)^```", document, re.DOTALL | re.MULTILINE)
    return block


def test_the_example_of_the_documents_answers_as_the_model_it_was_made_of(
    trunkline: Any, pinned: Any, labelled: Any, tagger: BertForTokenClassification, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trunkline.folder)
    Path("example.py").write_text(code("python"), encoding="utf-8")
    runpy.run_path("example.py")
    task = yaml.safe_load(code("yaml")) | {"data": labelled("token_classification").write(trunkline.folder)}
    Path("places.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    trunkline.done("backbone", "pin", "small", pinned.backbone.source)
    trunkline.done("team", "create", "nlu")
    trunkline.done("task", "register", "places.yaml", "--team", "nlu")
    answer = trunkline("version", "import", "places", "module.safetensors", "--manifest", "module.json", "--json")
    assert answer.code == 0, answer.err

    version = answer.json
    golden = json.loads(
        (trunkline.home / "artifacts" / "sha256" / version["golden"][:2] / version["golden"][2:]).read_bytes()
    )
    tokenizer = Tokenizer.from_file(str(Path(pinned.backbone.source) / "tokenizer.json"))
    for example in golden["examples"]:
        encoded = tokenizer.encode(example["text"])
        with torch.inference_mode():
            (logits,) = tagger(torch.tensor([encoded.ids])).logits
        first = {word: place for place, word in reversed(list(enumerate(encoded.word_ids))) if word is not None}
        expected = logits[[first[word] for word in sorted(first)]][:, [1, 2, 0]]
        torch.testing.assert_close(torch.tensor(example["outputs"]), expected, atol=1e-4, rtol=0)


def test_pinning_tells_how_deep_another_training_left_the_backbone_alone(
    trunkline: Any, pinned: Any, tagger: BertForTokenClassification
) -> None:
    scratch = ("--home", trunkline.folder / "scratch")
    trunkline(*scratch, "backbone", "pin", "base", pinned.backbone.source)
    trunkline.done(*scratch, "backbone", "pin", "tuned", trunkline.folder / "my-encoder")
    assert "share depths 0 to 2 and part at depth 3" in trunkline.done(*scratch, "backbone", "diff", "base", "tuned")
