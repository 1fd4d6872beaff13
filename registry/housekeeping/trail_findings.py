"""The rows against the audit trail: what was changed behind Trunkline's back shows, though every chain is whole."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.database.schema import (
    AliasMoveRow,
    AuditEventRow,
    BackbonePrefixRow,
    BackboneRow,
    ChannelRow,
    PlacementRow,
    ReleaseMemberRow,
    ReleaseMoveRow,
    ReleaseRow,
    SearchRow,
    SpecRevisionRow,
    TaskRow,
    TeamRow,
    VersionRow,
)
from registry.housekeeping.findings import Finding
from registry.housekeeping.row_findings import ROWS_WERE_CHANGED

Facts = dict[str, Any]
"""Subject, as in "version rte/3" -> what must be the same in the rows and in the trail."""


def trail_findings(session: Session) -> Iterator[Finding]:
    """Every object that is not as the audit trail says that it was made."""
    told, found = _told(session), _found(session)
    for subject in sorted(told.keys() | found.keys()):
        if subject not in found:
            yield _finding(subject, "the audit trail has it, but its rows are gone")
        elif subject not in told:
            yield _finding(subject, "the audit trail knows nothing of it")
        elif told[subject] != found[subject]:
            yield _finding(subject, f"is not as the audit trail says: {_difference(told[subject], found[subject])}")


def _told(session: Session) -> Facts:
    """What the events say, replayed in their order."""
    facts: Facts = {}
    for event in session.scalars(select(AuditEventRow).order_by(AuditEventRow.id)):
        after: Mapping[str, Any] = event.after or {}
        match event.action:
            case "team.create":
                facts[event.object] = {}
            case "backbone.pin":
                facts[event.object] = dict(after)
            case "task.register":
                facts[event.object] = {"team": after["team"], "state": "active", "specs": [after["spec"]]}
            case "task.update":
                facts[event.object]["specs"].append(after["spec"])
            case "task.retire" | "task.revive":
                facts[event.object]["state"] = after["state"]
            case "version.register":
                facts[event.object] = dict(after) | {"by": event.actor}
            case "alias.promote" | "alias.rollback":
                move = (event.action.removeprefix("alias."), (event.before or {}).get("version"), after["version"])
                facts.setdefault(event.object, []).append((*move, event.actor))
            case "release.register":
                # Before releases had states, one that did not pass its gates was not registered.
                facts[event.object] = {"state": "verified"} | dict(after) | {"by": event.actor}
            case "release.verify" | "release.approve" | "release.retire":
                facts[event.object]["state"] = after["state"]
            case "channel.create":
                facts[event.object] = {"takes": after["takes"], "by": event.actor, "placements": []}
            case "channel.promote" | "channel.revert":
                placed = (event.action.removeprefix("channel."), (event.before or {}).get("release"), after["release"])
                facts[event.object]["placements"].append((*placed, event.actor))
            case "search.begin":
                facts[event.object] = dict(after) | {"by": event.actor, "choice": None}
            case "search.finish":
                facts[event.object]["choice"] = after["choice"]
    return facts


def _found(session: Session) -> Facts:
    teams = {row.id: row.name for row in session.scalars(select(TeamRow))}
    facts: Facts = {f"team {name}": {} for name in teams.values()}
    tasks = {row.id: row for row in session.scalars(select(TaskRow))}
    names = {task_id: row.name for task_id, row in tasks.items()}
    backbones = {row.id: row for row in session.scalars(select(BackboneRow))}
    facts |= _backbones(session, backbones)
    specs: dict[int, list[str]] = defaultdict(list)
    for task_id, digest in session.execute(
        select(SpecRevisionRow.task_id, SpecRevisionRow.digest).order_by(SpecRevisionRow.number)
    ):
        specs[task_id].append(digest)
    for row in tasks.values():
        facts[f"task {row.name}"] = {"team": teams.get(row.team_id), "state": row.state, "specs": specs[row.id]}
    for version in session.scalars(select(VersionRow)):
        facts[f"version {names.get(version.task_id)}/{version.number}"] = {
            "kind": version.kind,
            "spec_revision": version.spec_revision,
            "backbone": backbones[version.backbone_id].name if version.backbone_id in backbones else None,
            "frozen_depth": version.frozen_depth,
            "task_layers": version.task_layers,
            "teacher": version.teacher_number,
            "module": version.module,
            "metrics": version.metrics,
            "by": version.created_by,
        }
    for move in session.scalars(select(AliasMoveRow).order_by(AliasMoveRow.id)):
        step = (move.kind, move.from_version, move.to_version, move.actor)
        facts.setdefault(f"alias {names.get(move.task_id)}@{move.alias}", []).append(step)
    pinned = {row.id: row.name for row in backbones.values()}
    return facts | _releases(session, names, pinned) | _channels(session) | _searches(session, names, pinned)


def _backbones(session: Session, rows: Mapping[int, BackboneRow]) -> Facts:
    deepest = select(BackbonePrefixRow).order_by(BackbonePrefixRow.depth)
    last = {prefix.backbone_id: prefix.prefix_digest for prefix in session.scalars(deepest)}
    return {
        f"backbone {row.name}": {
            "model_type": row.model_type,
            "layer_count": row.layer_count,
            "max_length": row.max_length,
            "prefix_digest": last.get(row.id),
        }
        for row in rows.values()
    }


def _releases(session: Session, tasks: Mapping[int, str], backbones: Mapping[int, str]) -> Facts:
    members: dict[int, dict[str | None, int]] = defaultdict(dict)
    for member in session.scalars(select(ReleaseMemberRow)):
        members[member.release_id][tasks.get(member.task_id)] = member.version_number
    moves = session.scalars(select(ReleaseMoveRow).order_by(ReleaseMoveRow.number))
    states = {move.release_id: move.to_state for move in moves}
    return {
        f"release r{row.number}": {
            "manifest": row.manifest,
            "backbone": backbones.get(row.backbone_id),
            "tasks": members[row.id],
            "state": states.get(row.id),
            "by": row.created_by,
        }
        for row in session.scalars(select(ReleaseRow))
    }


def _channels(session: Session) -> Facts:
    releases = {row.id: f"r{row.number}" for row in session.scalars(select(ReleaseRow))}
    placements: dict[int, list[tuple[str, str | None, str | None, str]]] = defaultdict(list)
    for row in session.scalars(select(PlacementRow).order_by(PlacementRow.id)):
        came_from = None if row.from_release_id is None else releases.get(row.from_release_id)
        placements[row.channel_id].append((row.kind, came_from, releases.get(row.to_release_id), row.actor))
    return {
        f"channel {row.name}": {"takes": row.takes, "by": row.created_by, "placements": placements[row.id]}
        for row in session.scalars(select(ChannelRow))
    }


def _searches(session: Session, tasks: Mapping[int, str], backbones: Mapping[int, str]) -> Facts:
    return {
        f"search {tasks.get(row.task_id)}#{row.number}": {
            "spec_revision": row.spec_revision,
            "backbone": backbones.get(row.backbone_id),
            "options": row.options,
            "choice": row.choice,
            "by": row.created_by,
        }
        for row in session.scalars(select(SearchRow))
    }


def _finding(subject: str, problem: str) -> Finding:
    return Finding(subject=subject, problem=problem, remedy=ROWS_WERE_CHANGED)


def _difference(told: Any, found: Any) -> str:
    if isinstance(told, dict) and isinstance(found, dict):
        field = next(name for name in sorted({*told, *found}) if told.get(name) != found.get(name))
        return f"{field} was {told.get(field)}, and is {found.get(field)}"
    return f"it was moved {len(told)} times, its journal has {len(found)}" if len(told) != len(found) else "its moves"
