"""The main job on a real encoder and real text, in half a minute: what `make demo` does in full."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.main import main


def fewer_rows(folder: Path, *, train: int, dev: int) -> None:
    for split, rows in (("train", train), ("dev", dev)):
        path = folder / f"{split}.jsonl"
        path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:rows]), encoding="utf-8")


@pytest.mark.slow
def test_a_topic_task_is_learnt_distilled_released_and_answers(demo_data, minilm_folder, tmp_path, capsys):
    def run(*arguments: object) -> Any:
        environ = {"TRUNKLINE_ACTOR": "ann"}
        assert main([str(part) for part in arguments], environ=environ, cwd=tmp_path) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    files = {path.parent.name: path for path in demo_data.write_demo_data(tmp_path / "data")}
    fewer_rows(files["news-topic"].parent, train=600, dev=150)
    spec = yaml.safe_load(files["news-topic"].read_text(encoding="utf-8"))
    run("backbone", "pin", "minilm", minilm_folder)
    run("team", "create", "newsroom")
    run("task", "register", files["news-topic"], "--team", "newsroom")
    teacher = json.loads(run("train", "news-topic", "--layers", 2, "--epochs", 3, "--json"))
    student = json.loads(run("distil", "news-topic/1", "--layers", 1, "--epochs", 8, "--json"))
    # The most frequent of five topics is right for fewer than a third of the rows.
    assert teacher["metrics"][spec["metric"]] > 0.75
    assert student["metrics"][spec["metric"]] > 0.65
    run("task", "promote", "news-topic/2", "--alias", "champion")
    release = json.loads(run("release", "assemble", "--select", "champion", "--json"))
    assert release["layers"] == {"layers_in_use": 5, "layers_if_separate": 6}
    texts = tmp_path / "texts.txt"
    texts.write_text("the striker scored twice as the club won the cup final\nshares fell after profits dropped\n")
    lines = run("predict", "r1", "--input", texts, "--json").splitlines()
    assert [json.loads(line)["answers"]["news-topic"]["label"] for line in lines] == ["sports", "business"]
