"""`trunkline backbone migrate`: the versions in use from one backbone to another."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import typer
from sqlalchemy.orm import Session

from cli.application import AsJson, Context, example
from cli.devices import DeviceOption, chosen_device
from cli.migration_tables import (
    Estimate,
    MigratedTask,
    PlannedTask,
    migration_document,
    plan_document,
    print_migration,
    print_plan,
    step_words,
)
from cli.progress import progress_bar
from cli.rendering import print_json, print_note, print_warning
from cli.training import refuse_retired, run_trial, warn_of_weak_student
from registry.domain.migration import Lineage, Outcome, RepeatedTrial, TaskMigration, replacement, task_migration
from registry.domain.records import Backbone, Task, TaskState, Version
from registry.domain.references import VersionReference, check_alias
from registry.errors import InvalidInput, TrunklineError, UsageError
from registry.services import backbones, tasks, trials, versions

app = typer.Typer()


@dataclass(frozen=True)
class _Migration:
    """What is asked for, as it was read in one transaction."""

    new: Backbone
    tasks: Mapping[str, Task]
    in_use: Mapping[str, Lineage]
    found: Sequence[TaskMigration]
    seconds: Mapping[tuple[str, int], float]
    """How long the recorded trials took, of those where that was kept."""

    def kept_teacher(self, one: TaskMigration) -> Version | None:
        """The version that a student is distilled from again, where its teacher stays."""
        teacher = self.in_use[one.task].teacher
        return teacher.version if teacher is not None and one.steps[0].teacher is not None else None


@app.command(
    epilog=example(
        "trunkline backbone migrate minilm minilm-tuned --plan",
        "trunkline backbone migrate minilm bert --task rte --task cola",
    )
)
def migrate(
    ctx: typer.Context,
    old: Annotated[str, typer.Argument(metavar="OLD", help="The backbone that the versions in use are on.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The backbone that is to take its place.")],
    plan: Annotated[bool, typer.Option("--plan", help="Only say what would be done, and what it would cost.")] = False,
    alias: Annotated[str, typer.Option(help="The alias of the version that is in use.")] = "champion",
    task: Annotated[
        list[str] | None, typer.Option(metavar="TASK", help="Only this task; may be repeated. [default: all]")
    ] = None,
    device: DeviceOption = "auto",
    as_json: AsJson = False,
) -> None:
    """Bring the versions in use to another backbone: train again what does not stay valid there.

    A version whose frozen layers are the same on both stays as it is. The others are trained again from their
    recorded recipes, a student's teacher first. A run that was interrupted goes on where it stopped: run the same
    command again. A task that fails does not stop the others, and ends the command with code 1. Nothing is promoted.
    """
    context: Context = ctx.obj
    migration = _read(context, old, new, alias, task or [])
    if plan:
        planned = _planned(context, migration)
        if as_json:
            print_json(plan_document(old, new, alias, planned))
        else:
            print_plan(planned)
        return
    chosen_device(device)
    done = [_migrated(context, migration, one, device) for one in migration.found]
    if as_json:
        print_json(migration_document(old, new, alias, done))
    else:
        print_migration(done, alias, new)
    if any(one.problem for one in done):
        raise typer.Exit(1)


def _read(context: Context, old: str, new: str, alias: str, names: Sequence[str]) -> _Migration:
    """Raises: UsageError, NotFound, NotAllowed: one argument is wrong; InvalidInput: several are, each with a line."""
    with context.database.read() as session:
        pinned, chosen = _chosen(session, old, new, alias, names)
        in_use = _lineages(session, alias, chosen)
        known = [one.version for of in in_use.values() for one in (of, of.teacher) if one is not None]
        seconds = trials.seconds_spent(session, known)

    from pipelines.training.recipes import default_learning_rate  # torch with it: wrong arguments are told before

    found = [
        task_migration(
            task,
            in_use.get(name),
            alias=alias,
            old=pinned[old],
            new=pinned[new],
            default_rate=default_learning_rate,
        )
        for name, task in sorted(chosen.items())
    ]
    return _Migration(pinned[new], chosen, in_use, found, seconds)


def _chosen(
    session: Session, old: str, new: str, alias: str, names: Sequence[str]
) -> tuple[dict[str, Backbone], dict[str, Task]]:
    """The backbones and the tasks that the arguments name, all active tasks where they name none."""
    pinned: dict[str, Backbone] = {}
    chosen: dict[str, Task] = {}

    def look_up_backbone(name: str) -> None:
        pinned[name] = backbones.get_backbone(session, name)

    def look_up_task(name: str) -> None:
        chosen[name] = tasks.get_task(session, name)
        refuse_retired(name, chosen[name].state)

    _all_at_once(
        f"backbone migrate {old} {new}",
        [
            lambda: _refuse_same(old, new),
            lambda: check_alias(alias),
            *(partial(look_up_backbone, name) for name in dict.fromkeys((old, new))),
            *(partial(look_up_task, name) for name in dict.fromkeys(names)),
        ],
    )
    if not names:
        chosen = {one.name: one for one in tasks.list_tasks(session) if one.state is TaskState.ACTIVE}
    return pinned, chosen


def _lineages(session: Session, alias: str, chosen: Collection[str]) -> dict[str, Lineage]:
    """Task -> the version that the alias names, of those that have it."""
    named = [one for one in versions.versions_with_alias(session, alias) if one.task in chosen]
    of_students = [VersionReference(task=one.task, number=one.teacher) for one in named if one.teacher is not None]
    teachers = {one.task: one for one in versions.get_versions(session, of_students)}
    specs = versions.specs_of(session, [*named, *teachers.values()])

    def lineage(version: Version, teacher: Version | None) -> Lineage:
        spec = specs[version.task, version.spec_revision]
        return Lineage(version, spec, None if teacher is None else lineage(teacher, None))

    return {one.task: lineage(one, teachers.get(one.task)) for one in named}


def _refuse_same(old: str, new: str) -> None:
    if old == new:
        raise UsageError(f"OLD and NEW are both {old}: name the backbone that is to take its place")


def _all_at_once(subject: str, checks: Sequence[Callable[[], object]]) -> None:
    """Makes every check; one that fails raises its error, several raise InvalidInput with a line each."""
    errors: list[TrunklineError] = []
    for check in checks:
        try:
            check()
        except TrunklineError as error:
            errors.append(error)
    if len(errors) > 1:
        raise InvalidInput(subject, [str(error) for error in errors])
    if errors:
        raise errors[0]


def _planned(context: Context, migration: _Migration) -> list[PlannedTask]:
    planned = []
    with progress_bar() as report:
        for number, one in enumerate(migration.found, 1):
            estimate: Estimate | None = None
            problem = ""
            if one.outcome is Outcome.RETRAIN:
                try:
                    estimate = _estimate(context, migration, one)
                except TrunklineError as error:
                    problem = str(error)
            planned.append(PlannedTask(one, estimate, problem))
            report("reading the tasks' data", number, len(migration.found))
    return planned


def _estimate(context: Context, migration: _Migration, one: TaskMigration) -> Estimate:
    from pipelines.migration import TaskData, layer_passes, repeated_trial

    task = migration.tasks[one.task]
    data = TaskData.of(task.spec)
    made: list[Version] = []
    teacher = migration.kept_teacher(one)
    for step in one.steps:
        trial = repeated_trial(step, task, migration.new, data, teacher=teacher)
        with context.database.read() as session:
            found = versions.find_trial(session, one.task, trial.key)
        if found is None:
            break
        made.append(found)
        teacher = found
    left = one.steps[len(made) :]
    rows = {"train_rows": len(data.train.examples), "dev_rows": len(data.dev.examples)}
    return Estimate(
        **rows,
        registered=tuple(version.number for version in made),
        layer_passes=layer_passes(left, **rows),
        old_seconds=tuple(migration.seconds.get((one.task, step.repeats)) for step in left),
    )


def _migrated(context: Context, migration: _Migration, one: TaskMigration, device: str) -> MigratedTask:
    in_use = migration.in_use.get(one.task)
    if one.outcome is not Outcome.RETRAIN or in_use is None:
        return MigratedTask(one)
    made: list[Version] = []
    try:
        _run_steps(context, migration, one, device, made)
    except TrunklineError as error:
        print_warning(f"task {one.task} was not brought to {migration.new.name}: {error}")
        return MigratedTask(one, made=tuple(made), problem=str(error))
    return MigratedTask(one, made=tuple(made), replacement=replacement(migration.tasks[one.task], in_use, made[-1]))


def _run_steps(context: Context, migration: _Migration, one: TaskMigration, device: str, made: list[Version]) -> None:
    """Runs a task's trials; `made` gets the version of each, also of those before one that fails."""
    from pipelines.migration import TaskData, repeated_trial

    task, teacher = migration.tasks[one.task], migration.kept_teacher(one)
    data = TaskData.of(task.spec)
    depths = _depths(one.steps, teacher)
    for number, step in enumerate(one.steps, 1):
        print_note(f"task {one.task}, trial {number} of {len(one.steps)}: {step_words(step)}")
        trial = repeated_trial(step, task, migration.new, data, teacher=teacher)
        version = run_trial(context, trial, device, depths=depths)
        if trial.teacher is not None:
            warn_of_weak_student(version, trial.teacher, metric=task.spec.metric, epochs=trial.recipe.epochs)
        made.append(version)
        teacher = version


def _depths(steps: Sequence[RepeatedTrial], teacher: Version | None) -> list[int]:
    """Where all of a task's modules leave the trunk: one pass through it serves them all."""
    return sorted({step.frozen_depth for step in steps} | ({teacher.frozen_depth} if teacher else set()))
