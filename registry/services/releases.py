"""Releases: what was assembled, from which versions, under which manifest."""

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import date, datetime
from typing import Any, NamedTuple

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from registry.database.schema import (
    RELEASE_COUNTER,
    BackboneRow,
    CounterRow,
    ReleaseMemberRow,
    ReleaseRow,
    TaskRow,
    VersionRow,
)
from registry.domain.gate_findings import with_standing
from registry.domain.records import Member, NewRelease, Release, TaskState, Version
from registry.domain.references import VersionReference, check_alias
from registry.domain.release_changes import ReleaseChange, SelectionChange
from registry.domain.release_life import ReleaseState
from registry.errors import NotAllowed, NotFound, UsageError
from registry.fault_points import reached
from registry.services.audit import record_event
from registry.services.backbones import list_backbones
from registry.services.lookups import find_backbone, find_task, find_version, lock_tasks, wanted_pairs
from registry.services.release_journal import Standing, add_move, begin_journal, standings
from registry.services.versions import get_version, specs_of, versions_with_alias

_NUMBER = re.compile(r"r(?P<number>[1-9][0-9]{0,8})")
_DIGEST_START = re.compile(r"[0-9a-f]{8,64}")


def select_versions(session: Session, alias: str) -> list[Version]:
    """The version that the alias names in every active task that has it, by task; raises UsageError."""
    check_alias(alias)
    retired = set(session.scalars(select(TaskRow.name).where(TaskRow.state == TaskState.RETIRED)))
    return [version for version in versions_with_alias(session, alias) if version.task not in retired]


def members_of(session: Session, versions: Sequence[Version], *, at: datetime) -> list[Member]:
    """The versions with what assembling needs to know of each, in this order; four queries, however many there are.

    Raises:
        NotAllowed: tasks of them are retired, and not only from a later day on.
    """
    if not versions:
        return []
    _refuse_retired(retired_tasks(session, {version.task for version in versions}), at)
    specs = specs_of(session, versions)
    trained_on = {b.name: b for b in list_backbones(session, names={version.backbone for version in versions})}
    return [
        Member(
            version=version,
            spec=specs[version.task, version.spec_revision],
            trained_on=trained_on[version.backbone],
        )
        for version in versions
    ]


def register_release(session: Session, new: NewRelease, *, actor: str, at: datetime) -> Release:
    """Gives an assembled release its number, as a draft, and verified where its gates were run and passed.

    The same manifest again gives the release that exists; a draft of it is verified then, if the gates were run.

    Raises:
        UsageError: it has no task.
        NotFound: its backbone, a task or a version does not exist.
        NotAllowed: tasks in it are retired, and not only from a later day on; or it is a retired release.
    """
    counter = session.scalars(select(CounterRow).where(CounterRow.name == RELEASE_COUNTER).with_for_update()).one()
    session.refresh(counter)
    if find_release(session, new.manifest) is not None:
        row, existing = lock_release(session, new.manifest)
        refuse_if_release_retired(existing)
        if existing.state is ReleaseState.DRAFT and new.gates is not None:
            return record_gates(session, row, existing, new.gates, actor=actor, at=at)
        return existing
    if not new.tasks:
        raise UsageError("a release needs at least one task")
    backbone = find_backbone(session, new.backbone)
    members = _members(session, new, at)
    number = counter.next_number
    counter.next_number = number + 1
    latest = session.scalar(select(ReleaseRow.created_at).order_by(ReleaseRow.number.desc()).limit(1))
    row = ReleaseRow(
        number=number,
        manifest=new.manifest,
        backbone_id=backbone.id,
        trunk_depth=new.trunk_depth,
        layer_count=new.layer_count,
        # Clocks of two machines differ: the latest release at a moment must be the one of the highest number.
        created_at=at if latest is None else max(at, latest),
        created_by=actor,
    )
    session.add(row)
    session.flush()
    reached("release.row-written")
    for task_id, version_number in members:
        session.add(ReleaseMemberRow(release_id=row.id, task_id=task_id, version_number=version_number))
    session.flush()
    reached("release.members-written")
    state = begin_journal(session, row, report=new.gates, actor=actor, at=at)
    after = {"manifest": new.manifest, "backbone": new.backbone, "tasks": dict(new.tasks), "state": state}
    record_event(session, "release.register", f"release r{number}", actor=actor, at=at, after=after)
    return _records(session, _with_backbone().where(ReleaseRow.id == row.id))[0]


def get_release(session: Session, reference: str) -> Release:
    """The release named `r3`, by its manifest's digest or 8 or more of its first digits, or `latest`.

    Raises:
        UsageError: the reference is none of these, or several digests begin so.
        NotFound: there is no such release.
    """
    query = _with_backbone().order_by(ReleaseRow.number.desc())
    if reference == "latest":
        query = query.limit(1)
    elif match := _NUMBER.fullmatch(reference):
        query = query.where(ReleaseRow.number == int(match["number"]))
    elif _DIGEST_START.fullmatch(reference):
        query = query.where(ReleaseRow.manifest.startswith(reference))
    else:
        raise UsageError(
            f"{reference!r} is no reference to a release: write r3, the digest of its manifest "
            "(8 or more of its first digits will do), or latest"
        )
    found = _records(session, query)
    if not found:
        raise NotFound(f"there is no release {reference}: `trunkline release list` shows what there is")
    if len(found) > 1:
        raise UsageError(f"{reference} begins the manifests of {', '.join(r.name for r in found)}: write more digits")
    return found[0]


def lock_release(session: Session, reference: str) -> tuple[ReleaseRow, Release]:
    """`get_release`, and nobody else changes its state until this transaction ends.

    Others may still refer to it, as placements do to the release that they replace: with a stronger lock, two
    promotions in opposite directions would wait for each other.
    """
    name = get_release(session, reference).name
    query = select(ReleaseRow).where(ReleaseRow.number == int(name[1:])).with_for_update(key_share=True)
    row = session.scalars(query).one()
    return row, get_release(session, name)  # as it is now that it is locked


def record_gates(
    session: Session, row: ReleaseRow, release: Release, report: Mapping[str, Any], *, actor: str, at: datetime
) -> Release:
    """Keeps what the gates found of a locked release; a draft that passed is verified, every other state stays.

    What was found against a live release stands until it is held to one again: a report without such findings takes
    over those of the last one.
    """
    report = with_standing(report, release.gates or {})
    is_verified = bool(report["passed"]) and release.state is ReleaseState.DRAFT
    state = ReleaseState.VERIFIED if is_verified else release.state
    add_move(session, row, state, report=report, actor=actor, at=at)
    return get_release(session, release.name)


def refuse_if_release_retired(release: Release | None) -> None:
    """Raises NotAllowed: the same selection would be the same release again."""
    if release is not None and release.state is ReleaseState.RETIRED:
        raise NotAllowed(
            f"this selection is {release.name}, which is retired: change it "
            f"(`trunkline release notes {release.name} --since {release.name}` tells why)"
        )


def find_release(session: Session, manifest: str) -> Release | None:
    """The release of this manifest, if it was registered."""
    found = _records(session, _with_backbone().where(ReleaseRow.manifest == manifest))
    return found[0] if found else None


def list_releases(session: Session) -> list[Release]:
    """All releases, oldest first."""
    return find_releases(session).releases


class FoundReleases(NamedTuple):
    releases: list[Release]
    found: int
    """How many there are: more than `releases` when there is a limit."""


def find_releases(
    session: Session, *, holding: str | VersionReference | None = None, limit: int | None = None
) -> FoundReleases:
    """Releases, oldest first: those that hold a task, or a version of it, and the last so many when there is a limit.

    Raises:
        UsageError, NotFound: there is no such task or version.
    """
    query = select(ReleaseRow.id).order_by(ReleaseRow.number.desc())
    if holding is not None:
        name = holding if isinstance(holding, str) else holding.task
        task = find_task(session, name)
        query = query.join(ReleaseMemberRow).where(ReleaseMemberRow.task_id == task.id)
        if isinstance(holding, VersionReference):
            number = find_version(session, task, holding.number).number
            query = query.where(ReleaseMemberRow.version_number == number)
    ids = session.scalars(query).all()
    rows = _with_backbone().where(ReleaseRow.id.in_(ids[:limit])).order_by(ReleaseRow.number)
    return FoundReleases(_records(session, rows), len(ids))


def release_at(session: Session, at: datetime) -> Release | None:
    """The latest release that there was at a moment."""
    query = _with_backbone().where(ReleaseRow.created_at <= at).order_by(ReleaseRow.number.desc()).limit(1)
    found = _records(session, query)
    return found[0] if found else None


def history(session: Session, *, task: str | None = None, limit: int | None = None) -> list[ReleaseChange]:
    """What each release changed against the one before it, oldest first; of one task only those that changed it.

    Args:
        limit: only of the last so many releases, or of the last so many that changed the task.
    Raises:
        UsageError, NotFound: there is no such task.
    """
    owner = None if task is None else find_task(session, task)
    # The one before the first that is asked for says what that one changed.
    wanted = None
    if limit is not None and task is None:
        wanted = session.scalars(select(ReleaseRow.id).order_by(ReleaseRow.number.desc()).limit(limit + 1)).all()
    selections = _selections(session, releases=wanted, task=owner)
    query = (
        select(
            ReleaseRow.id,
            ReleaseRow.number,
            ReleaseRow.layer_count,
            ReleaseRow.created_at,
            ReleaseRow.created_by,
            BackboneRow.name.label("backbone"),
        )
        .join(BackboneRow, BackboneRow.id == ReleaseRow.backbone_id)
        .order_by(ReleaseRow.number)
    )
    if wanted is not None:
        query = query.where(ReleaseRow.id.in_(wanted))
    changes: list[ReleaseChange] = []
    selection: dict[str, int] = {}
    for row in session.execute(query):
        before, selection = selection, selections.get(row.id, {})
        last = changes[-1] if changes else None
        changes.append(
            ReleaseChange(
                release=f"r{row.number}",
                created_at=row.created_at,
                created_by=row.created_by,
                backbone=row.backbone,
                backbone_before=last and last.backbone,
                layer_count=row.layer_count,
                layer_count_before=last and last.layer_count,
                tasks=SelectionChange.between(before, selection),
            )
        )
    if task is not None:
        changes = [change for change in changes if not change.tasks.is_empty]
    return changes[-limit:] if limit else changes


def _members(session: Session, new: NewRelease, at: datetime) -> list[tuple[int, int]]:
    """(task, version number) of each member, by the task's name."""
    tasks = lock_tasks(session, new.tasks)
    members = [(task.id, new.tasks[task.name]) for task in tasks]
    wanted = wanted_pairs(members)
    on = (wanted.c.first == VersionRow.task_id) & (wanted.c.second == VersionRow.number)
    there = set(session.execute(select(VersionRow.task_id, VersionRow.number).join(wanted, on)))
    for task, member in zip(tasks, members, strict=True):
        if member not in there:
            get_version(session, VersionReference(task=task.name, number=member[1]))  # raises what it always raises
    _refuse_retired([(task.name, task.sunset_on) for task in tasks if task.state is TaskState.RETIRED], at)
    return members


def retired_tasks(session: Session, names: Collection[str]) -> list[tuple[str, date | None]]:
    """Those of the tasks that are retired, by name, with the day from which they are not served; None: at once."""
    query = select(TaskRow.name, TaskRow.sunset_on).where(TaskRow.name.in_(names), TaskRow.state == TaskState.RETIRED)
    return [(row.name, row.sunset_on) for row in session.execute(query.order_by(TaskRow.name))]


def retired_by(session: Session, names: Collection[str], day: date) -> list[str]:
    """Those of the tasks that are not to be served on a day any more, by name."""
    return _over(retired_tasks(session, names), day)


def _over(retired: Sequence[tuple[str, date | None]], day: date) -> list[str]:
    return sorted(name for name, sunset in retired if sunset is None or day >= sunset)


def _refuse_retired(retired: Sequence[tuple[str, date | None]], at: datetime) -> None:
    if gone := _over(retired, at.date()):
        raise NotAllowed(
            f"retired tasks take no place in a new release: {', '.join(gone)}; "
            "leave them out (`--remove` of `release update`), or bring them back with `trunkline task revive`"
        )


def _with_backbone() -> Select[ReleaseRow, str]:
    return select(ReleaseRow, BackboneRow.name).join(BackboneRow, BackboneRow.id == ReleaseRow.backbone_id)


def _records(session: Session, query: Select[ReleaseRow, str]) -> list[Release]:
    rows = session.execute(query).all()
    ids = [release.id for release, _ in rows]
    selections, standing = _selections(session, releases=ids), standings(session, ids)
    return [_record(release, backbone, selections[release.id], standing[release.id]) for release, backbone in rows]


def _selections(
    session: Session, *, releases: Collection[int] | None = None, task: TaskRow | None = None
) -> dict[int, dict[str, int]]:
    """Release -> task -> version number: of all releases or these, with all tasks or this one."""
    query = (
        select(ReleaseMemberRow.release_id, TaskRow.name, ReleaseMemberRow.version_number)
        .join(TaskRow, TaskRow.id == ReleaseMemberRow.task_id)
        .order_by(TaskRow.name)
    )
    if releases is not None:
        query = query.where(ReleaseMemberRow.release_id.in_(releases))
    if task is not None:
        query = query.where(ReleaseMemberRow.task_id == task.id)
    selections: dict[int, dict[str, int]] = {}
    for release, name, number in session.execute(query):
        selections.setdefault(release, {})[name] = number
    return selections


def _record(row: ReleaseRow, backbone: str, tasks: dict[str, int], standing: Standing) -> Release:
    return Release(
        name=f"r{row.number}",
        manifest=row.manifest,
        backbone=backbone,
        tasks=tasks,
        trunk_depth=row.trunk_depth,
        layer_count=row.layer_count,
        state=standing.state,
        gates=standing.report,
        created_at=row.created_at,
        created_by=row.created_by,
    )
