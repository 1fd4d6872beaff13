"""`trunkline release diff|notes`: what one release changes against another, as a table, a picture and a document."""

from collections.abc import Iterator
from typing import Annotated

import typer

from cli import release_drawing
from cli.application import AsJson, Context, example
from cli.release_findings import markdown_rows
from cli.releases import ReleaseArgument, open_manifest
from cli.rendering import print_fields, print_json, print_line, print_table, table_cell
from registry.domain.manifests import Manifest
from registry.domain.records import Release
from registry.domain.references import VersionReference
from registry.domain.release_diff import HeldVersion, ReleaseDiff, TaskDiff, release_diff
from registry.domain.release_life import ReleaseMove
from registry.services import release_states, releases, versions

app = typer.Typer()


@app.command(epilog=example("trunkline release diff r1 r2", "trunkline release diff r1 latest --json"))
def diff(
    ctx: typer.Context,
    before: ReleaseArgument,
    after: Annotated[str, typer.Argument(help="The later one.")],
    as_json: AsJson = False,
) -> None:
    """Show what a release changes against another one: versions, shapes, scores, layers; and draw both."""
    context: Context = ctx.obj
    found, manifests = _compare(context, before, after)
    if as_json:
        print_json({**found.model_dump(mode="json"), "gains": {one.task: one.gain for one in found.changed}})
        return
    print_fields(_facts(found))
    if found.changed:
        print_line("")
        print_table(["task", found.before, found.after, "", "contract"], [_row(one) for one in found.changed])
    for name, manifest, beside in zip((found.before, found.after), manifests, (_becomes, _was), strict=True):
        print_line(f"\n{name}")
        notes = {one.task: beside(one) for one in found.changed if one.task in manifest.tasks}
        for line in release_drawing.draw(manifest, notes):
            print_line(line)


@app.command(epilog=example("trunkline release notes r2 --since r1 > r2.md"))
def notes(
    ctx: typer.Context,
    release: ReleaseArgument,
    since: Annotated[str, typer.Option(metavar="RELEASE", help="The release that it follows.")],
    as_json: AsJson = False,
) -> None:
    """Write a release's notes: what changed since another one, what the gates found, and who approved it. Markdown."""
    context: Context = ctx.obj
    found, _ = _compare(context, since, release)
    with context.database.read() as session:
        made = releases.get_release(session, found.after)
        moves = release_states.release_moves(session, found.after)
    if as_json:
        journal = [
            {**move.model_dump(mode="json", exclude={"report"}), "passed": (move.report or {}).get("passed")}
            for move in moves
        ]
        print_json({**found.model_dump(mode="json"), "gates": made.gates, "journal": journal})
        return
    for line in _markdown(found, made):
        print_line(line)
    print_line("\n## Journal\n")
    for move in moves:
        print_line(f"- {move.moved_at:%Y-%m-%d %H:%M} UTC, {move_words(move)}")


def move_words(move: ReleaseMove) -> str:
    """One entry of a release's journal."""
    reason = f": {move.reason}" if move.reason else ""
    if move.from_state is move.to_state:
        passed = (move.report or {}).get("passed", True)
        return f"its gates {'passed' if passed else 'FAILED'}, run by {move.actor}{reason}"
    return f"{move.to_state} by {move.actor}{reason}"


def _compare(context: Context, before: str, after: str) -> tuple[ReleaseDiff, tuple[Manifest, Manifest]]:
    first, second = open_manifest(context, before), open_manifest(context, after)
    held = {(task, branch.version) for _, manifest in (first, second) for task, branch in manifest.tasks.items()}
    with context.database.read() as session:
        references = [VersionReference(task=task, number=number) for task, number in sorted(held)]
        found = versions.get_versions(session, references)
        specs = versions.specs_of(session, found)
    scored = {(one.task, one.number): (one, specs[one.task, one.spec_revision].metric) for one in found}
    manifests = first[1], second[1]
    return release_diff((first[0], second[0]), manifests, scored), manifests


def _facts(found: ReleaseDiff) -> Iterator[tuple[str, str]]:
    if found.backbone != found.backbone_before:
        yield "backbone", f"{found.backbone_before} → {found.backbone}"
    yield "layers", _moved(found.layer_count_before, found.layer_count)
    yield "trunk", _moved(found.trunk_depth_before, found.trunk_depth)
    yield "tasks", f"{len(found.changed)} changed, {len(found.unchanged)} the same"
    yield "new blobs", str(found.new_blobs)


def _moved(before: int, after: int) -> str:
    return str(after) if before == after else f"{before} → {after} ({after - before:+})"


def _row(one: TaskDiff) -> tuple[str, ...]:
    return one.task, _held(one.before), _held(one.after), _gain(one), "; ".join(one.contract)


def _held(held: HeldVersion | None) -> str:
    if held is None:
        return ""
    score = "" if held.score is None else f" {held.score:.2f}"
    return f"/{held.version} ({held.frozen_depth}, {held.task_layers}){score}"


def _gain(one: TaskDiff) -> str:
    if one.before is None:
        return "added"
    if one.after is None:
        return "removed"
    return "other dev data" if one.gain is None else f"{one.gain:+.2f}"


def _becomes(one: TaskDiff) -> str:
    """What stands beside a changed branch in the picture of the earlier release."""
    return "◆ removed" if one.after is None else f"◆ becomes /{one.after.version}"


def _was(one: TaskDiff) -> str:
    """And in that of the later one."""
    return "◆ added" if one.before is None else f"◆ was /{one.before.version}, {_gain(one)}"


def _markdown(found: ReleaseDiff, release: Release) -> Iterator[str]:
    yield f"# Release {found.after}, since {found.before}\n"
    for name, value in _facts(found):
        yield f"- {name}: {value}"
    if found.changed:
        yield f"\n| task | {found.before} | {found.after} | score | contract |"
        yield "| --- | --- | --- | --- | --- |"
        for one in found.changed:
            yield f"| {' | '.join(map(table_cell, _row(one)))} |"
    if found.unchanged:
        yield f"\nThe same: {', '.join(found.unchanged)}."
    if rows := list(markdown_rows(release.gates or {})):
        yield "\n## Gates\n"
        yield from rows
