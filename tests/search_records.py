"""Records of searches for tests: only what a test is about has to be said."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from registry.domain.searches import (
    Initialisation,
    LedgerTrial,
    Search,
    SearchChoice,
    SearchOptions,
    SearchState,
    TrialShape,
    TrialState,
)


def trial(
    layers: int,
    score: float | None = None,
    *,
    seed: int = 0,
    depth: int | None = None,
    learning_rate: float = 1e-4,
    teacher: int | None = None,
    initialisation: Initialisation | None = None,
    state: TrialState | None = None,
    curve: Mapping[int, float] | None = None,
    **more: Any,
) -> LedgerTrial:
    """Finished where it has a score, else as `state` says; above 12 - `layers` layers unless a depth is given."""
    shape = TrialShape(
        frozen_depth=12 - layers if depth is None else depth,
        task_layers=layers,
        learning_rate=learning_rate,
        seed=seed,
        teacher=teacher,
        initialisation=initialisation,
    )
    state = state or (TrialState.WAITING if score is None else TrialState.FINISHED)
    return LedgerTrial(key=f"{shape}", shape=shape, state=state, epochs=3, score=score, curve=curve or {}, **more)


def search(*trials: LedgerTrial, choice: SearchChoice | None = None, **more: Any) -> Search:
    options = SearchOptions(
        layers=(4, 5, 6, 7, 10),
        seeds=5,
        learning_rates=(1e-4,),
        recipe={"epochs": 3},
        student_recipe={"epochs": 3},
        head={},
    )
    known = {
        "task": "rte",
        "spec_revision": 1,
        "backbone": "bert-base",
        "key": "k",
        "train_digest": "c" * 64,
        "dev_digest": "d" * 64,
        "options": options,
        "exhaustive_layer_passes": 1000.0,
        "number": 3,
        "backbone_layers": 12,
        "metric": "accuracy",
        "state": SearchState.RUNNING,
        "mlflow_run": None,
        "runner": None,
        "runner_until": None,
        "created_at": datetime(2026, 5, 1, tzinfo=UTC),
        "created_by": "ann",
        "finished_at": None,
    }
    return Search(**(known | more), choice=choice, trials=trials)
