"""`trunkline release verify|approve|retire|promote|revert`: what becomes of a release, and where it is live."""

from collections.abc import Collection, Sequence
from typing import Annotated

import typer

from cli.application import AsJson, Context, example
from cli.progress import progress_bar
from cli.release_findings import refuse_with_table
from cli.releases import ReleaseArgument, open_manifest, print_release
from cli.rendering import print_json, print_line, print_note, print_warning
from registry.domain.records import Release
from registry.domain.release_life import Placement, ReleaseState
from registry.services import channels, release_states, releases

app = typer.Typer()

ChannelOption = Annotated[str, typer.Option(help="The channel, such as production.")]
ExpectOption = Annotated[
    str | None,
    typer.Option(
        metavar="RELEASE|none",
        help="Move only if this release is live there now, or none if nothing is yet; else end with code 5.",
    ),
]


@app.command(epilog=example("trunkline release verify r3"))
def verify(ctx: typer.Context, release: ReleaseArgument, as_json: AsJson = False) -> None:
    """Run the gates on a release and keep what they found; a draft that passes is verified.

    Every blob against its digest, every tensor used once, and the same answers merged as alone. Any release but a
    retired one can be verified again: what fails later, such as a damaged blob, is kept too, and ends with code 3.
    """
    from pipelines.assembly import release_assembly

    context: Context = ctx.obj
    with context.database.read() as session:
        release_states.refuse_retired(releases.get_release(session, release))
    found, manifest = open_manifest(context, release)
    context.store.verify(found.manifest)
    with progress_bar() as report:
        assembled = release_assembly.verify(manifest, store=context.store, report=report)
    gates = assembled.gates
    with context.database.write() as session:
        verified = release_states.record_verification(session, found.name, gates, actor=context.actor, at=context.now())
    refuse_with_table(assembled.findings, as_json=as_json)
    print_release(verified, manifest, as_json=as_json)
    release_states.refuse_failed(verified)


@app.command(epilog=example("trunkline release approve r3 --reason 'tried on staging for a week'"))
def approve(
    ctx: typer.Context,
    release: ReleaseArgument,
    reason: Annotated[str | None, typer.Option(help="Kept in its journal.")] = None,
    as_json: AsJson = False,
) -> None:
    """Let a verified release be used on channels that take approved ones."""
    context: Context = ctx.obj
    with context.database.write() as session:
        known = releases.get_release(session, release).state is ReleaseState.APPROVED
        found = release_states.approve_release(session, release, reason=reason, actor=context.actor, at=context.now())
    if known:
        unkept = "" if reason is None else "; this reason is not kept, the journal has the first"
        print_note(f"{found.name} was approved before{unkept}")
    _print_state(found, as_json=as_json)


@app.command(epilog=example("trunkline release retire r1 --reason 'answers of mail-topic were wrong'"))
def retire(
    ctx: typer.Context,
    release: ReleaseArgument,
    reason: Annotated[str, typer.Option(help="Kept in its journal.")],
    as_json: AsJson = False,
) -> None:
    """End a release that is live nowhere: it can be placed on no channel any more."""
    context: Context = ctx.obj
    with context.database.write() as session:
        found = release_states.retire_release(session, release, reason=reason, actor=context.actor, at=context.now())
    _print_state(found, as_json=as_json)


@app.command(
    epilog=example(
        "trunkline release promote r3 --channel staging",
        "trunkline release promote r3 --channel production --expect r2",
    )
)
def promote(
    ctx: typer.Context,
    release: ReleaseArgument,
    channel: ChannelOption,
    expect: ExpectOption = None,
    as_json: AsJson = False,
) -> None:
    """Make a release live on a channel, in place of the one that is."""
    context: Context = ctx.obj
    with context.database.write() as session:
        placement = channels.promote_release(
            session, release, channel, expect=expect, actor=context.actor, at=context.now()
        )
        named = releases.get_release(session, placement.to_release).tasks
        retired = releases.retired_by(session, named, context.now().date())
    _print_placement(placement, as_json=as_json)
    if retired:
        print_warning(
            f"{placement.to_release} answers retired tasks: {', '.join(retired)}" + _without(retired, placement, named)
        )


@app.command(epilog=example("trunkline release revert --channel production --expect r3"))
def revert(ctx: typer.Context, channel: ChannelOption, expect: ExpectOption = None, as_json: AsJson = False) -> None:
    """Make the release live again that was so before the last promotion; again, the one before that."""
    context: Context = ctx.obj
    with context.database.write() as session:
        placement = channels.revert_channel(session, channel, expect=expect, actor=context.actor, at=context.now())
    _print_placement(placement, as_json=as_json)


def _without(retired: Sequence[str], placement: Placement, tasks: Collection[str]) -> str:
    """What makes a release without them, where something would be left."""
    if len(retired) == len(tasks):
        return ""
    options = " ".join(f"--remove {task}" for task in retired)
    return f"; `trunkline release update --channel {placement.channel} {options}` makes one without them"


def _print_state(release: Release, *, as_json: bool) -> None:
    if as_json:
        print_json(release)
    else:
        print_line(f"{release.name} is {release.state}")


def _print_placement(placement: Placement, *, as_json: bool) -> None:
    if as_json:
        print_json(placement)
    elif placement.repeated:
        print_line(f"{placement.to_release} is live on {placement.channel} already")
    else:
        print_line(f"{placement.channel}: {placement.from_release or 'new'} → {placement.to_release}")
