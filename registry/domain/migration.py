"""Another backbone: which versions stay valid on it by P(k), and which recorded trials are to be run again there.

Depths are counted from the top. A teacher keeps its number of layers L and leaves the trunk at k = N' - L; a student
keeps its own l and its distance from its teacher's depth. Where the new backbone carries the teacher itself, it is
distilled again as it is, and the student keeps its depth.
"""

from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import Any, NamedTuple

from registry.domain.manifests import HeadConfig, head_problems
from registry.domain.plain_data import Plain
from registry.domain.records import Backbone, Task, Version, VersionKind
from registry.domain.references import Name
from registry.domain.task_specs import TaskSpec


class Outcome(StrEnum):
    VALID = "valid"
    RETRAIN = "train again"
    IMPOSSIBLE = "cannot"
    LEFT_OUT = "left out"


class Lineage(NamedTuple):
    """A version with what it was trained for and from."""

    version: Version
    spec: TaskSpec
    """Of the revision that it was trained for."""
    teacher: "Lineage | None" = None
    """Of a student."""


class RepeatedTrial(Plain):
    """A recorded trial as it is to be run on the new backbone."""

    repeats: int
    """Number of the version that the trial made."""
    kind: VersionKind
    frozen_depth: int
    task_layers: int
    head: HeadConfig
    recipe: Mapping[str, Any]
    seed: int
    learning_rate_by_width: bool
    """The recorded rate was the default of the old width; this one is that of the new."""
    teacher: int | None = None
    """The version that a student is distilled from again; None: from what the trial before this one makes."""
    teacher_layers: int | None = None
    """Of the module that a student is distilled from."""


class TaskMigration(Plain):
    task: Name
    version: int | None
    """The one in use; None where there is none."""
    outcome: Outcome
    reason: str
    """Why; empty where trials are to be run."""
    notes: tuple[str, ...] = ()
    """What is not as it was when the version was trained."""
    steps: tuple[RepeatedTrial, ...] = ()
    """In the order in which they run: the teacher first, then its student."""


class Replacement(Plain):
    """The version that came of it, beside the one in use."""

    number: int
    metric: str
    """Of the task's current definition."""
    score: float | None
    """Of the version in use; None where it was not scored by this metric."""
    new_score: float
    not_compared: str
    """Why the two scores say nothing about each other; empty where they can be subtracted."""

    @property
    def gain(self) -> float | None:
        if self.score is None or self.not_compared:
            return None
        return self.new_score - self.score


def replacement(task: Task, in_use: Lineage, made: Version) -> Replacement:
    """What a task gained or lost. Only scores of one definition on the same dev data are compared."""
    was, metric = in_use.version, task.spec.metric
    if was.dev_digest != made.dev_digest:
        not_compared = "other dev data"
    elif in_use.spec.meaning_digest() != task.spec.meaning_digest():
        not_compared = "another definition"
    else:
        not_compared = ""
    return Replacement(
        number=made.number,
        metric=metric,
        score=was.metrics.get(metric),
        new_score=made.metrics[metric],
        not_compared=not_compared,
    )


def task_migration(
    task: Task,
    in_use: Lineage | None,
    *,
    alias: str,
    old: Backbone,
    new: Backbone,
    default_rate: Callable[[int], float],
) -> TaskMigration:
    """What becomes of a task when its backbone is replaced.

    Only a version that the old backbone carries is the subject. The trials that run again are for the task's current
    definition, as any training is.

    Args:
        in_use: the version that the alias names, with its lineage.
        default_rate: the learning rate that a recipe has by default, by the encoder's width.
    """
    if in_use is None:
        missing = f"no {alias}" if task.version_count else "no version"
        return TaskMigration(task=task.name, version=None, outcome=Outcome.LEFT_OUT, reason=missing)
    version = in_use.version

    def ends(outcome: Outcome, reason: str) -> TaskMigration:
        notes = tuple(_redefined(task, in_use))
        return TaskMigration(task=task.name, version=version.number, outcome=outcome, reason=reason, notes=notes)

    if not old.carries(version):
        where = f", and {new.name} carries it" if new.carries(version) else ""
        return ends(Outcome.LEFT_OUT, f"{old.name} does not carry it: it was trained on {version.backbone}{where}")
    if new.carries(version):
        return ends(Outcome.VALID, f"{old.name} and {new.name} have the same P({version.frozen_depth})")
    repeated = [version]
    if in_use.teacher is not None and not _stays(in_use.teacher, task, new):
        repeated.insert(0, in_use.teacher.version)
    if problems := [problem for one in repeated for problem in _problems(one, task, new)]:
        return ends(Outcome.IMPOSSIBLE, "; ".join(problems))
    steps = tuple(_steps(in_use, repeated, task, old, new, default_rate))
    notes = [*_redefined(task, in_use)]
    if any(step.learning_rate_by_width for step in steps):
        notes.append("learning rate by width")
    return TaskMigration(
        task=task.name, version=version.number, outcome=Outcome.RETRAIN, reason="", notes=tuple(notes), steps=steps
    )


def _redefined(task: Task, in_use: Lineage) -> Iterator[str]:
    if in_use.spec.meaning_digest() != task.spec.meaning_digest():
        yield f"trained for spec revision {in_use.version.spec_revision}, now {task.spec_revision}"


def _stays(teacher: Lineage, task: Task, new: Backbone) -> bool:
    """Whether a student may be distilled again from the same teacher."""
    return new.carries(teacher.version) and teacher.spec.interface == task.spec.interface


def _problems(version: Version, task: Task, new: Backbone) -> Iterator[str]:
    """Why a version's trial cannot be run on the new backbone."""
    if "imported" in version.recipe:
        yield (
            f"{version.reference} was imported, so that no recipe of it can be run: train it on {new.name} where it "
            f"was trained, or search (trunkline search run {task.name} --backbone {new.name})"
        )
    elif version.kind is VersionKind.TEACHER and version.task_layers > new.layer_count:
        yield (
            f"{version.reference} has {version.task_layers} task layers, and {new.name} only {new.layer_count} layers "
            f"in all: train with fewer (trunkline train {task.name} --backbone {new.name} --layers L)"
        )
    spec, head = task.spec, version.head
    for problem in head_problems(type=spec.type, tag_scheme=spec.tag_scheme, pooling=head.pooling, crf=head.crf):
        yield f"the head of {version.reference} does not fit spec revision {task.spec_revision}: {problem}"


def _steps(
    in_use: Lineage,
    repeated: list[Version],
    task: Task,
    old: Backbone,
    new: Backbone,
    default_rate: Callable[[int], float],
) -> Iterator[RepeatedTrial]:
    """Args: repeated: the versions whose trials are run, the teacher first."""
    teacher = None if in_use.teacher is None else in_use.teacher.version
    first = repeated[0]
    # A student that is alone here has a teacher that stays, and so stays at its depth.
    shift = new.layer_count - first.task_layers - first.frozen_depth if first.kind is VersionKind.TEACHER else 0
    for version in repeated:
        recipe = _recipe(version.recipe, old, new, default_rate)
        is_student = version.kind is VersionKind.STUDENT
        yield RepeatedTrial(
            repeats=version.number,
            kind=version.kind,
            frozen_depth=version.frozen_depth + shift,
            task_layers=version.task_layers,
            head=version.head.model_copy(update={"type": task.spec.type, "outputs": task.spec.output_count}),
            recipe=recipe,
            seed=version.seed,
            learning_rate_by_width=recipe.get("learning_rate") != version.recipe.get("learning_rate"),
            teacher=teacher.number if is_student and teacher is not None and teacher not in repeated else None,
            teacher_layers=teacher.task_layers if is_student and teacher is not None else None,
        )


def _recipe(
    recorded: Mapping[str, Any], old: Backbone, new: Backbone, default_rate: Callable[[int], float]
) -> dict[str, Any]:
    """As recorded; a learning rate that was the old width's default becomes the new one's.

    The paper's recipe has its rate at any width.
    """
    recipe = dict(recorded)
    if recipe.get("name") != "paper" and recipe.get("learning_rate") == default_rate(old.hidden_size):
        recipe["learning_rate"] = default_rate(new.hidden_size)
    return recipe
