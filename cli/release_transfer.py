"""`trunkline release push|pull`: a release between artifact roots, without its registry."""

from typing import Annotated

import typer

from cli.application import AsJson, Context, example
from cli.progress import progress_bar
from cli.releases import ReleaseArgument
from cli.rendering import print_json, print_line, short_digest
from registry.artifacts.release_transfer import Transfer, transfer_release
from registry.artifacts.store import ArtifactStore, is_digest
from registry.errors import NotFound, UsageError
from registry.services import release_states, releases
from registry.services.blobs import owner_name, registry_number

app = typer.Typer()


@app.command(
    epilog=example(
        "trunkline release push r3 s3://serving/releases",
        "trunkline release push latest /mnt/usb/releases",
    )
)
def push(
    ctx: typer.Context,
    release: ReleaseArgument,
    root: Annotated[str, typer.Argument(metavar="ROOT", help="A folder, or s3://bucket/prefix.")],
    as_json: AsJson = False,
) -> None:
    """Copy a release to another artifact root, where it can be used without this registry.

    Only the blobs that are not there yet travel; every one is read there and compared with its digest.
    """
    context: Context = ctx.obj
    with context.database.read() as session:
        found = releases.get_release(session, release)
        release_states.refuse_retired(found)
        manifest, owner = found.manifest, owner_name(registry_number(session))
    target = context.other_store(root, "ROOT")
    moved = _moved(manifest, context.store, target, owner=owner)
    _print(moved, target, as_json=as_json)
    if not as_json:
        print_line(f"read it with: trunkline predict --from {root} {manifest} TEXT")


@app.command(
    epilog=example(
        "trunkline release pull r3 s3://serving/releases",
        "trunkline release pull $DIGEST s3://serving/releases --to /srv/releases",
        then="With --to and a whole digest no registry is needed.",
    )
)
def pull(
    ctx: typer.Context,
    release: Annotated[
        str,
        typer.Argument(metavar="RELEASE", help="A release of this registry, or the whole digest of any manifest."),
    ],
    root: Annotated[str, typer.Argument(metavar="ROOT", help="Where it is: a folder, or s3://bucket/prefix.")],
    to: Annotated[
        str | None,
        typer.Option(metavar="ROOT", help="Where it goes. [default: this registry's own root]"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Copy a release from another artifact root: to a machine that serves it, or back to where a blob was lost."""
    context: Context = ctx.obj
    source = context.other_store(root, "ROOT")
    if to is not None and is_digest(release):
        manifest, owner = release, None
    else:
        with context.database.read() as session:
            if is_digest(release) and releases.find_release(session, release) is None:
                raise NotFound(
                    f"no release of this registry has manifest {short_digest(release)}: name a folder or prefix of its "
                    "own for it with --to"
                )
            manifest, owner = releases.get_release(session, release).manifest, owner_name(registry_number(session))
    target = context.store if to is None else context.other_store(to, "--to")
    _print(_moved(manifest, source, target, owner=owner), target, as_json=as_json)
    if to is not None and not as_json:
        print_line(f"read it with: trunkline predict --from {to} {manifest} TEXT")


def _moved(manifest: str, source: ArtifactStore, target: ArtifactStore, *, owner: str | None) -> Transfer:
    if source.location == target.location:
        raise UsageError(f"{source.location} is where the release is already: name another root")
    with progress_bar() as report:
        return transfer_release(manifest, source, target, owner=owner, report=report)


def _print(moved: Transfer, target: ArtifactStore, *, as_json: bool) -> None:
    if as_json:
        print_json({**moved.model_dump(mode="json"), "location": target.location})
        return
    mended = f", {moved.mended} of them in place of damaged ones" if moved.mended else ""
    print_line(
        f"{target.location} holds manifest {short_digest(moved.manifest)}: {moved.blobs} blobs, all verified; "
        f"{moved.sent} sent ({moved.sent_bytes / 1e6:.1f} MB){mended}"
    )
