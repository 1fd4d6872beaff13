"""Each benchmark whole, as a user starts it, on an encoder of three small layers."""

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import pin, small_config

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmarks")
    pin(folder / "pinned", small_config(num_hidden_layers=3))
    names = ["ABBR", "DESC"]
    for split, count in (("train", 48), ("dev", 24)):
        path = folder / "data" / "trec" / f"{split}.jsonl.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            {"text": f"{'hello new' if row % 2 else 'the world'} {split} {row}", "label": names[row % 2]}
            for row in range(count)
        ]
        with gzip.open(path, "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return folder


def run(name: str, place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return started(name, place, "--home", str(place / Path(name).stem), "--tasks", "trec", *arguments)


def started(name: str, place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (model,) = (path.parent for path in (place / "pinned").rglob("config.json"))
    command = [sys.executable, str(BENCHMARKS / name), "--model", str(model), "--data", str(place / "data")]
    return subprocess.run(
        [*command, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=place,
        env=os.environ | {"HOME": str(place)},
    )


SEARCH: Sequence[str] = (
    "--layers", "1,2", "--measured-layers", "1,2", "--students", "1", "--seeds", "2", "--pool-seeds", "2",
    "--repetitions", "2", "--epochs", "2", "--student-epochs", "2", "--sample-rows", "32", "--repeats", "1",
)  # fmt: skip


@pytest.mark.slow
def test_the_comparison_of_search_costs_runs_and_goes_on_without_running_anything_again(place: Path) -> None:
    done = run("search_cost.py", place, *SEARCH, "--parts", "units,whole,quality,trainer", "--trainer-runs", "1")
    assert done.returncode == 0, done.stderr
    for title in ("seconds, median of rounds", "trec: cost", "quality of what was chosen", "whole Trainer runs"):
        assert title in done.stdout
    results = {path.name: path.read_bytes() for path in (place / "search_cost" / "results").iterdir()}
    again = run("search_cost.py", place, *SEARCH, "--parts", "units,whole,quality,trainer", "--trainer-runs", "1")
    assert again.returncode == 0, again.stderr
    assert {path.name: path.read_bytes() for path in (place / "search_cost" / "results").iterdir()} == results
    other = run("search_cost.py", place, *SEARCH, "--epochs", "3", "--report")
    assert "holds figures of another setting (epochs 2, not 3)" in other.stderr


GLUE: Sequence[str] = (
    "--layers", "1-3", "--teacher-layers", "1,2", "--students", "1", "--student-depths", "1,2", "--seeds", "1",
    "--full-seeds", "1", "--epochs", "1", "--student-epochs", "1", "--splits", "3", "--markdown",
)  # fmt: skip


@pytest.mark.slow
def test_the_papers_tables_are_filled(place: Path) -> None:
    done = run("glue.py", place, *GLUE)
    assert done.returncode == 0, done.stderr
    for row in ("| full fine-tuning |", "| without KD |", "| KD-1 |", "free depth", "| mixed (c = 1) |", "3 splits"):
        assert row in done.stdout


@pytest.mark.slow
def test_a_report_of_nothing_says_what_is_missing(place: Path) -> None:
    done = run("glue.py", place, *GLUE, "--home", str(place / "empty"), "--report")
    assert done.returncode == 0, done.stderr
    assert "full fine-tuning: not run of trec" in done.stdout


@pytest.mark.slow
def test_the_growth_of_a_trial_is_measured_stage_by_stage(place: Path) -> None:
    sizes = ("--task", "trec", "--rows", "3", "--layers", "1", "--epochs", "2", "--markdown")
    done = started("trial_growth.py", place, *sizes)
    assert done.returncode == 0, done.stderr
    assert [line.split("|")[1].strip() for line in done.stdout.splitlines()[-3:]] == ["3", "12", "48"]
    short = started("trial_growth.py", place, *sizes, "--rows", "4")
    assert "trec has 48 training rows, fewer than 64" in short.stderr


@pytest.mark.slow
def test_the_speed_of_training_is_measured_for_each_number_of_layers(place: Path) -> None:
    sizes = ("--sets", "trec", "--layers", "1,2", "--threads", "1", "--rounds", "1", "--precision", "fp32", "--json")
    done = started("training_speed.py", place, *sizes)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["1"]
    assert [(one["set"], one["layers"]) for one in found] == [("trec", 1), ("trec", 2)]
    for one in found:
        assert one["own_share"] > 0
        assert sum(one["parts"].values()) == pytest.approx(1)


@pytest.mark.slow
def test_the_scale_of_a_release_is_measured_by_the_command_itself(tmp_path: Path) -> None:
    sizes = ("--tasks", "3", "--shared", "2", "--task-layers", "4", "--layers", "4", "--width", "64")
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "release_scale.py"), *sizes, "--markdown"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    rows = {line.split("|")[1].strip(): line.split("|") for line in done.stdout.splitlines() if line.startswith("| ")}
    assert [rows[name][7].strip() for name in ("assemble all", "try one task", "update one task")] == ["1", "0", "1"]
