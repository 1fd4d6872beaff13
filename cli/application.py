"""The root command, its global options, and the context that every command finds in `ctx.obj`.

A group of commands is a module with an `app` of its own, added to the root in `cli/command_tree.py`. A command reads

    @app.command("list", epilog=example("trunkline team list"))
    def list_(ctx: typer.Context, as_json: AsJson = False) -> None:
        context: Context = ctx.obj

and imports `pipelines`, `modeling` and `serving` inside the function, so that the other commands answer at once.
"""

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from cli.rendering import MOST_ROWS, print_line, print_note, print_warning
from cli.settings import Settings, doubts, located_root
from registry.artifacts.store import ArtifactStore, open_store
from registry.database.backend import sqlite_file
from registry.database.engine import Database
from registry.errors import NotFound

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
IdempotencyKey = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        help="Do this once: the same command with the same key answers again what it answered the first time.",
    ),
]
Limit = Annotated[
    int | None, typer.Option(min=1, help=f"Show so many at most. [default: {MOST_ROWS}; with --json, all]")
]


def rows_wanted(limit: int | None, *, as_json: bool) -> int | None:
    """How many rows `--limit` asks for; None for all."""
    return MOST_ROWS if limit is None and not as_json else limit


@dataclass
class Context:
    """One run of the command: its surroundings, its global options, and what is opened on first use."""

    environ: Mapping[str, str]
    cwd: Path
    clock: Callable[[], datetime]
    """Read when a change is made, never by the floors below."""
    home_flag: Path | None = None
    actor_flag: str | None = None
    show_traceback: bool = False

    def now(self) -> datetime:
        return self.clock()

    @functools.cached_property
    def settings(self) -> Settings:
        for doubt in doubts(self.environ):
            print_warning(doubt)
        return Settings.from_environment(self.environ, self.cwd, home=self.home_flag, actor=self.actor_flag)

    @property
    def actor(self) -> str:
        return self.settings.actor

    @property
    def database(self) -> Database:
        """The registry, which must be there already: nobody makes one by looking into the wrong folder.

        Raises:
            NotFound: it is to be an SQLite file that does not exist.
        """
        file = None if "database_or_new" in vars(self) else sqlite_file(self.settings.database_url)
        if file is not None and not os.path.exists(file):  # noqa: PTH110 - Path.exists raises where nobody may look
            raise NotFound(
                f"there is no registry at {file}: check the folder that you are in, --home, TRUNKLINE_HOME and "
                "TRUNKLINE_DATABASE_URL; where there never was one, `trunkline backbone pin` or `team create` begins it"
            )
        return self.database_or_new

    @functools.cached_property
    def database_or_new(self) -> Database:
        """The registry for what may begin one; where it is to be an SQLite file that does not exist yet, a new one."""
        settings = self.settings
        database = Database.open(settings.database_url)
        if database.is_new:  # said, because a mistyped --home looks like an empty registry
            is_at_home = database.location == str(settings.registry_file)
            print_note(f"created a new registry in {settings.home if is_at_home else database.location}")
        return database

    @functools.cached_property
    def store(self) -> ArtifactStore:
        return self._store_at(self.settings.artifact_root)

    def other_store(self, root: str, said_by: str) -> ArtifactStore:
        """The store at another artifact root, a folder or an s3:// URL, that an argument (`said_by`) names."""
        return self._store_at(located_root(root, self.cwd, said_by))

    def _store_at(self, root: str) -> ArtifactStore:
        return open_store(root, cache=self.settings.blob_cache, cache_bytes=self.settings.blob_cache_bytes)

    def close(self) -> None:
        if "database_or_new" in vars(self):
            self.database_or_new.close()


def example(*commands: str, then: str = "") -> str:
    """An epilog: what to type, and what else there is to see."""
    lines = "\n".join(f"$ {command}" for command in commands)
    return f"{'Example' if len(commands) == 1 else 'Examples'}:\n\n{lines}" + (f"\n\n{then}" if then else "")


app = typer.Typer(
    name="trunkline",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=example("trunkline task list", "trunkline --home /srv/trunkline --actor ada team create nlu"),
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print_line(f"trunkline {version('trunkline')}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    home: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="The registry's folder. Else TRUNKLINE_HOME, else the nearest .trunkline going up from here.",
        ),
    ] = None,
    actor: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Who makes the change. Else TRUNKLINE_ACTOR, else the login name."),
    ] = None,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where in the program an error arose.")] = False,
    version: Annotated[  # noqa: ARG001 - handled by its callback
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Multi-task BERT serving: one frozen encoder, one module a task, one pass for all."""
    context: Context = ctx.obj
    context.home_flag, context.actor_flag, context.show_traceback = home, actor, traceback
