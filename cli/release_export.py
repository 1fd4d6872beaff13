"""`trunkline release export|unpack`: a release as files that other programs read."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cli.application import AsJson, Context, example
from cli.cards import card_text, release_card_parts
from cli.progress import progress_bar
from cli.releases import ReleaseArgument, open_manifest
from cli.rendering import print_json, print_line, working
from cli.settings import expanded
from registry.artifacts.release_transfer import refuse_registrys_root
from registry.services import release_states, releases

if TYPE_CHECKING:
    from modeling.parity import ParityResult

app = typer.Typer()


@app.command(
    epilog=example(
        "trunkline release export r3 --format hf --to r3-model",
        "trunkline release export r3 --format safetensors-single --to r3.safetensors",
    )
)
def export(
    ctx: typer.Context,
    release: ReleaseArgument,
    form: Annotated[
        Literal["safetensors-single", "hf"],
        typer.Option(
            "--format",
            help="safetensors-single: one file, the manifest in its header. hf: a folder that transformers loads with "
            "the code in it.",
        ),
    ],
    to: Annotated[Path, typer.Option(metavar="PATH", help="The file or folder to write; nothing may be there.")],
    as_json: AsJson = False,
) -> None:
    """Write a release in a form that does not need this registry, and ask it in a fresh process.

    Its answers to the golden examples of every task must be those of the release; else nothing is left.
    """
    from pipelines.export.checked_export import export_release

    context: Context = ctx.obj
    path = context.cwd / expanded(to)
    with context.database.read() as session:
        release_states.refuse_retired(releases.get_release(session, release))
    found, manifest = open_manifest(context, release)
    metadata, text = release_card_parts(context, found, manifest, travels=True)
    card = card_text(metadata | {"library_name": "transformers"}, text)
    with progress_bar() as report:
        parity = export_release(manifest, path, form, card=card, store=context.store, report=report)
    _print(path, to, parity, as_json=as_json)


@app.command(
    epilog=example(
        "trunkline release unpack r3.safetensors /srv/releases",
        then="`trunkline predict --from /srv/releases DIGEST TEXT` reads it there.",
    )
)
def unpack(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `release export` wrote as safetensors-single.")],
    root: Annotated[str, typer.Argument(metavar="ROOT", help="A folder, or s3://bucket/prefix.")],
    as_json: AsJson = False,
) -> None:
    """Put a single-file release into an artifact root, every blob compared with its digest. No registry is needed."""
    from pipelines.export.single_file import unpack_single_file

    context: Context = ctx.obj
    target = context.other_store(root, "ROOT")
    refuse_registrys_root(target, owner=None)
    with working(f"unpacking {file}"):
        digest = unpack_single_file(context.cwd / expanded(file), target)
    if as_json:
        print_json({"manifest": digest, "location": target.location})
    else:
        print_line(f"{target.location} holds manifest {digest}")
        print_line(f"read it with: trunkline predict --from {root} {digest} TEXT")


def _print(path: Path, to: Path, parity: "dict[str, ParityResult]", *, as_json: bool) -> None:
    if as_json:
        from dataclasses import asdict

        print_json({"path": str(path), "parity": {task: asdict(found) for task, found in parity.items()}})
        return
    examples = sum(found.examples for found in parity.values())
    largest = max(found.largest_difference for found in parity.values())
    print_line(f"wrote {to}")
    print_line(f"asked in a fresh process: {examples} golden answers, largest difference {largest:.1e}")
