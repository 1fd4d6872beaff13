"""Where a command that answers takes its release from: the registry, or an artifact root alone."""

from typing import Annotated

import typer

from cli.rendering import print_warning
from registry.database.engine import Database
from registry.domain.records import Release
from registry.domain.release_life import ReleaseState
from registry.services import releases

FromRoot = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="ROOT",
        help="Read it from this artifact root, by the whole digest of its manifest; no registry is asked.",
    ),
]


def registered_release(database: Database, reference: str) -> Release:
    """A release to answer from; one that is retired still does, with a warning. Raises UsageError or NotFound."""
    with database.read() as session:
        found = releases.get_release(session, reference)
    if found.state is ReleaseState.RETIRED:
        print_warning(f"{found.name} is retired: `trunkline release list` shows the others")
    return found
