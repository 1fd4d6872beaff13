"""`trial run` and `trial work`: files in, files out, and an answer to whatever they are given."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cli import trials
from pipelines.data.dataset import load_dataset
from pipelines.execution.trial_file import Place, TrialFile
from pipelines.training.recipes import Recipe
from pipelines.training.trial_run import open_trial
from pipelines.training.trials import Trial
from registry.domain.manifests import HeadConfig
from registry.domain.records import Backbone
from registry.domain.task_specs import TaskSpec
from tests.cli.conftest import FIRST_MINUTE


@pytest.fixture
def trial(pinned: Any, labelled: Any, tmp_path: Path) -> Trial:
    """Three epochs on the top two of four layers."""
    topics = labelled("classification")
    spec = TaskSpec.model_validate(topics.fields | {"task": "topic", "data": topics.write(tmp_path)})
    return Trial(
        spec=spec,
        spec_revision=1,
        backbone=Backbone(**pinned.backbone.model_dump(), created_at=FIRST_MINUTE),
        train=load_dataset(spec, "train"),
        dev=load_dataset(spec, "dev"),
        frozen_depth=2,
        task_layers=2,
        recipe=Recipe(learning_rate=3e-3, epochs=3),
        seed=0,
        head=HeadConfig(type=spec.type, outputs=spec.output_count),
    )


@pytest.fixture
def written(trial: Trial, pinned: Any, tmp_path: Path) -> Callable[..., Path]:
    """Writes the trial's file, with changes."""

    def write(**changes: Any) -> Path:
        place = Place(
            work=str(tmp_path / "work"),
            artifact_root=str(pinned.store_folder),
            blob_cache=str(tmp_path / "blobs"),
            blob_cache_bytes=10**9,
            activation_cache_bytes=10**9,
            device="cpu",
            threads=1,
        )
        names = (
            "spec",
            "spec_revision",
            "backbone",
            "frozen_depth",
            "task_layers",
            "recipe",
            "seed",
            "head",
            "teacher",
        )
        file = TrialFile(
            key=trial.key, until_epoch=1, place=place, **{name: getattr(trial, name) for name in names}
        ).model_dump(mode="json")
        path = tmp_path / "trial.json"
        path.write_text(json.dumps(file | changes))
        return path

    return write


def read(path: Path) -> Any:
    return json.loads(path.read_bytes())


def test_a_trial_that_another_process_runs_is_busy(trunkline, trial, written, tmp_path):
    with open_trial(trial, tmp_path / "work"):
        answer = trunkline("trial", "run", written(), "--result", tmp_path / "result.json")
    assert answer.code == 5
    assert "another process is running this trial" in answer.problem
    assert read(tmp_path / "result.json")["failure"]["kind"] == "busy"


def test_a_trial_whose_data_changed_is_refused(trunkline, written, tmp_path):
    answer = trunkline("trial", "run", written(key="another"), "--result", tmp_path / "result.json")
    assert answer.code == 1
    assert "plan again" in answer.problem
    failure = read(tmp_path / "result.json")["failure"]
    assert (failure["kind"], failure["exit_code"]) == ("refused", 1)


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Callable[..., dict[str, Any]]]:
    """Sends a line to one process of `trial work` and returns its answer, apart from signs of life and progress."""
    program = "import sys; from cli.main import main; sys.exit(main())"
    with (
        (tmp_path / "stderr").open("wb") as stderr,
        subprocess.Popen(
            [sys.executable, "-P", "-c", program, "trial", "work"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        ) as process,
    ):

        def ask(line: bytes) -> dict[str, Any]:
            process.stdin.write(line + b"\n")
            process.stdin.flush()
            while True:
                said = json.loads(process.stdout.readline())
                if not said.keys() & {"alive", "stage"}:
                    return said

        assert json.loads(process.stdout.readline()) == {"alive": True}
        yield ask
        process.stdin.close()
        assert process.wait(timeout=60) == 0


def test_a_worker_answers_whatever_it_is_given_and_goes_on(worker, written, tmp_path):
    folder, result = tmp_path / "folder", tmp_path / "result.json"
    folder.mkdir()
    garbled = (
        *(b"", b"nonsense", b"{}", b"[1]", b"\xff", b'{"specification": 1, "result": "x"}'),
        *(b'{"specification": "a\\u0000", "result": "x"}', b'{"specification": "", "result": ""}'),
    )
    for line in garbled:
        assert worker(line).keys() == {"refused"}, line
    said = (tmp_path / "stderr").read_text()
    assert said.count("error: a line on stdin: ") == len(garbled)
    assert "unexpected" not in said

    unreadable = tmp_path / "unreadable.json"
    unreadable.write_bytes(b"\xff{")
    place = read(written())["place"] | {"device": "abacus"}
    for specification in (folder, tmp_path / "nowhere.json", unreadable, written(place=place)):
        answer = worker(json.dumps({"specification": str(specification), "result": str(result)}).encode())
        assert answer == {"ended": str(result)}
        failure = read(result)["failure"]
        assert failure["kind"] == "refused"
        assert str(specification) in failure["message"]
        result.unlink()

    answer = worker(json.dumps({"specification": str(written()), "result": str(folder)}).encode())
    assert f"cannot write {folder}" in answer["refused"]
    assert worker(json.dumps({"specification": str(written()), "result": str(result)}).encode()) == {
        "ended": str(result)
    }
    assert read(result)["outcome"]["epochs_done"] == 1


@pytest.mark.parametrize(("content", "said"), [(None, "cannot be read: Is a directory"), ("{", "Invalid JSON")])
def test_a_file_that_is_no_trial_is_refused(trunkline, tmp_path, content, said):
    path = tmp_path / "trial.json"
    path.mkdir() if content is None else path.write_text(content)
    answer = trunkline("trial", "run", path, "--result", tmp_path / "result.json")
    assert answer.code == 1
    assert answer.problem.startswith(f"{path}: ")
    assert said in answer.problem


def test_what_a_library_prints_stays_off_the_lines(capsys, monkeypatch):
    def run_each(lines: object, say: Callable[..., None]) -> None:
        print("Downloading…", end="")  # noqa: T201
        say({"ended": "x"})

    monkeypatch.setattr(trials, "_run_each", run_each)
    monkeypatch.setattr(trials, "_say_alive", lambda say: None)
    handlers = list(logging.getLogger().handlers)
    trials.work()
    logging.getLogger().handlers = handlers
    out, err = capsys.readouterr()
    assert out == '{"ended": "x"}\n'
    assert err == "Downloading…"
