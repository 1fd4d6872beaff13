"""`trial run` and `trial work`: files in, files out, and an answer to whatever they are given."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
            activation_cache_bytes=0,
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
