"""A tiny pinned encoder with labelled sentences of its own vocabulary, and trials over them."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.data.dataset import load_dataset
from pipelines.training.recipes import Recipe
from pipelines.training.trial_run import open_trial
from pipelines.training.trials import TrainedModule, Trial
from registry.artifacts.store import ArtifactStore
from registry.domain.gate_findings import Gate, GateFinding
from registry.domain.manifests import HeadConfig
from registry.domain.records import Backbone, Version
from registry.domain.task_specs import TaskSpec
from registry.progress import silent

FIRST_DAY = datetime(2026, 5, 1, 9, tzinfo=UTC)
CPU = torch.device("cpu")


@pytest.fixture
def make_spec(tmp_path: Path, labelled: Callable[[str], Any]) -> Callable[..., TaskSpec]:
    """A task of a type over the labelled sentences."""

    def make(kind: str = "classification", task: str = "", **fields: Any) -> TaskSpec:
        data = labelled(kind).write(tmp_path)
        name = task or kind.replace("_", "-")
        return TaskSpec.model_validate(labelled(kind).fields | {"task": name, "data": data} | fields)

    return make


@pytest.fixture(scope="session")
def backbone(pinned: Any) -> Backbone:
    return Backbone(**pinned.backbone.model_dump(), created_at=FIRST_DAY)


@pytest.fixture
def make_trial(backbone: Backbone, make_spec: Callable[..., TaskSpec]) -> Callable[..., Trial]:
    """A trial of 3 epochs in fp32 on the top two of four layers, with changes."""

    def make(kind: str = "classification", *, spec: TaskSpec | None = None, **changes: Any) -> Trial:
        spec = spec or make_spec(kind)
        values: dict[str, Any] = {
            "spec": spec,
            "spec_revision": 1,
            "backbone": backbone,
            "train": load_dataset(spec, "train"),
            "dev": load_dataset(spec, "dev"),
            "frozen_depth": 2,
            "task_layers": 2,
            "recipe": Recipe(learning_rate=3e-3, epochs=3),
            "seed": 0,
            "head": HeadConfig(type=spec.type, outputs=spec.output_count),
        }
        return Trial(**values | changes)

    return make


@pytest.fixture
def run(pinned: Any, tmp_path: Path) -> Callable[..., TrainedModule]:
    def run_one(trial: Trial, work: Path = tmp_path / "work", **changes: Any) -> TrainedModule:
        with open_trial(trial, work) as held:
            return held.run(store=pinned.store, device=CPU, **{"report": silent, **changes})

    return run_one


@pytest.fixture
def as_version(pinned: Any) -> Callable[..., Version]:
    """The trained module as the registry would give it back."""

    def make(trained: TrainedModule, number: int = 1, *, store: ArtifactStore = pinned.store) -> Version:
        new = trained.to_version(store, mlflow_run=None)
        return Version(**new.model_dump(), number=number, created_at=FIRST_DAY, created_by="ann")

    return make


@pytest.fixture
def with_recipe() -> Callable[..., Trial]:
    def change(trial: Trial, **changes: Any) -> Trial:
        return replace(trial, recipe=trial.recipe.model_copy(update=changes))

    return change


def largest_differences(findings: Iterable[GateFinding]) -> float:
    """Of all tasks' golden answers, merged from alone."""
    found = [one.values["largest_difference"] for one in findings if one.gate is Gate.PARITY]
    assert found
    return max(float(difference or 0) for difference in found)
