"""Versions: immutable, numbered without gaps by a counter on the task's row, each bound to a backbone's prefix."""

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from registry.database.schema import AliasRow, BackboneRow, SpecRevisionRow, TaskRow, VersionRow
from registry.domain.records import NewVersion, ScoredVersion, TaskState, Version, VersionKind
from registry.domain.references import AliasReference, VersionReference
from registry.domain.task_specs import TaskSpec
from registry.domain.version_rules import backbone_problems, kind_problems, spec_problems, teacher_problems
from registry.errors import InvalidInput, NotFound
from registry.fault_points import reached
from registry.services.audit import record_event
from registry.services.backbones import record_of
from registry.services.lookups import (
    find_backbone,
    find_task,
    find_version,
    lock_task,
    refuse_if_retired,
    wanted_pairs,
)


def register_version(session: Session, new: NewVersion, *, actor: str, at: datetime) -> Version:
    """Gives a trained module its number; the same trial registered again gives the version that exists.

    Raises:
        NotFound: the task, its spec revision, the backbone or the teacher does not exist.
        NotAllowed: the task is retired.
        InvalidInput: the module does not fit its task, its backbone or its teacher; lists every reason.
    """
    task = lock_task(session, new.task)
    if (existing := _find_trial(session, task, new.trial_key)) is not None:
        return existing
    refuse_if_retired(task, "no new versions")
    backbone = find_backbone(session, new.backbone)
    if problems := _problems(session, task, backbone, new):
        raise InvalidInput(f"version of task {new.task}", problems)
    number = task.next_version
    task.next_version = number + 1
    row = _row(new, task_id=task.id, backbone_id=backbone.id, number=number, actor=actor, at=at)
    session.add(row)
    session.flush()
    reached("version.row-written")
    after = new.model_dump(
        mode="json",
        include={"kind", "spec_revision", "backbone", "frozen_depth", "task_layers", "teacher", "module", "metrics"},
    )
    record_event(session, "version.register", f"version {new.task}/{number}", actor=actor, at=at, after=after)
    return _record(row, new.task, new.backbone)


def get_version(session: Session, reference: VersionReference | AliasReference) -> Version:
    """The version that is referred to; raises NotFound when there is no such task, version or alias."""
    task = find_task(session, reference.task)
    if isinstance(reference, AliasReference):
        number = session.scalar(
            select(AliasRow.version_number).where(AliasRow.task_id == task.id, AliasRow.name == reference.alias)
        )
        if number is None:
            raise NotFound(
                f"task {task.name} has no alias {reference.alias!r}: `trunkline task show {task.name}` lists them, "
                "`trunkline task promote` sets one"
            )
    else:
        number = find_version(session, task, reference.number).number
    return _records(session, _with_names().where(VersionRow.task_id == task.id, VersionRow.number == number))[0]


def get_versions(session: Session, references: Sequence[VersionReference | AliasReference]) -> list[Version]:
    """The versions that are referred to, in this order, by two queries; raises what `get_version` raises."""
    numbers = {(one.task, one.number) for one in references if isinstance(one, VersionReference)}
    aliases = {(one.task, one.alias) for one in references if isinstance(one, AliasReference)}
    named = _numbers_named(session, aliases)
    found = _numbered(session, numbers.union(named.values()))

    def version(reference: VersionReference | AliasReference) -> Version:
        if isinstance(reference, AliasReference):
            at = named.get((reference.task, reference.alias))
        else:
            at = reference.task, reference.number
        # What is missing is looked up once more, for the error that says why.
        return found[at] if at in found else get_version(session, reference)

    return [version(reference) for reference in references]


def list_versions(
    session: Session, task: str, *, kind: VersionKind | None = None, backbone: str | None = None
) -> list[Version]:
    """The versions of a task, oldest first; only of one kind, or trained on one backbone, when asked.

    Raises:
        UsageError, NotFound: there is no such task or backbone.
    """
    row = find_task(session, task)
    query = _with_names().where(VersionRow.task_id == row.id).order_by(VersionRow.number)
    if kind is not None:
        query = query.where(VersionRow.kind == kind)
    if backbone is not None:
        query = query.where(VersionRow.backbone_id == find_backbone(session, backbone).id)
    return _records(session, query)


def scored_versions(session: Session) -> list[ScoredVersion]:
    """Every version of the active tasks, by task, oldest first; one query, however many there are."""
    revision = (SpecRevisionRow.task_id == VersionRow.task_id) & (SpecRevisionRow.number == VersionRow.spec_revision)
    query = (
        select(
            TaskRow.name.label("task"),
            VersionRow.number,
            VersionRow.frozen_depth,
            VersionRow.task_layers,
            VersionRow.prefix_digest,
            VersionRow.metrics,
            VersionRow.dev_digest,
            SpecRevisionRow.digest,
            SpecRevisionRow.definition,
        )
        .join(TaskRow, TaskRow.id == VersionRow.task_id)
        .join(SpecRevisionRow, revision)
        .where(TaskRow.state == TaskState.ACTIVE)
        .order_by(TaskRow.name, VersionRow.number)
    )
    specs: dict[str, TaskSpec] = {}
    found = []
    for row in session.execute(query):
        values = dict(row._mapping)
        digest, definition = values.pop("digest"), values.pop("definition")
        if digest not in specs:
            specs[digest] = TaskSpec.model_validate(definition)
        found.append(ScoredVersion(**values, spec=specs[digest]))
    return found


def specs_of(session: Session, found: Collection[Version]) -> dict[tuple[str, int], TaskSpec]:
    """(task, revision) -> the definition that these versions were trained for; one query."""
    if not found:
        return {}
    wanted = wanted_pairs({(version.task, version.spec_revision) for version in found})
    definitions = session.execute(
        select(TaskRow.name, SpecRevisionRow.number, SpecRevisionRow.definition)
        .join(TaskRow, TaskRow.id == SpecRevisionRow.task_id)
        .join(wanted, (wanted.c.first == TaskRow.name) & (wanted.c.second == SpecRevisionRow.number))
    )
    return {(task, number): TaskSpec.model_validate(definition) for task, number, definition in definitions}


def find_trial(session: Session, task: str, trial_key: str) -> Version | None:
    """The version that this trial became, if it was registered; raises UsageError or NotFound for the task."""
    return _find_trial(session, find_task(session, task), trial_key)


def _find_trial(session: Session, task: TaskRow, trial_key: str) -> Version | None:
    found = _records(session, _with_names().where(VersionRow.task_id == task.id, VersionRow.trial_key == trial_key))
    return found[0] if found else None


def versions_with_alias(session: Session, alias: str) -> list[Version]:
    """The version that the alias names in each task, by task; retired tasks too."""
    query = _with_names().join(
        AliasRow, (AliasRow.task_id == VersionRow.task_id) & (AliasRow.version_number == VersionRow.number)
    )
    return _records(session, query.where(AliasRow.name == alias).order_by(TaskRow.name))


def _numbers_named(session: Session, aliases: Collection[tuple[str, str]]) -> dict[tuple[str, str], tuple[str, int]]:
    """(task, alias) -> (task, number), of those that there are."""
    if not aliases:
        return {}
    wanted = wanted_pairs(aliases)
    query = (
        select(TaskRow.name, AliasRow.name, AliasRow.version_number)
        .join(TaskRow, TaskRow.id == AliasRow.task_id)
        .join(wanted, (wanted.c.first == TaskRow.name) & (wanted.c.second == AliasRow.name))
    )
    return {(task, alias): (task, number) for task, alias, number in session.execute(query)}


def _numbered(session: Session, numbers: Collection[tuple[str, int]]) -> dict[tuple[str, int], Version]:
    """(task, number) -> version, of those that there are."""
    if not numbers:
        return {}
    wanted = wanted_pairs(numbers)
    query = _with_names().join(wanted, (wanted.c.first == TaskRow.name) & (wanted.c.second == VersionRow.number))
    return {(version.task, version.number): version for version in _records(session, query)}


def _problems(session: Session, task: TaskRow, owner: BackboneRow, new: NewVersion) -> list[str]:
    spec, backbone = _spec(session, task, new.spec_revision), record_of(session, owner)
    problems = [*spec_problems(new, spec), *backbone_problems(new, backbone), *kind_problems(new)]
    if new.teacher is not None:
        teacher = get_version(session, VersionReference(task=new.task, number=new.teacher))
        taught = _spec(session, task, teacher.spec_revision)
        problems += teacher_problems(new, teacher, spec=spec, taught=taught, backbone=backbone)
    return problems


def _spec(session: Session, task: TaskRow, revision: int) -> TaskSpec:
    definition = session.scalar(
        select(SpecRevisionRow.definition).where(SpecRevisionRow.task_id == task.id, SpecRevisionRow.number == revision)
    )
    if definition is None:
        raise NotFound(f"task {task.name} has no spec revision {revision}: see `trunkline task show {task.name}`")
    return TaskSpec.model_validate(definition)


def _row(new: NewVersion, *, task_id: int, backbone_id: int, number: int, actor: str, at: datetime) -> VersionRow:
    return VersionRow(
        task_id=task_id,
        number=number,
        spec_revision=new.spec_revision,
        backbone_id=backbone_id,
        kind=new.kind,
        frozen_depth=new.frozen_depth,
        task_layers=new.task_layers,
        top_layer=new.frozen_depth + new.task_layers,
        prefix_digest=new.prefix_digest,
        teacher_number=new.teacher,
        head=new.head.model_dump(mode="json"),
        module=new.module,
        golden=new.golden,
        dev_predictions=new.dev_predictions,
        metrics=dict(new.metrics),
        statistic=new.statistic,
        train_digest=new.train_digest,
        dev_digest=new.dev_digest,
        recipe=dict(new.recipe),
        seed=new.seed,
        environment=dict(new.environment),
        trial_key=new.trial_key,
        mlflow_run=new.mlflow_run,
        created_at=at,
        created_by=actor,
    )


def _with_names() -> Select[VersionRow, str, str]:
    return (
        select(VersionRow, TaskRow.name, BackboneRow.name)
        .join(TaskRow, TaskRow.id == VersionRow.task_id)
        .join(BackboneRow, BackboneRow.id == VersionRow.backbone_id)
    )


def _records(session: Session, query: Select[VersionRow, str, str]) -> list[Version]:
    return [_record(row, task, backbone) for row, task, backbone in session.execute(query)]


def _record(row: VersionRow, task: str, backbone: str) -> Version:
    return Version.model_validate(
        {
            "task": task,
            "number": row.number,
            "spec_revision": row.spec_revision,
            "backbone": backbone,
            "kind": row.kind,
            "frozen_depth": row.frozen_depth,
            "task_layers": row.task_layers,
            "prefix_digest": row.prefix_digest,
            "teacher": row.teacher_number,
            "head": row.head,
            "module": row.module,
            "golden": row.golden,
            "dev_predictions": row.dev_predictions,
            "metrics": row.metrics,
            "statistic": row.statistic,
            "train_digest": row.train_digest,
            "dev_digest": row.dev_digest,
            "recipe": row.recipe,
            "seed": row.seed,
            "environment": row.environment,
            "trial_key": row.trial_key,
            "mlflow_run": row.mlflow_run,
            "created_at": row.created_at,
            "created_by": row.created_by,
        }
    )
