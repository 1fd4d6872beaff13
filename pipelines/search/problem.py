"""What is searched for, and how a trial of the search is written down for whoever runs it."""

from dataclasses import dataclass, field

from pipelines.data.dataset import Dataset
from pipelines.execution.trial_file import Place, TrialFile
from pipelines.search.plan import student_depths
from pipelines.training.recipes import Recipe
from pipelines.training.trials import TRIAL_FORMAT, Trial
from registry.domain.manifests import HeadConfig
from registry.domain.plain_data import json_digest
from registry.domain.records import Backbone, Version
from registry.domain.searches import SearchOptions, TrialShape
from registry.domain.task_specs import TaskSpec


@dataclass(frozen=True)
class Problem:
    """A task, its data, and the backbone that it is to be put on."""

    spec: TaskSpec
    spec_revision: int
    backbone: Backbone
    train: Dataset
    dev: Dataset

    def key(self, options: SearchOptions) -> str:
        """Digest of everything that decides a search's outcome, machine and library versions aside."""
        return json_digest(
            {
                "trials": TRIAL_FORMAT,
                "spec": self.spec.meaning_digest(),
                "backbone": self.backbone.prefix_digests[-1],
                "train": self.train.digest,
                "dev": self.dev.digest,
                "options": options.model_dump(mode="json"),
            }
        )


@dataclass(frozen=True)
class TrialWriter:
    """Writes a trial's file from its shape."""

    problem: Problem
    options: SearchOptions
    place: Place
    written: dict[str, TrialFile] = field(default_factory=dict)
    """Key -> file."""

    def __call__(self, shape: TrialShape, teacher: Version | None) -> TrialFile:
        """The file that runs the trial to its end.

        Raises:
            UsageError: the branch does not fit its backbone or its teacher.
        """
        problem = self.problem
        head = HeadConfig.model_validate(dict(self.options.head)) if teacher is None else teacher.head
        trial = Trial(
            spec=problem.spec,
            spec_revision=problem.spec_revision,
            backbone=problem.backbone,
            train=problem.train,
            dev=problem.dev,
            frozen_depth=shape.frozen_depth,
            task_layers=shape.task_layers,
            recipe=self._recipe(shape),
            seed=shape.seed,
            head=head,
            teacher=teacher,
        )
        file = TrialFile.of(trial, depths=self._depths_beside(teacher), place=self.place)
        self.written[file.key] = file
        return file

    @property
    def teacher_depths(self) -> tuple[int, ...]:
        """The frozen depths of all teachers that the search may train."""
        return tuple(sorted(self.problem.backbone.layer_count - layers for layers in self.options.layers))

    @property
    def most_depths(self) -> tuple[int, ...]:
        """Every frozen depth that the search may ask for, where its students leave at the most other depths."""
        of_each = (frozenset(self.teacher_depths + self._student_depths(layers)) for layers in self.options.layers)
        most: frozenset[int] = max(of_each, key=len)
        return tuple(sorted(most))

    def _depths_beside(self, teacher: Version | None) -> tuple[int, ...]:
        """What one pass through the trunk is to serve: all teachers, or all students of one teacher."""
        return self.teacher_depths if teacher is None else self._student_depths(teacher.task_layers)

    def _student_depths(self, teacher_layers: int) -> tuple[int, ...]:
        """Of all students that a teacher of so many layers may have."""
        layers = self.problem.backbone.layer_count
        of_sizes = (
            student_depths(self.options, layers - teacher_layers, size, layers)
            for size in self.options.students
            if size <= teacher_layers
        )
        return tuple(sorted({depth for depths in of_sizes for depth in depths}))

    def _recipe(self, shape: TrialShape) -> Recipe:
        written = self.options.recipe if shape.teacher is None else self.options.student_recipe
        recipe = Recipe.model_validate({**written, "learning_rate": shape.learning_rate})
        if recipe.distillation is None or shape.initialisation is None:
            return recipe
        taught = recipe.distillation.model_copy(update={"initialisation": shape.initialisation})
        return recipe.model_copy(update={"distillation": taught})
