"""Releases: what was assembled, from which versions, under which manifest."""

import re
from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from registry.database.schema import (
    RELEASE_COUNTER,
    BackboneRow,
    CounterRow,
    ReleaseMemberRow,
    ReleaseRow,
    TaskRow,
)
from registry.domain.records import NewRelease, Release, TaskState, Version
from registry.domain.references import check_alias
from registry.errors import NotAllowed, NotFound, UsageError
from registry.fault_points import reached
from registry.services.audit import record_event
from registry.services.lookups import find_backbone, find_version, lock_task
from registry.services.versions import versions_with_alias

_NUMBER = re.compile(r"r(?P<number>[1-9][0-9]{0,8})")
_DIGEST_START = re.compile(r"[0-9a-f]{8,64}")


def select_versions(session: Session, alias: str) -> list[Version]:
    """The version that the alias names in every active task that has it, by task; raises UsageError."""
    check_alias(alias)
    retired = set(session.scalars(select(TaskRow.name).where(TaskRow.state == TaskState.RETIRED)))
    return [version for version in versions_with_alias(session, alias) if version.task not in retired]


def register_release(session: Session, new: NewRelease, *, actor: str, at: datetime) -> Release:
    """Gives an assembled release its number; the same manifest again gives the release that exists.

    Raises:
        UsageError: it has no task.
        NotFound: its backbone, a task or a version does not exist.
        NotAllowed: tasks in it are retired.
    """
    counter = session.scalars(select(CounterRow).where(CounterRow.name == RELEASE_COUNTER).with_for_update()).one()
    session.refresh(counter)
    if (existing := find_release(session, new.manifest)) is not None:
        return existing
    if not new.tasks:
        raise UsageError("a release needs at least one task")
    backbone = find_backbone(session, new.backbone)
    members = _members(session, new)
    number = counter.next_number
    counter.next_number = number + 1
    row = ReleaseRow(
        number=number,
        manifest=new.manifest,
        backbone_id=backbone.id,
        trunk_depth=new.trunk_depth,
        layer_count=new.layer_count,
        gates=dict(new.gates),
        created_at=at,
        created_by=actor,
    )
    session.add(row)
    session.flush()
    reached("release.row-written")
    for task_id, version_number in members:
        session.add(ReleaseMemberRow(release_id=row.id, task_id=task_id, version_number=version_number))
    session.flush()
    reached("release.members-written")
    after = {"manifest": new.manifest, "backbone": new.backbone, "tasks": dict(new.tasks)}
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


def find_release(session: Session, manifest: str) -> Release | None:
    """The release of this manifest, if it was registered."""
    found = _records(session, _with_backbone().where(ReleaseRow.manifest == manifest))
    return found[0] if found else None


def list_releases(session: Session) -> list[Release]:
    """All releases, oldest first."""
    return _records(session, _with_backbone().order_by(ReleaseRow.number))


def _members(session: Session, new: NewRelease) -> list[tuple[int, int]]:
    """(task, version number) of each member. Tasks are locked in one order, so that two releases cannot deadlock."""
    members, retired = [], []
    for name, number in sorted(new.tasks.items()):
        task = lock_task(session, name)
        if task.state is TaskState.RETIRED:
            retired.append(name)
        members.append((task.id, find_version(session, task, number).number))
    if retired:
        raise NotAllowed(
            f"retired tasks take no place in a new release: {', '.join(retired)}; "
            "leave them out, or bring them back with `trunkline task revive`"
        )
    return members


def _with_backbone() -> Select[ReleaseRow, str]:
    return select(ReleaseRow, BackboneRow.name).join(BackboneRow, BackboneRow.id == ReleaseRow.backbone_id)


def _records(session: Session, query: Select[ReleaseRow, str]) -> list[Release]:
    rows = session.execute(query).all()
    tasks = _tasks(session, [release.id for release, _ in rows])
    return [_record(release, backbone, tasks[release.id]) for release, backbone in rows]


def _tasks(session: Session, releases: Iterable[int]) -> dict[int, dict[str, int]]:
    query = (
        select(ReleaseMemberRow, TaskRow.name)
        .join(TaskRow, TaskRow.id == ReleaseMemberRow.task_id)
        .where(ReleaseMemberRow.release_id.in_(list(releases)))
        .order_by(TaskRow.name)
    )
    tasks: dict[int, dict[str, int]] = {}
    for member, task in session.execute(query):
        tasks.setdefault(member.release_id, {})[task] = member.version_number
    return tasks


def _record(row: ReleaseRow, backbone: str, tasks: dict[str, int]) -> Release:
    return Release(
        name=f"r{row.number}",
        manifest=row.manifest,
        backbone=backbone,
        tasks=tasks,
        trunk_depth=row.trunk_depth,
        layer_count=row.layer_count,
        gates=row.gates,
        created_at=row.created_at,
        created_by=row.created_by,
    )
