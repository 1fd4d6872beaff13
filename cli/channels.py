"""`trunkline channel`: which release is live where, now and before."""

from datetime import datetime
from typing import Annotated, Literal

import typer

from cli.application import AsJson, Context, example
from cli.moments import parse_moment
from cli.rendering import moment, print_json, print_line, print_table, time_column
from registry.services import channels

app = typer.Typer(no_args_is_help=True, help="See which release is live where; `release promote` places one.")

ChannelName = Annotated[str, typer.Argument(metavar="CHANNEL", help="The channel's name, such as production.")]


@app.command(epilog=example("trunkline channel create production", "trunkline channel create staging --takes verified"))
def create(
    ctx: typer.Context,
    name: ChannelName,
    takes: Annotated[
        Literal["approved", "verified"],
        typer.Option(help="The least state that a release must have to be placed on it."),
    ] = "approved",
    as_json: AsJson = False,
) -> None:
    """Make a channel, on which nothing is live yet."""
    context: Context = ctx.obj
    with context.database_or_new.write() as session:
        channel = channels.create_channel(session, name, takes=takes, actor=context.actor, at=context.now())
    if as_json:
        print_json(channel)
    else:
        print_line(f"channel {channel.name} takes {channel.takes} releases")


@app.command("list", epilog=example("trunkline channel list"))
def list_(ctx: typer.Context, as_json: AsJson = False) -> None:
    """The channels and what is live on each."""
    context: Context = ctx.obj
    with context.database.read() as session:
        found = channels.list_channels(session)
    if as_json:
        print_json(found)
    elif not found:
        print_line("no channel yet; make one: trunkline channel create production")
    else:
        print_table(
            ["channel", "takes", "live", time_column("since (UTC)")],
            [(one.name, one.takes, one.release or "", moment(one.since) if one.since else "") for one in found],
        )


@app.command(
    epilog=example("trunkline channel history production", "trunkline channel history production --at 2026-05-01T12:00")
)
def history(
    ctx: typer.Context,
    name: ChannelName,
    at: Annotated[
        datetime | None,
        typer.Option(
            parser=parse_moment,
            metavar="TIME",
            help="Instead, what was live then: a date (its first moment) or a date and time, UTC unless it has an "
            "offset.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what was placed on a channel when, or what was live at a time."""
    context: Context = ctx.obj
    with context.database.read() as session:
        placements = channels.history(session, name, until=at)
    if at is not None:
        live = placements[-1].to_release if placements else None
        if as_json:
            print_json({"channel": name, "at": at.isoformat(), "release": live})
        else:
            print_line(f"at {moment(at)} UTC {live or 'nothing'} was live on {name}")
    elif as_json:
        print_json(placements)
    elif not placements:
        print_line(f"nothing was ever live on {name}")
    else:
        print_table(
            [time_column("time (UTC)"), "move", "from", "to", "actor"],
            [
                (moment(one.placed_at), one.kind, one.from_release or "", one.to_release, one.actor)
                for one in placements
            ],
        )
