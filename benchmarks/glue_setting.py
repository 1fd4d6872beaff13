"""What one run of the paper's tables is of, and the home in which it keeps everything."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from benchmark_tasks import Home, TaskFiles

from registry.domain.task_specs import TaskSpec


@dataclass(frozen=True)
class GlueSetting:
    home: Home
    model: Path
    data: Path
    tasks: tuple[str, ...]
    layers: tuple[int, ...]
    """L of table 1."""
    teacher_layers: tuple[int, ...]
    """L that may teach."""
    students: tuple[int, ...]
    """l."""
    student_depths: tuple[int, ...]
    """k'."""
    seeds: int
    epochs: int
    student_epochs: int
    full_seeds: int
    full_rate: float
    """Learning rate of full fine-tuning."""
    splits: int
    limit_rows: int | None
    cores: int

    def files(self, task: str) -> TaskFiles:
        return TaskFiles.read(task, self.data, self.home.folder / "data", limit_rows=self.limit_rows)

    def spec(self, task: str) -> TaskSpec:
        return self.files(task).spec()

    @cached_property
    def backbone_layers(self) -> int:
        return int(json.loads((self.model / "config.json").read_bytes())["num_hidden_layers"])

    def full_file(self, task: str, seed: int) -> Path:
        """Where the outcome of one full fine-tuning is kept."""
        name = self.files(task).folder.name
        return self.home.folder / "full" / f"{name}-{self.epochs}-epochs-{self.full_rate:g}-{seed}.json"
