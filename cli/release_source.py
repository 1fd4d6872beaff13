"""Where a command that answers takes its release from: the registry, or an artifact root alone."""

from typing import Annotated, NamedTuple

import typer

from cli.application import Context
from cli.rendering import print_warning
from registry.artifacts.release_transfer import refuse_without_manifest
from registry.artifacts.store import ArtifactStore, is_digest
from registry.domain.release_life import ReleaseState
from registry.errors import UsageError
from registry.services import releases

FromRoot = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="ROOT",
        help="Read it from this artifact root, by the whole digest of its manifest; no registry is asked.",
    ),
]


class ReleaseSource(NamedTuple):
    """A release by its name and its manifest's digest, and the store to read it from."""

    name: str
    digest: str
    store: ArtifactStore


def release_source(context: Context, reference: str, root: str | None) -> ReleaseSource:
    """A registered release, or one of an artifact root; one that is retired still answers, with a warning.

    Raises:
        UsageError: the reference is none.
        NotFound: there is no such release, or no registry.
    """
    if root is not None:
        if not is_digest(reference):
            raise UsageError(f"{reference}: with --from, name the release by the whole digest of its manifest")
        store = context.other_store(root, "--from")
        refuse_without_manifest(reference, store)
        return ReleaseSource(reference[:12], reference, store)
    with context.database.read() as session:
        found = releases.get_release(session, reference)
    if found.state is ReleaseState.RETIRED:
        print_warning(f"{found.name} is retired: `trunkline release list` shows the others")
    return ReleaseSource(found.name, found.manifest, context.store)
