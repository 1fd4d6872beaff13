"""All commands on one root, and a walk over them."""

import re
from collections.abc import Iterator
from typing import TypeAlias, cast

from rich.markup import escape
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.main import get_command
from typer.models import Context as ParserContext

from cli import (
    aliases,
    audit,
    backbone_migration,
    backbones,
    cards,
    channels,
    database,
    housekeeping,
    plan,
    prediction,
    release_diff,
    release_export,
    release_life,
    release_transfer,
    release_update,
    releases,
    searches,
    serve,
    status,
    task_check,
    tasks,
    teams,
    training,
    trials,
    versions,
)
from cli.application import app

Command: TypeAlias = TyperCommand | TyperGroup

app.add_typer(teams.app, name="team")
backbones.app.add_typer(backbone_migration.app)
app.add_typer(backbones.app, name="backbone")
tasks.app.add_typer(task_check.app)
tasks.app.add_typer(aliases.app)
tasks.app.add_typer(cards.of_tasks)
app.add_typer(tasks.app, name="task")
app.add_typer(training.app)
app.add_typer(searches.app, name="search")
app.add_typer(trials.app, name="trial")
app.add_typer(versions.app, name="version")
app.add_typer(plan.app)
releases.app.add_typer(release_life.app)
releases.app.add_typer(release_update.app)
releases.app.add_typer(release_diff.app)
releases.app.add_typer(release_transfer.app)
releases.app.add_typer(release_export.app)
releases.app.add_typer(cards.of_releases)
app.add_typer(releases.app, name="release")
app.add_typer(channels.app, name="channel")
app.add_typer(status.app)
app.add_typer(prediction.app)
app.add_typer(serve.app)
app.add_typer(audit.app, name="audit")
app.add_typer(database.app, name="db")
app.add_typer(housekeeping.app)


def root_command() -> TyperGroup:
    return cast(TyperGroup, get_command(app))


def walk(command: Command, path: str = "trunkline") -> Iterator[tuple[str, Command]]:
    """The command and everything below it, each with what to type for it, in the order of the help."""
    yield path, command
    if isinstance(command, TyperGroup):
        for name, inner in command.commands.items():
            yield from walk(cast(Command, inner), f"{path} {name}")


def take_help_literally(root: TyperGroup) -> None:
    """Escapes all help: typer would read `[default: 5]` in it as rich's markup and show nothing.

    Nor does it say any more that a switch is a `<bool>`: it takes no value.
    """
    for _, command in walk(root):
        command.help, command.epilog = escape(_flowing(command.help or "")), escape(command.epilog or "")
        asks_for_help = command.get_help_option(ParserContext(command, **root.context_settings))
        for parameter in (*command.params, asks_for_help):
            if isinstance(parameter, TyperArgument | TyperOption):
                parameter.help = escape(parameter.help or "")
            if isinstance(parameter, TyperOption) and parameter.is_flag:
                parameter.metavar = ""


def _flowing(text: str) -> str:
    """Paragraphs without the line breaks of the source, which typer would keep beside its own."""
    return re.sub(r"(?<!\n)\n(?!\n)", " ", text)
