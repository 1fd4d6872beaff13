"""A tiny pinned encoder with labelled sentences of its own vocabulary, and trials over them."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.data.dataset import load_dataset
from pipelines.progress import silent
from pipelines.training.recipes import Recipe
from pipelines.training.trial_run import run_trial
from pipelines.training.trials import TrainedModule, Trial
from registry.domain.records import Backbone, Version
from registry.domain.task_specs import TaskSpec

FIRST_DAY = datetime(2026, 5, 1, 9, tzinfo=UTC)
CPU = torch.device("cpu")

CITIES = ("new york", "york")
OTHERS = ("the world", "hello world", "the end", "a hat", "dogs")
VERBS = ("visited", "liked", "saw", "left", "painted", "asked")


def sentences() -> list[tuple[str, bool]]:
    """Sentences, and whether they name a city: something that even a tiny encoder can learn."""
    people = ("she", "he", "they", "we", "anna", "bob")
    return [
        (f"{person} {verb} {place}.", place in CITIES)
        for person in people
        for verb in VERBS
        for place in (*CITIES, *CITIES, *OTHERS[:4])
    ]


def _rows(kind: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for text, is_city in dict.fromkeys(sentences()):
        words = text.removesuffix(".").split()
        if kind == "classification":
            rows.append({"text": text, "label": "city" if is_city else "other"})
        elif kind == "regression":
            rows.append({"text": text, "text_pair": "the world", "label": 90.0 if is_city else 110.0})
        else:
            tags = ["O", "O", "B-city", "I-city"][: len(words)] if is_city else ["O"] * len(words)
            rows.append({"tokens": words, "tags": tags})
    return rows


_SPECS: dict[str, dict[str, Any]] = {
    "classification": {"labels": ["other", "city"], "metric": "accuracy"},
    "regression": {"metric": "pearson", "input_form": "pair"},
    "token_classification": {"labels": ["city"], "metric": "entity_f1", "tag_scheme": "bio"},
}


@pytest.fixture
def make_spec(tmp_path: Path) -> Callable[..., TaskSpec]:
    """A task of a type over files that hold every fifth sentence as dev data."""

    def make(kind: str = "classification", task: str = "", **fields: Any) -> TaskSpec:
        rows = _rows(kind)
        files = {"train": [r for i, r in enumerate(rows) if i % 5], "dev": rows[::5]}
        for split, of_split in files.items():
            lines = "".join(json.dumps(row) + "\n" for row in of_split)
            (tmp_path / f"{kind}-{split}.jsonl").write_text(lines, encoding="utf-8")
        data = {split: str(tmp_path / f"{kind}-{split}.jsonl") for split in files}
        name = task or kind.replace("_", "-")
        return TaskSpec.model_validate({"task": name, "type": kind, "data": data, **_SPECS[kind], **fields})

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
        }
        return Trial(**values | changes)

    return make


@pytest.fixture
def run(pinned: Any, tmp_path: Path) -> Callable[..., TrainedModule]:
    def run_one(trial: Trial, work: Path = tmp_path / "work", **changes: Any) -> TrainedModule:
        return run_trial(trial, store=pinned.store, work=work, device=CPU, **{"report": silent, **changes})

    return run_one


@pytest.fixture
def as_version(pinned: Any) -> Callable[..., Version]:
    """The trained module as the registry would give it back."""

    def make(trained: TrainedModule, number: int = 1) -> Version:
        new = trained.to_version(pinned.store, mlflow_run=None)
        return Version(**new.model_dump(), number=number, created_at=FIRST_DAY, created_by="ann")

    return make


@pytest.fixture
def with_recipe() -> Callable[..., Trial]:
    def change(trial: Trial, **changes: Any) -> Trial:
        return replace(trial, recipe=trial.recipe.model_copy(update=changes))

    return change
