"""`release`: assemble what was selected, and show what was assembled."""

from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy.orm import Session

from cli import release_drawing
from cli.application import AsJson, Context, Limit, example, rows_wanted
from cli.moments import parse_moment
from cli.progress import progress_bar
from cli.release_findings import failed_lines, refuse_with_table, summary
from cli.rendering import (
    moment,
    number_column,
    print_fields,
    print_json,
    print_line,
    print_note,
    print_rest,
    print_table,
    print_warning,
    short_digest,
    time_column,
)
from cli.yaml_files import read_yaml
from registry.domain.locks import Lock, parse_lock
from registry.domain.manifests import Manifest, parse_manifest
from registry.domain.records import Backbone, Release, TaskState, Version
from registry.domain.references import parse_reference
from registry.domain.release_changes import ReleaseChange
from registry.errors import UsageError
from registry.fault_points import reached
from registry.services import backbones, channels, releases, tasks, versions
from registry.services.blobs import refer_to

app = typer.Typer(no_args_is_help=True, help="Assemble releases and look at them.")

_MOST_CHANGES = 10
_MOST_NAMES = 20
_VERIFY = "trunkline release verify"
_AT_A_TIME = {"manifest", "backbone", "trunk_depth", "layer_count", "created_at", "created_by"}
"""What `history --at` tells of a release, beside its versions."""


@app.command(
    epilog=example(
        "trunkline release assemble --select champion",
        "trunkline release assemble --lock lock.yaml",
        "trunkline release assemble --task rte/3 --task cola/1",
    )
)
def assemble(
    ctx: typer.Context,
    select: Annotated[
        str | None, typer.Option(metavar="ALIAS", help="Every active task's version with this alias.")
    ] = None,
    lock: Annotated[Path | None, typer.Option(metavar="FILE", help="Exactly what a lock file lists.")] = None,
    task: Annotated[
        list[str] | None, typer.Option(metavar="VERSION", help="TASK/NUMBER or TASK@ALIAS; may be repeated.")
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(metavar="NAME", help="The backbone. [default: the one the versions were trained on]")
    ] = None,
    as_draft: Annotated[
        bool, typer.Option("--draft", help="Only register it; `release verify` runs the gates.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Build the merged model of the selected versions, prove it, and register the release.

    The gates: every tensor used exactly once, every branch on the frozen layers it was trained on, and the same
    answers as each module gives alone, also in mixed batches. The same selection always gives the same release.
    """
    from pipelines.assembly import release_assembly

    context: Context = ctx.obj
    if sum((select is not None, lock is not None, bool(task))) != 1:
        raise UsageError("say what to assemble with exactly one of --select ALIAS, --lock FILE and --task VERSION")
    locked = parse_lock(read_yaml(context.cwd / lock), f"lock {lock}") if lock else None
    if locked and backbone and backbone != locked.backbone:
        raise UsageError(f"lock {lock} names backbone {locked.backbone}; leave --backbone {backbone} out")
    with context.database.read() as session:
        selected = _selected(session, select=select, locked=locked, references=task or [])
        trunk = _backbone(session, locked.backbone if locked else backbone, selected)
        # Retired tasks are refused here too, and not only when the release is registered: assembling takes a while.
        members = releases.members_of(session, selected, at=context.now())
        left_out = [] if select is None else _left_out(session, select)
        leaving = sunset_notes(session, [version.task for version in selected])
    for note in left_out:
        print_note(note)
    for note in leaving:
        print_warning(note)
    reached("assemble.selected")
    manifest = release_assembly.draft(trunk, members)
    refuse_retired_selection(context, manifest)
    gates = None
    if not as_draft:
        with progress_bar() as report:
            assembled = release_assembly.verify(manifest, store=context.store, report=report)
        refuse_with_table(assembled.findings, as_json=as_json)
        gates = assembled.gates
    new = release_assembly.new_release(manifest, context.store, gates=gates)
    reached("assemble.manifest-stored")
    with context.database.write() as session:
        refer_to(session, context.store, (new.manifest, *manifest.blobs))
        known = releases.find_release(session, new.manifest) is not None
        release = releases.register_release(session, new, actor=context.actor, at=context.now())
        latest = releases.get_release(session, "latest").name
    reached("assemble.committed")
    if known:
        still = "" if latest == release.name else f"; latest is still {latest}"
        print_note(f"this selection has been assembled before: it is {release.name}{still}")
    print_release(release, manifest, as_json=as_json)


@app.command("list", epilog=example("trunkline release list", "trunkline release list --version rte/3"))
def list_(
    ctx: typer.Context,
    task: Annotated[str | None, typer.Option(help="Only those that hold this task.")] = None,
    version: Annotated[
        str | None, typer.Option(metavar="VERSION", help="Only those that hold this TASK/NUMBER or TASK@ALIAS.")
    ] = None,
    limit: Limit = None,
    as_json: AsJson = False,
) -> None:
    """The releases, oldest first: all of them, or where a task or a version is used."""
    context: Context = ctx.obj
    if task is not None and version is not None:
        raise UsageError("--version names a task already: leave --task out")
    with context.database.read() as session:
        holding = task if version is None else versions.get_version(session, parse_reference(version)).reference
        found = releases.find_releases(session, holding=holding, limit=rows_wanted(limit, as_json=as_json))
        live = channels.list_channels(session)
    if as_json:
        print_json(found.releases)
    elif not found.releases and holding is not None:
        print_line(f"no release holds {holding}")
    elif not found.releases:
        print_line("no release yet; assemble one: trunkline release assemble --select champion")
    else:
        print_table(
            [
                "release",
                "backbone",
                *map(number_column, ("tasks", "layers")),
                "state",
                "live on",
                time_column("created (UTC)"),
                "by",
                "manifest",
            ],
            [
                (
                    release.name,
                    release.backbone,
                    str(len(release.tasks)),
                    str(release.layer_count),
                    release.state,
                    ", ".join(channel.name for channel in live if channel.release == release.name),
                    moment(release.created_at),
                    release.created_by,
                    short_digest(release.manifest),
                )
                for release in found.releases
            ],
        )
        print_rest(found.found - len(found.releases), "older; use --limit")


@app.command(
    epilog=example(
        "trunkline release history",
        "trunkline release history --task rte",
        "trunkline release history --at 2026-05-01T12:00",
    )
)
def history(
    ctx: typer.Context,
    task: Annotated[str | None, typer.Option(help="Only what changed for this task.")] = None,
    at: Annotated[
        datetime | None,
        typer.Option(
            parser=parse_moment,
            metavar="TIME",
            help="Instead, the latest release then and its versions: a date (its first moment) or a date and time, "
            "UTC unless it has an offset.",
        ),
    ] = None,
    limit: Limit = None,
    as_json: AsJson = False,
) -> None:
    """Show what each release changed against the one before it, or what the latest one held at a time."""
    context: Context = ctx.obj
    if at is None:
        _print_changes(context, task, rows_wanted(limit, as_json=as_json), as_json=as_json)
    elif limit is not None:
        raise UsageError("--at shows one release: leave --limit out")
    else:
        _print_release_at(context, task, at, as_json=as_json)


def _print_changes(context: Context, task: str | None, limit: int | None, *, as_json: bool) -> None:
    with context.database.read() as session:
        changes = releases.history(session, task=task, limit=None if task else limit)
    shown = changes[-limit:] if limit else changes
    # Numbers have no gaps: the last release says how many there are.
    total = len(changes) if task or not changes else int(changes[-1].release.removeprefix("r"))
    if as_json:
        print_json(shown)
    elif not shown:
        print_line("no release yet" if task is None else f"no release has held task {task}")
    else:
        print_table(
            ["release", time_column("created (UTC)"), "by", number_column("layers"), "changes"],
            [
                (
                    change.release,
                    moment(change.created_at),
                    change.created_by,
                    _layers(change),
                    ", ".join(_described(change)),
                )
                for change in shown
            ],
        )
        print_rest(total - len(shown), "older; use --limit")


def _layers(change: ReleaseChange) -> str:
    more = change.layer_count - (change.layer_count_before or change.layer_count)
    return f"{change.layer_count} ({more:+})" if more else str(change.layer_count)


def _described(change: ReleaseChange) -> list[str]:
    """What a release changed, in a few words each: `rte/3 → 4`, `+cola/1`, `-sst/2`."""
    tasks = change.tasks
    words = [f"{task}/{before} → {now}" for task, (before, now) in tasks.moved.items()]
    words += [f"+{task}/{number}" for task, number in tasks.added.items()]
    words += [f"-{task}/{number}" for task, number in tasks.removed.items()]
    shown, hidden = words[:_MOST_CHANGES], words[_MOST_CHANGES:]
    backbone = change.backbone_before not in (None, change.backbone)
    return [
        *([f"backbone {change.backbone_before} → {change.backbone}"] if backbone else []),
        *shown,
        *([f"{len(hidden)} more (--json shows all)"] if hidden else []),
    ]


def _print_release_at(context: Context, task: str | None, at: datetime, *, as_json: bool) -> None:
    with context.database.read() as session:
        if task is not None:
            tasks.get_task(session, task)  # for the error when there is none
        release = releases.release_at(session, at)
    held = {} if release is None else release.tasks
    selection = {name: number for name, number in held.items() if task in (None, name)}
    if as_json:
        parts = {} if release is None else release.model_dump(mode="json", include=_AT_A_TIME)
        print_json({"at": at.isoformat(), "release": release and release.name, **parts, "tasks": selection})
    elif release is None:
        print_line(f"at {moment(at)} UTC there was no release")
    elif not selection:
        print_line(f"at {moment(at)} UTC the latest release was {release.name}, without task {task}")
    else:
        print_line(
            f"at {moment(at)} UTC the latest release was {release.name}, made {moment(release.created_at)} by "
            f"{release.created_by}: backbone {release.backbone}, {release.layer_count} layers"
        )
        print_table(["task", "version"], [(name, f"{name}/{number}") for name, number in selection.items()])


ReleaseArgument = Annotated[str, typer.Argument(help="r<number>, latest, or the start of a manifest's digest.")]


@app.command(epilog=example("trunkline release show r1", "trunkline release show latest --json"))
def show(ctx: typer.Context, release: ReleaseArgument, as_json: AsJson = False) -> None:
    """Draw a release: the trunk, and each branch where it leaves."""
    found, manifest = open_manifest(ctx.obj, release)
    print_release(found, manifest, as_json=as_json)


@app.command("lock", epilog=example("trunkline release lock r1 > lock.yaml"))
def lock_(ctx: typer.Context, release: ReleaseArgument, as_json: AsJson = False) -> None:
    """Print the lock that a release was built from, ready for `release assemble --lock`."""
    import yaml

    _, manifest = open_manifest(ctx.obj, release)
    content = manifest.lock.model_dump(mode="json")
    if as_json:
        print_json(content)
    else:
        print_line(yaml.safe_dump(content, sort_keys=True).rstrip())


def open_manifest(context: Context, reference: str) -> tuple[Release, Manifest]:
    """A release and its manifest, digest verified."""
    with context.database.read() as session:
        release = releases.get_release(session, reference)
    return release, parse_manifest(context.store.read(release.manifest), f"manifest of release {release.name}")


def _selected(session: Session, *, select: str | None, locked: Lock | None, references: list[str]) -> list[Version]:
    if select is not None:
        return releases.select_versions(session, select)
    if locked is not None:
        return versions.get_versions(session, locked.versions)
    named = versions.get_versions(session, [parse_reference(reference) for reference in references])
    seen = [version.task for version in named]
    if repeated := sorted({task for task in seen if seen.count(task) > 1}):
        raise UsageError(f"selected twice: {', '.join(repeated)}; a release holds one version of a task")
    return named


def _left_out(session: Session, alias: str) -> list[str]:
    """What a selection by alias leaves out, in words: active tasks without it, and retired ones that have it."""
    found = tasks.list_tasks(session)
    without = [task.name for task in found if task.state is TaskState.ACTIVE and alias not in task.aliases]
    retired = [task.name for task in found if task.state is TaskState.RETIRED and alias in task.aliases]
    reasons = ((without, f"no alias {alias}"), (retired, f"retired, with alias {alias}"))
    return [f"not in it: {_first_names(names)} ({reason})" for names, reason in reasons if names]


def refuse_retired_selection(context: Context, manifest: Manifest) -> None:
    """Before the gates are run, not only when the release is registered."""
    with context.database.read() as session:
        releases.refuse_if_release_retired(releases.find_release(session, manifest.digest()))


def sunset_notes(session: Session, selected: Collection[str]) -> list[str]:
    """What is said of the tasks of a release that are retired from a later day on."""
    return [
        f"task {name} is retired: from {sunset} on no release can hold it (`trunkline task show {name}`)"
        for name, sunset in releases.retired_tasks(session, selected)
    ]


def _first_names(names: list[str]) -> str:
    shown, hidden = names[:_MOST_NAMES], names[_MOST_NAMES:]
    return ", ".join(shown) + (f" and {len(hidden):,} more" if hidden else "")


def _backbone(session: Session, name: str | None, selected: list[Version]) -> Backbone:
    if name is not None:
        return backbones.get_backbone(session, name)
    trained_on = sorted({version.backbone for version in selected})
    if not trained_on:
        raise UsageError("no version is selected: promote some first, or name them with --task TASK/NUMBER")
    if len(trained_on) > 1:
        raise UsageError(f"the versions were trained on {', '.join(trained_on)}: choose one with --backbone")
    return backbones.get_backbone(session, trained_on[0])


def print_release(release: Release, manifest: Manifest, *, as_json: bool) -> None:
    if as_json:
        layers = {"layers_in_use": manifest.layers_in_use, "layers_if_separate": manifest.layers_if_separate}
        print_json(
            {"release": release.model_dump(mode="json"), "manifest": manifest.model_dump(mode="json"), "layers": layers}
        )
        return
    print_fields(
        [
            ("release", f"{release.name}  manifest {short_digest(release.manifest)}"),
            ("backbone", f"{release.backbone} ({manifest.trunk.layer_count} layers)"),
            ("created (UTC)", f"{moment(release.created_at)} by {release.created_by}"),
            ("layers", release_drawing.summary(manifest)),
            ("state", release.state),
            ("gates", summary(release.gates) if release.gates else f"not run yet: `{_VERIFY} {release.name}`"),
        ]
    )
    for line in failed_lines(release.gates or {}):
        print_line(f"  {line}")
    print_line("")
    for line in release_drawing.draw(manifest):
        print_line(line)
