"""`trunkline backbone`: pin pretrained encoders and compare them."""

from pathlib import Path
from typing import Annotated

import typer

from cli.application import AsJson, Context, example
from cli.rendering import (
    moment,
    number_column,
    print_fields,
    print_json,
    print_line,
    print_table,
    short_digest,
    time_column,
    working,
)
from registry.artifacts import hub
from registry.artifacts.backbone_files import store_backbone
from registry.domain.digests import first_difference
from registry.domain.records import Backbone
from registry.errors import UsageError
from registry.fault_points import reached
from registry.services import backbones
from registry.services.blobs import refer_to

app = typer.Typer(no_args_is_help=True, help="Backbones: pinned pretrained encoders.")

BackboneName = Annotated[str, typer.Argument(metavar="NAME", help="The backbone's name.")]


@app.command(
    epilog=example(
        "trunkline backbone pin minilm ./all-MiniLM-L6-v2 --max-length 128",
        "trunkline backbone pin bert google-bert/bert-base-uncased --revision 86b5e0934494bd15c9632b12f734a8a67f723594",
    )
)
def pin(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name to pin it under.")],
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder with config.json, tokenizer.json and model.safetensors, or a hub's OWNER/NAME.",
        ),
    ],
    revision: Annotated[
        str | None, typer.Option(metavar="COMMIT", help="Which commit or tag of the hub's repository.")
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            metavar="TOKENS", help="Longest input of every task on it. Default: 128, or its positions if fewer."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Pin a pretrained encoder: its files are checked, cut layer by layer, hashed and stored."""
    context: Context = ctx.obj
    with working(f"checking and storing {source}"):
        folder, origin = _files(context, source, revision)
        new = store_backbone(folder, name=name, max_length=max_length, store=context.store)
    reached("pin.blobs-stored")
    if origin:
        new = new.model_copy(update={"source": origin})
    with context.database_or_new.write() as session:
        refer_to(session, context.store, new.blobs)
        was_there = bool(backbones.list_backbones(session, names=[new.name]))
        backbone = backbones.pin_backbone(session, new, actor=context.actor, at=context.now())
    reached("pin.committed")
    if as_json:
        print_json(backbone)
    elif was_there:
        print_line(f"backbone {backbone.name} is pinned already, with the same content")
    else:
        print_line(
            f"pinned backbone {backbone.name}: {backbone.layer_count} layers x {backbone.hidden_size}, "
            f"{backbone.max_length} tokens, P({backbone.layer_count}) = {short_digest(backbone.prefix_digests[-1])}"
        )


def _files(context: Context, source: str, revision: str | None) -> tuple[Path, str | None]:
    """The folder to read, and where it came from if not from this machine. A folder that exists comes first."""
    folder = context.cwd / Path(source).expanduser()
    if folder.exists() or not hub.is_repository(source):
        if revision is not None:
            raise UsageError(f"--revision goes with a hub's repository, and {source} is a path; leave it out")
        return folder, None
    return hub.download(source, revision=revision)


@app.command("list", epilog=example("trunkline backbone list"))
def list_(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the pinned backbones; P(N) is the digest of the whole encoder."""
    context: Context = ctx.obj
    with context.database.read() as session:
        found = backbones.list_backbones(session)
    if as_json:
        print_json(found)
    elif not found:
        print_line("no backbone yet; pin one: trunkline backbone pin NAME FOLDER")
    else:
        numbers = [number_column(header) for header in ("layers", "width", "max tokens")]
        print_table(
            ["backbone", "type", *numbers, "P(N)", time_column("created (UTC)")],
            [
                (
                    backbone.name,
                    backbone.model_type,
                    str(backbone.layer_count),
                    str(backbone.hidden_size),
                    str(backbone.max_length),
                    short_digest(backbone.prefix_digests[-1]),
                    moment(backbone.created_at),
                )
                for backbone in found
            ],
        )


@app.command(epilog=example("trunkline backbone show minilm"))
def show(ctx: typer.Context, name: BackboneName, as_json: AsJson = False) -> None:
    """Show one backbone and its prefix digest at every depth."""
    context: Context = ctx.obj
    with context.database.read() as session:
        backbone = backbones.get_backbone(session, name)
    if as_json:
        print_json(backbone)
        return
    print_fields(
        [
            ("backbone", backbone.name),
            ("type", backbone.model_type),
            ("layers", str(backbone.layer_count)),
            ("width", str(backbone.hidden_size)),
            ("max tokens", str(backbone.max_length)),
            ("source", backbone.source),
            ("created (UTC)", moment(backbone.created_at)),
        ]
    )
    print_line("")
    depths = [(str(depth), digest) for depth, digest in enumerate(backbone.prefix_digests)]
    print_table([number_column("depth"), "prefix digest"], depths)


@app.command(epilog=example("trunkline backbone diff minilm minilm-tuned"))
def diff(
    ctx: typer.Context,
    first: Annotated[str, typer.Argument(metavar="A", help="One backbone's name.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The other's name.")],
    as_json: AsJson = False,
) -> None:
    """Say up to which depth two backbones are the same, and in what they part.

    A task version whose frozen depth is shared by both can be attached to either.
    """
    context: Context = ctx.obj
    with context.database.read() as session:
        ours, theirs = backbones.get_backbone(session, first), backbones.get_backbone(session, second)
    shared = _shared_depths(ours, theirs)
    difference = _first_difference(ours, theirs)
    if as_json:
        print_json({"a": first, "b": second, "shared_depths": shared, "first_difference": difference})
    elif difference is None:
        print_line(f"{first} and {second} are the same at every depth")
    elif not shared:
        print_line(f"{first} and {second} share no depth: they differ in {difference}")
    else:
        print_line(
            f"{first} and {second} share depths 0 to {shared[-1]} and part at depth {shared[-1] + 1}: {difference}"
        )
        print_table([number_column("depth"), first, second, "shared"], _depth_rows(ours, theirs))


def _shared_depths(ours: Backbone, theirs: Backbone) -> list[int]:
    pairs = zip(ours.prefix_digests, theirs.prefix_digests, strict=False)
    return [depth for depth, (left, right) in enumerate(pairs) if left == right]


def _first_difference(ours: Backbone, theirs: Backbone) -> str | None:
    deepest = max(ours.layer_count, theirs.layer_count)
    return first_difference(ours.prefix_root, ours.layer_digests, theirs.prefix_root, theirs.layer_digests, deepest)


def _depth_rows(ours: Backbone, theirs: Backbone) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for depth in range(max(ours.layer_count, theirs.layer_count) + 1):
        left, right = (short_digest("".join(b.prefix_digests[depth : depth + 1])) for b in (ours, theirs))
        rows.append((str(depth), left, right, "yes" if left == right else "no"))
    return rows
