"""`release export`: one file, or a folder for transformers, each asked in a fresh process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.cli.conftest import Trunkline, assembled

ASK = """
import sys
class Refusal:
    def find_spec(self, name, path, target=None):
        assert name.partition(".")[0] not in ("modeling", "pipelines", "registry", "serving", "cli"), name
sys.meta_path.insert(0, Refusal())
from transformers import AutoModel, AutoTokenizer
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)
logits = model(**tokenizer([sys.argv[2]], return_tensors="pt"), tasks=["classification"]).logits["classification"]
print(model.config.tasks["classification"]["labels"][int(logits[0].argmax())])
"""


@pytest.fixture
def released(trained: Trunkline) -> Trunkline:
    assembled(trained)
    return trained


def exported(trunkline: Trunkline, form: str, to: object, *options: str) -> str:
    """What the command prints; on a busy machine it also says on stderr how far it is."""
    answer = trunkline("release", "export", "r1", "--format", form, "--to", to, *options)
    assert answer.code == 0, answer.err
    return answer.out


def test_a_single_file_holds_the_whole_release(released: Trunkline, tmp_path: Path) -> None:
    found = json.loads(exported(released, "safetensors-single", "r1.safetensors", "--json"))
    assert {task: parity["passed"] for task, parity in found["parity"].items()} == dict.fromkeys(
        ("classification", "regression", "token"), True
    )
    manifest = json.loads(released.done("release", "show", "r1", "--json"))
    with safe_open(tmp_path / "r1.safetensors", "pt") as file:
        assert json.loads(file.metadata()["trunkline_manifest"]) == manifest["manifest"]
        names = set(file.keys())
    assert {"tasks.token.head.linear.weight", "trunk.tokenizer"} <= names
    digest = manifest["release"]["manifest"]
    here = released.done("predict", "r1", "the dog runs", "--json")
    assert digest in released.done("release", "unpack", "r1.safetensors", "elsewhere")
    assert released.done("predict", "--from", "elsewhere", digest, "the dog runs", "--json") == here


def test_a_folder_is_loaded_by_transformers_alone(released: Trunkline, tmp_path: Path) -> None:
    exported(released, "hf", "model")
    text = "the dog runs"
    answers = json.loads(released.done("predict", "r1", text, "--json"))["answers"]
    asked = subprocess.run(
        [sys.executable, "-I", "-c", ASK, str(tmp_path / "model"), text],
        env=os.environ | {"HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.strip() == answers["classification"]["label"]
    card = (tmp_path / "model" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "AutoModel.from_pretrained" in card


@pytest.mark.parametrize("form", ["hf", "safetensors-single"])
def test_what_is_there_already_is_not_written_over(released: Trunkline, tmp_path: Path, form: str) -> None:
    (tmp_path / "there").write_text("mine")
    answer = released("release", "export", "r1", "--format", form, "--to", "there")
    assert answer.code == 2
    assert "is there already" in answer.problem
    assert (tmp_path / "there").read_text() == "mine"


def test_a_retired_release_is_not_exported(released: Trunkline) -> None:
    released.done("release", "retire", "r1", "--reason", "wrong")
    answer = released("release", "export", "r1", "--format", "hf", "--to", "model")
    assert answer.code != 0
    assert not (released.folder / "model").exists()


def test_a_file_that_was_changed_is_not_unpacked(released: Trunkline, tmp_path: Path) -> None:
    path = tmp_path / "r1.safetensors"
    exported(released, "safetensors-single", path)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1  # in what comes last: the bytes of a document
    path.write_bytes(data)
    answer = released("release", "unpack", path, "elsewhere")
    assert answer.code == 1
    assert "is not what the manifest names" in answer.problem
    path.write_bytes(data[: len(data) // 2])
    assert "is not a whole safetensors file" in released("release", "unpack", path, "elsewhere").problem
