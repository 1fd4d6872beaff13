"""`trunkline task card` and `trunkline release card`: model cards in Markdown, with the metadata that hubs read."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer
from sqlalchemy.orm import Session

from cli import release_drawing
from cli.application import AsJson, Context, example
from cli.release_diff import move_words
from cli.release_findings import markdown_rows
from cli.releases import ReleaseArgument, open_manifest
from cli.rendering import print_json, print_line
from cli.versions import flat_recipe
from registry.domain.cards import CardedVersion, base_model, release_metadata, version_metadata
from registry.domain.manifests import Manifest
from registry.domain.records import Backbone, Release, Task, Version
from registry.domain.references import VersionReference, parse_reference
from registry.domain.task_specs import TaskSpec
from registry.services import backbones, channels, release_states, releases, tasks, versions

of_tasks = typer.Typer()
of_releases = typer.Typer()


@of_tasks.command("card", epilog=example("trunkline task card rte/3 > README.md", "trunkline task card rte@champion"))
def task_card(
    ctx: typer.Context,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="TASK/NUMBER or TASK@ALIAS.")],
    as_json: AsJson = False,
) -> None:
    """Write the model card of a task's version: what it answers, how it was made, what it reaches. Markdown."""
    context: Context = ctx.obj
    with context.database.read() as session:
        found = versions.get_version(session, parse_reference(version))
        task = tasks.get_task(session, found.task)
        carded = CardedVersion(found, tasks.get_spec(session, found.task, found.spec_revision))
        backbone = backbones.get_backbone(session, found.backbone)
        number = found.teacher
        teacher = number and versions.get_version(session, VersionReference(task=found.task, number=number))
        live = {
            channel.name: str(channel.release)
            for channel in channels.channels_with(session, found.task)
            if _holds(session, channel.release, found)
        }
    metadata = version_metadata(carded, backbone)
    body = "\n".join(_version_lines(task, carded, teacher or None, backbone, live))
    _print(metadata, body, as_json=as_json)


@of_releases.command("card", epilog=example("trunkline release card r3 > README.md"))
def release_card(ctx: typer.Context, release: ReleaseArgument, as_json: AsJson = False) -> None:
    """Write a release's model card: its layers, its tasks with their scores, what its gates found. Markdown."""
    metadata, body = release_card_parts(ctx.obj, *open_manifest(ctx.obj, release))
    _print(metadata, body, as_json=as_json)


def release_card_parts(
    context: Context, release: Release, manifest: Manifest, *, travels: bool = False
) -> tuple[dict[str, Any], str]:
    """The card's metadata and its text.

    Args:
        travels: it goes where nobody can correct it: what may change tomorrow, such as where it is live, is left out.
    """
    with context.database.read() as session:
        references = [VersionReference(task=task, number=number) for task, number in sorted(release.tasks.items())]
        found = versions.get_versions(session, references)
        specs = versions.specs_of(session, found)
        held = [CardedVersion(one, specs[one.task, one.spec_revision]) for one in found]
        backbone = backbones.get_backbone(session, release.backbone)
        live = [channel.name for channel in channels.list_channels(session) if channel.release == release.name]
        steps = [
            f"{move.moved_at:%Y-%m-%d %H:%M} UTC, {move_words(move)}"
            for move in release_states.release_moves(session, release.name)
            if move.from_state is not move.to_state
        ]
    body = "\n".join(_release_lines(release, manifest, held, backbone, [] if travels else live, steps))
    return release_metadata(release, held, backbone), body


def card_text(metadata: Mapping[str, Any], body: str) -> str:
    """A card as hubs read it: the metadata as YAML between dashes, then the text."""
    import yaml

    return f"---\n{yaml.safe_dump(dict(metadata), sort_keys=False, allow_unicode=True)}---\n\n{body}"


def _print(metadata: Mapping[str, Any], body: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"metadata": metadata, "text": body})
    else:
        print_line(card_text(metadata, body))


def _holds(session: Session, release: str | None, version: Version) -> bool:
    return release is not None and releases.get_release(session, release).tasks.get(version.task) == version.number


def _version_lines(
    task: Task, carded: CardedVersion, teacher: Version | None, backbone: Backbone, live: Mapping[str, str]
) -> Iterator[str]:
    version, spec = carded
    yield f"# {version.reference}\n"
    if spec.description:
        yield f"{spec.description}\n"
    aliases = [alias for alias, number in task.aliases.items() if number == version.number]
    yield from _items(
        ("team", task.team),
        ("state of the task", task.state),
        ("aliases", ", ".join(aliases)),
        ("live on", ", ".join(f"{channel} ({release})" for channel, release in live.items())),
        ("registered", f"{version.created_at:%Y-%m-%d} by {version.created_by}"),
    )
    yield "\n## What it answers\n"
    yield from _answers(spec, backbone)
    yield "\n## How it was made\n"
    depth, layers = version.frozen_depth, version.task_layers
    yield from _items(
        ("backbone", f"{base_model(backbone)}, of whose {backbone.layer_count} layers {depth} stay frozen"),
        ("its own", f"{release_drawing.layers_of_its_own(layers)}, begun as layers {depth + 1} to {depth + layers}"),
        ("kind", f"{version.kind}{f' of {teacher.reference}' if teacher else ''}"),
        ("recipe", ", ".join(f"{name} {value}" for name, value in flat_recipe(version.recipe).items())),
        ("seed", str(version.seed)),
        ("made with", ", ".join(f"{name} {value}" for name, value in version.environment.items())),
        ("training data", f"sha256 {version.train_digest}"),
        ("MLflow run", version.mlflow_run or ""),
    )
    yield "\n## What it reaches\n"
    yield f"On the dev data (sha256 {version.dev_digest}), {version.statistic}.\n"
    same = teacher is not None and teacher.dev_digest == version.dev_digest
    yield f"| metric | {version.reference} |{f' {teacher.reference} (teacher) |' if teacher and same else ''}"
    yield "| --- | --- |" + (" --- |" if same else "")
    for name, value in version.metrics.items():
        taught = f" {teacher.metrics[name]:.4f} |" if teacher and same and name in teacher.metrics else ""
        chosen = " (what versions are chosen by)" if name == spec.metric else ""
        yield f"| {name}{chosen} | {value:.4f} |{taught}"


def _release_lines(
    release: Release,
    manifest: Manifest,
    held: Sequence[CardedVersion],
    backbone: Backbone,
    live: Sequence[str],
    steps: Sequence[str],
) -> Iterator[str]:
    yield f"# Release {release.name}\n"
    yield f"{len(held)} tasks on one frozen encoder, answered in one pass.\n"
    yield from _items(
        ("backbone", base_model(backbone)),
        ("layers", release_drawing.summary(manifest)),
        ("longest input", f"{backbone.max_length} tokens; what is beyond is cut off"),
        ("manifest", f"sha256 {release.manifest}"),
        ("state", release.state),
        ("live on", ", ".join(live)),
    )
    yield "\n```text"
    yield from release_drawing.draw(manifest)
    yield "```\n"
    yield "| task | version | answers | frozen, own layers | metric | dev |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for version, spec in held:
        shape = f"{version.frozen_depth}, {version.task_layers}"
        score = f"{version.metrics[spec.metric]:.4f}"
        yield f"| {spec.task} | {version.number} | {_kind_of_answer(spec)} | {shape} | {spec.metric} | {score} |"
    yield "\nEach score is on its own task's dev data, which the metadata name by digest."
    if rows := list(markdown_rows(release.gates or {})):
        yield "\n## Gates\n"
        yield from rows
    if steps:
        yield "\n## Journal\n"
        yield from (f"- {step}" for step in steps)


def _answers(spec: TaskSpec, backbone: Backbone) -> Iterator[str]:
    yield from _items(
        ("type", _kind_of_answer(spec)),
        ("input", "a pair of texts" if spec.input_form == "pair" else "one text"),
        ("labels", ", ".join(spec.labels)),
        ("longest input", f"{backbone.max_length} tokens; what is beyond is cut off"),
    )


def _kind_of_answer(spec: TaskSpec) -> str:
    return {
        "classification": f"one of {len(spec.labels)} labels",
        "regression": "a number",
        "token_classification": "spans" if spec.tag_scheme == "bio" else "one label a word",
    }[spec.type]


def _items(*facts: tuple[str, str]) -> Iterator[str]:
    yield from (f"- {name}: {value}" for name, value in facts if value)
