"""A recorded trial on another backbone: the trial itself, and what it is expected to cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from modeling.encoder_layers import step_layer_passes
from pipelines.data.dataset import Dataset, load_dataset
from pipelines.training.recipes import Recipe, checked
from pipelines.training.trials import Trial
from registry.domain.migration import RepeatedTrial
from registry.domain.records import Backbone, Task, Version
from registry.domain.task_specs import TaskSpec


@dataclass(frozen=True)
class TaskData:
    """A task's labelled data as its files are now."""

    train: Dataset
    dev: Dataset

    @classmethod
    def of(cls, spec: TaskSpec) -> Self:
        """Reads both files; raises InvalidInput as `load_dataset` does."""
        return cls(load_dataset(spec, "train"), load_dataset(spec, "dev"))


def repeated_trial(
    step: RepeatedTrial, task: Task, backbone: Backbone, data: TaskData, *, teacher: Version | None
) -> Trial:
    """The trial that a step stands for, on the task's current definition and data.

    Args:
        teacher: the version that a student is distilled from.
    Raises:
        UsageError: the recorded recipe is none that this program knows.
    """
    return Trial(
        spec=task.spec,
        spec_revision=task.spec_revision,
        backbone=backbone,
        train=data.train,
        dev=data.dev,
        frozen_depth=step.frozen_depth,
        task_layers=step.task_layers,
        recipe=checked(Recipe, step.recipe),
        seed=step.seed,
        head=step.head,
        teacher=teacher,
    )


def layer_passes(steps: Sequence[RepeatedTrial], *, train_rows: int, dev_rows: int) -> float:
    """Layer passes of a task's trials: a layer's forward over one row counts 1, its backward 2.

    Of each trial the task layers over every training row of every epoch, over the dev rows after every epoch
    (and once more in fp32), and a student's teacher once over the training rows. The frozen layers once over every
    row, for all trials together, and once more where two of them train in different precisions: what is cached
    already, or has no room in the cache, is left out of account.
    """
    passes, deepest, depth_in = 0.0, 0, dict[str, int]()
    for step in steps:
        recipe = checked(Recipe, step.recipe)
        of_step = step_layer_passes(step.task_layers, first_piece_only=step.head.reading == "first")
        passes += train_rows * recipe.epochs * of_step + dev_rows * (recipe.epochs + 1) * of_step / 3
        if step.teacher_layers is not None:
            taught = step_layer_passes(step.teacher_layers, first_piece_only=step.head.reading == "first")
            passes += train_rows * taught / 3
        deepest = max(deepest, step.frozen_depth)
        depth_in[recipe.precision] = max(depth_in.get(recipe.precision, 0), step.frozen_depth)
    return passes + train_rows * sum(depth_in.values()) + dev_rows * deepest
