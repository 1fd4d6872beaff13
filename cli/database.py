"""`trunkline db`: the schema of the registry's database."""

from typing import Annotated

import typer

from cli.application import AsJson, Context, example
from cli.rendering import print_fields, print_json, print_line, working
from registry.database.backend import BUSY_SECONDS
from registry.database.schema_state import schema_differences, schema_state

app = typer.Typer(no_args_is_help=True, help="The registry's database: make it, upgrade it, check it.")


@app.command(epilog=example("trunkline db upgrade", "trunkline db upgrade --lock-timeout 300"))
def upgrade(
    ctx: typer.Context,
    lock_timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0.1,
            max=86_400,
            help="How long to wait for another upgrade, and for tables that others are using, before giving up.",
        ),
    ] = BUSY_SECONDS,
    as_json: AsJson = False,
) -> None:
    """Bring the database to the schema of this program: all of it or, when anything fails, nothing."""
    from registry.database import upgrade as upgrading  # imports Alembic

    context: Context = ctx.obj
    with working("upgrading the database"):
        done = upgrading.upgrade(context.settings.database_url, lock_timeout=lock_timeout)
    if as_json:
        print_json(done)
    elif done.before == done.after:
        print_line(f"{done.location} has schema {done.after} already")
    elif done.before is None:
        print_line(f"created a registry with schema {done.after} in {done.location}")
    else:
        print_line(f"upgraded {done.location} from schema {done.before} to {done.after}")


@app.command(epilog=example("trunkline db current"))
def current(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Show which schema the database has, and which one this program needs. Nothing is made or changed."""
    context: Context = ctx.obj
    state = schema_state(context.settings.database_url)
    if as_json:
        print_json(state)
    else:
        fields = [("database", state.location), ("schema", state.revision or "none: there is no registry yet")]
        print_fields([*fields, ("this program needs", state.expected)])


@app.command(epilog=example("trunkline db check"))
def check(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Compare the schema that is there with the one that this program describes; end with code 1 if they differ."""
    context: Context = ctx.obj
    found = schema_differences(context.settings.database_url)
    if as_json:
        print_json({"differences": found})
    elif not found:
        print_line("the schema is as this program describes it, triggers included")
    for difference in [] if as_json else found:
        print_line(difference)
    if found:
        raise typer.Exit(1)
