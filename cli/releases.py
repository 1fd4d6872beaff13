"""`release`: assemble what was selected, and show what was assembled."""

from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy.orm import Session

from cli import release_drawing
from cli.application import AsJson, Context, example
from cli.progress import progress_bar
from cli.rendering import (
    moment,
    number_column,
    print_fields,
    print_json,
    print_line,
    print_note,
    print_table,
    short_digest,
    time_column,
)
from cli.yaml_files import read_yaml
from registry.domain.locks import Lock, parse_lock
from registry.domain.manifests import Manifest, parse_manifest
from registry.domain.records import Backbone, Release, Version
from registry.domain.references import parse_reference
from registry.errors import UsageError
from registry.fault_points import reached
from registry.services import backbones, releases, versions
from registry.services.blobs import refer_to

app = typer.Typer(no_args_is_help=True, help="Assemble releases and look at them.")


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
        members = releases.members_of(session, selected)
    reached("assemble.selected")
    with progress_bar() as report:
        assembled = release_assembly.assemble(trunk, members, store=context.store, report=report)
    new = assembled.to_release(context.store)
    reached("assemble.manifest-stored")
    with context.database.write() as session:
        refer_to(session, context.store, (new.manifest, *assembled.manifest.blobs))
        known = releases.find_release(session, new.manifest) is not None
        release = releases.register_release(session, new, actor=context.actor, at=context.now())
    reached("assemble.committed")
    if known:
        print_note(f"this selection has been assembled before: it is {release.name}")
    _print_release(release, assembled.manifest, as_json=as_json)


@app.command("list", epilog=example("trunkline release list"))
def list_(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Every release, oldest first."""
    context: Context = ctx.obj
    with context.database.read() as session:
        found = releases.list_releases(session)
    if as_json:
        print_json(found)
    elif not found:
        print_line("no release yet; assemble one: trunkline release assemble --select champion")
    else:
        print_table(
            [
                "release",
                "backbone",
                *map(number_column, ("tasks", "layers")),
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
                    moment(release.created_at),
                    release.created_by,
                    short_digest(release.manifest),
                )
                for release in found
            ],
        )


ReleaseArgument = Annotated[str, typer.Argument(help="r<number>, latest, or the start of a manifest's digest.")]


@app.command(epilog=example("trunkline release show r1", "trunkline release show latest --json"))
def show(ctx: typer.Context, release: ReleaseArgument, as_json: AsJson = False) -> None:
    """Draw a release: the trunk, and each branch where it leaves."""
    found, manifest = open_manifest(ctx.obj, release)
    _print_release(found, manifest, as_json=as_json)


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


def _backbone(session: Session, name: str | None, selected: list[Version]) -> Backbone:
    if name is not None:
        return backbones.get_backbone(session, name)
    trained_on = sorted({version.backbone for version in selected})
    if not trained_on:
        raise UsageError("no version is selected: promote some first, or name them with --task TASK/NUMBER")
    if len(trained_on) > 1:
        raise UsageError(f"the versions were trained on {', '.join(trained_on)}: choose one with --backbone")
    return backbones.get_backbone(session, trained_on[0])


def _print_release(release: Release, manifest: Manifest, *, as_json: bool) -> None:
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
            ("parity", _parity_line(release)),
        ]
    )
    print_line("")
    for line in release_drawing.draw(manifest):
        print_line(line)


def _parity_line(release: Release) -> str:
    findings = [finding for of_task in release.gates["parity"].values() for finding in of_task.values()]
    examples = sum(finding["examples"] for finding in findings)
    largest = max(finding["largest_difference"] for finding in findings)
    return f"{examples} golden answers alone and mixed, largest difference {largest:.1e}"
