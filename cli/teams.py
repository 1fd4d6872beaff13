"""`trunkline team`: who owns tasks."""

from typing import Annotated

import typer

from cli.application import AsJson, Context, IdempotencyKey, example
from cli.rendering import moment, print_json, print_line, print_table, time_column
from registry.domain.records import Team
from registry.services import teams
from registry.services.idempotency import answer_once

app = typer.Typer(no_args_is_help=True, help="Teams: who owns tasks.")


@app.command(epilog=example("trunkline team create nlu", "trunkline team create nlu --idempotency-key setup-17"))
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="The new team's name.")],
    idempotency_key: IdempotencyKey = None,
    as_json: AsJson = False,
) -> None:
    """Create a team."""
    context: Context = ctx.obj
    actor, at = context.actor, context.now()
    with context.database_or_new.write() as session:
        team = answer_once(
            session,
            idempotency_key,
            lambda: teams.create_team(session, name, actor=actor, at=at),
            answer=Team,
            action="team.create",
            request={"name": name},
            actor=actor,
            at=at,
        )
    if as_json:
        print_json(team)
    else:
        print_line(f"created team {team.name}")


@app.command("list", epilog=example("trunkline team list"))
def list_(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the teams."""
    context: Context = ctx.obj
    with context.database.read() as session:
        found = teams.list_teams(session)
    if as_json:
        print_json(found)
    elif not found:
        print_line("no team yet; create one: trunkline team create NAME")
    else:
        print_table(["team", time_column("created (UTC)")], [(team.name, moment(team.created_at)) for team in found])
