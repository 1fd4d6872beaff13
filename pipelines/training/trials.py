"""A trial: everything that decides a trained module, and what it leaves. `trial_run.py` runs it."""

from dataclasses import dataclass
from functools import cached_property

from pipelines.data.dataset import Dataset
from pipelines.training.recipes import Recipe
from pipelines.training.trial_state import TrialState
from registry.artifacts.store import ArtifactStore
from registry.domain.manifests import HeadConfig, head_problems
from registry.domain.plain_data import json_digest
from registry.domain.records import Backbone, NewVersion, Version, VersionKind
from registry.domain.task_specs import TaskSpec, TaskType
from registry.errors import UsageError

TRIAL_FORMAT = 4
"""Part of every trial key; raised when the same inputs no longer give the same module."""


@dataclass(frozen=True)
class Trial:
    """Everything that decides a trained module."""

    spec: TaskSpec
    spec_revision: int
    backbone: Backbone
    train: Dataset
    dev: Dataset
    frozen_depth: int
    task_layers: int
    recipe: Recipe
    seed: int
    head: HeadConfig
    """Of the task's type and outputs; a student's is its teacher's."""
    teacher: Version | None = None
    """The version to distil from; None trains from the backbone."""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"seed {self.seed}: must be from 0 to 2^63 - 1")
        check_shape(
            self.spec.task,
            backbone=self.backbone,
            frozen_depth=self.frozen_depth,
            task_layers=self.task_layers,
            teacher=self.teacher,
        )
        spec, head = self.spec, self.head
        if problems := head_problems(type=spec.type, tag_scheme=spec.tag_scheme, pooling=head.pooling, crf=head.crf):
            source = f", which is that of its teacher {self.teacher.reference}," if self.teacher else ""
            raise UsageError(f"task {spec.task}: the head{source} does not fit the task: {'; '.join(problems)}")

    @cached_property
    def key(self) -> str:
        """Digest of everything that decides the outcome, machine and library versions aside."""
        return json_digest(
            {
                "format": TRIAL_FORMAT,
                "spec": self.spec.meaning_digest(),
                "backbone": self.backbone.prefix_digests[-1],
                "train": self.train.digest,
                "dev": self.dev.digest,
                "frozen_depth": self.frozen_depth,
                "task_layers": self.task_layers,
                "recipe": self.recipe.model_dump(mode="json"),
                "seed": self.seed,
                "head": self.head.model_dump(mode="json"),
                "teacher": self.teacher.module if self.teacher else None,
            }
        )

    @property
    def token_level(self) -> bool:
        return self.spec.type is TaskType.TOKEN_CLASSIFICATION


def check_shape(task: str, *, backbone: Backbone, frozen_depth: int, task_layers: int, teacher: Version | None) -> None:
    """Refuses a branch that does not fit its backbone or its teacher.

    Raises:
        UsageError: l < 1, k < 0, k + l > N, k' below the teacher's k, or a teacher that is itself a student.
    """
    layers = backbone.layer_count
    if not 1 <= task_layers <= layers:
        raise UsageError(
            f"task {task}: backbone {backbone.name} has {layers} layers, of which a branch can have 1 to {layers}, "
            f"not {task_layers}; choose --layers in that range"
        )
    if frozen_depth < 0 or frozen_depth + task_layers > layers:
        raise UsageError(
            f"task {task}: {task_layers} layers above layer {frozen_depth} do not fit backbone {backbone.name} "
            f"of {layers} layers; choose frozen depth + layers <= {layers}"
        )
    if teacher and teacher.kind is VersionKind.STUDENT:
        raise UsageError(
            f"task {task}: {teacher.reference} is a student itself; distil its teacher, {task}/{teacher.teacher}"
        )
    if teacher and frozen_depth < teacher.frozen_depth:
        raise UsageError(
            f"task {task}: a student cannot leave the trunk after layer {frozen_depth}, below its teacher "
            f"{teacher.reference}; choose a depth >= {teacher.frozen_depth}, where the teacher leaves"
        )
    if teacher and frozen_depth + task_layers > teacher.frozen_depth + teacher.task_layers:
        raise UsageError(
            f"task {task}: the teacher {teacher.reference} ends at layer {teacher.frozen_depth + teacher.task_layers} "
            f"and the student needs layers {frozen_depth + 1} to {frozen_depth + task_layers}; choose fewer"
        )


@dataclass(frozen=True)
class TrainedModule:
    """What a trial leaves: the module and everything that is registered with it."""

    trial: Trial
    module: bytes
    golden: bytes
    dev_predictions: bytes
    metrics: dict[str, float]
    """On the dev data, in fp32, as the module is served."""
    state: TrialState
    environment: dict[str, str]

    def to_version(self, store: ArtifactStore, *, mlflow_run: str | None) -> NewVersion:
        """Puts the blobs into the store and returns the row that refers to them."""
        trial = self.trial
        return NewVersion(
            task=trial.spec.task,
            spec_revision=trial.spec_revision,
            backbone=trial.backbone.name,
            kind=VersionKind.STUDENT if trial.teacher else VersionKind.TEACHER,
            frozen_depth=trial.frozen_depth,
            task_layers=trial.task_layers,
            prefix_digest=trial.backbone.prefix_digests[trial.frozen_depth],
            teacher=trial.teacher.number if trial.teacher else None,
            head=trial.head,
            module=store.put(self.module),
            golden=store.put(self.golden),
            dev_predictions=store.put(self.dev_predictions),
            metrics=self.metrics,
            statistic=trial.recipe.statistic,
            train_digest=trial.train.digest,
            dev_digest=trial.dev.digest,
            recipe=trial.recipe.model_dump(mode="json"),
            seed=trial.seed,
            environment=self.environment,
            trial_key=trial.key,
            mlflow_run=mlflow_run,
        )
