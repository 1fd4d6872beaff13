"""What one comparison of search costs is of, and the home in which it keeps everything."""

import json
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from benchmark_tasks import TaskFiles, Workshop

from modeling.precision import best_precision
from pipelines.training.recipes import Distillation, Precision, Recipe, make_recipe
from registry.artifacts.atomic_file import write_atomically
from registry.domain.manifests import HeadConfig
from registry.domain.searches import SearchOptions
from registry.domain.task_specs import TaskSpec

_MAY_DIFFER = {"home", "repeats", "repetitions", "pool_seeds"}
"""With more of these a benchmark goes on with what there is."""
_BASELINE = "padded to the longest row of a batch"
"""What distinguishes figures of `Trainer` from those of earlier forms of `trainer_baseline.py`."""


@dataclass(frozen=True)
class Setting:
    """One setting; everything that it writes is under `home`."""

    home: Path
    model: Path
    data: Path
    layers: tuple[int, ...]
    measured_layers: tuple[int, ...]
    students: tuple[int, ...]
    seeds: int
    pool_seeds: int
    repetitions: int
    epochs: int
    student_epochs: int
    sample_rows: int
    repeats: int
    limit_rows: int | None
    cores: int

    @cached_property
    def workshop(self) -> Workshop:
        workshop = Workshop(self.home / "workshop")
        workshop.pin(self.model)
        return workshop

    @property
    def backbone_layers(self) -> int:
        return self.workshop.backbone.layer_count

    def files(self, task: str) -> TaskFiles:
        return TaskFiles.read(task, self.data, self.home / "data", limit_rows=self.limit_rows)

    @cached_property
    def recipe(self) -> Recipe:
        return make_recipe(
            "default",
            hidden_size=self.workshop.backbone.hidden_size,
            precision=self.precision,
            epochs=self.epochs,
        )

    @cached_property
    def student_recipe(self) -> Recipe:
        """As `trunkline search` makes it."""
        return self.recipe.model_copy(
            update={
                "epochs": self.student_epochs,
                "evaluate_from": -(-3 * self.student_epochs // 5),
                "distillation": Distillation(),
            }
        )

    def options(self, spec: TaskSpec, **more: Any) -> SearchOptions:
        head = HeadConfig(type=spec.type, outputs=spec.output_count)
        return SearchOptions(
            layers=self.layers,
            seeds=self.seeds,
            learning_rates=(self.recipe.learning_rate,),
            recipe=self.recipe.model_dump(mode="json"),
            student_recipe=self.student_recipe.model_dump(mode="json"),
            head=head.model_dump(mode="json"),
            **{"students": self.students, **more},
        )

    def refuse_other_home(self, *, begin: bool) -> None:
        """Ends the program where the home holds what was measured in another setting.

        Args:
            begin: write this one down where there is none.
        """
        own = {one.name: str(getattr(self, one.name)) for one in fields(self) if one.name not in _MAY_DIFFER}
        own |= {"precision": self.precision, "baseline": _BASELINE}
        known = self.kept("setting")
        if known is None:
            if any((self.home / "results").glob("*.json")):
                raise SystemExit(f"{self.home} holds figures of an older form of this benchmark: take another --home")
            if begin:
                self.keep("setting", own)
        elif other := sorted(name for name in own if known.get(name) != own[name]):
            told = ", ".join(f"{name} {known.get(name)}, not {own[name]}" for name in other)
            raise SystemExit(f"{self.home} holds figures of another setting ({told}): take another --home")

    @cached_property
    def precision(self) -> Precision:
        """That of the home: which one is faster is timed anew at each start, and may come out otherwise."""
        known = self.kept("setting")
        found: Precision = best_precision(torch.device("cpu")) if known is None else known["precision"]
        return found

    def kept(self, name: str) -> Any:
        """What a part has written; None before."""
        try:
            return json.loads((self.home / "results" / f"{name}.json").read_bytes())
        except FileNotFoundError:
            return None

    def keep(self, name: str, document: Any) -> None:
        write_atomically(self.home / "results" / f"{name}.json", json.dumps(document, indent=1).encode())
