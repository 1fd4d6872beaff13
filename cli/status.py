"""`trunkline status`: per task, what is behind and what to run."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import typer
from sqlalchemy.orm import Session

from cli.application import AsJson, Context, example
from cli.progress import progress_bar
from cli.rendering import print_json, print_line, print_table
from registry.domain.records import Backbone, TaskState
from registry.domain.staleness import (
    Champion,
    DataDigests,
    TaskStanding,
    channel_updates,
    retired_standing,
    task_standing,
)
from registry.domain.task_specs import TaskSpec
from registry.errors import InvalidInput
from registry.services import backbones, channels, releases, tasks, versions

app = typer.Typer()


@app.command(epilog=example("trunkline status", "trunkline status --no-data --json"))
def status(
    ctx: typer.Context,
    alias: Annotated[str, typer.Option(help="The alias of the version that should be in use.")] = "champion",
    data: Annotated[
        bool, typer.Option("--data/--no-data", help="Read the tasks' files, to see whether they have changed.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Show of every active task its champion, where it is live, what is behind, and what to run; and retired tasks
    that are still live after their last day.

    A champion is behind when the task was redefined since, when its data have changed, or when it cannot attach to the
    newest backbone; a channel is behind when it answers with another version.
    """
    context: Context = ctx.obj
    with context.database.read() as session:
        active = [task for task in tasks.list_tasks(session) if task.state is TaskState.ACTIVE]
        champions = _champions(session, alias)
        newest = _newest(backbones.list_backbones(session))
        live = _live(session)
        retired = releases.retired_by(session, live, context.now().date())
    digests = _digests([task.spec for task in active]) if data else {}
    found = [] if newest is None else [
        task_standing(
            task,
            champions.get(task.name),
            alias=alias,
            backbone=newest,
            live=live.get(task.name, {}),
            data=digests.get(task.name),
        )
        for task in active
    ]  # fmt: skip
    found += [retired_standing(task, live[task]) for task in sorted(retired)]
    if as_json:
        print_json({"tasks": [one.model_dump(mode="json") for one in found], "run": _commands(found, alias)})
    elif newest is None:
        print_line("no backbone is pinned yet: `trunkline backbone pin` does")
    else:
        _print(found, alias)


def _champions(session: Session, alias: str) -> Mapping[str, Champion]:
    found = versions.versions_with_alias(session, alias)
    specs = versions.specs_of(session, found)
    return {version.task: Champion(version, specs[version.task, version.spec_revision]) for version in found}


def _newest(pinned: Sequence[Backbone]) -> Backbone | None:
    return max(pinned, key=lambda backbone: backbone.created_at, default=None)


def _live(session: Session) -> dict[str, dict[str, int]]:
    """Task -> channel -> version."""
    found: dict[str, dict[str, int]] = {}
    for channel in channels.list_channels(session):
        if channel.release is not None:
            for task, number in releases.get_release(session, channel.release).tasks.items():
                found.setdefault(task, {})[channel.name] = number
    return found


def _digests(specs: Sequence[TaskSpec]) -> dict[str, DataDigests | str]:
    from pipelines.data.dataset import load_dataset

    found: dict[str, DataDigests | str] = {}
    with progress_bar() as report:
        for number, spec in enumerate(specs, 1):
            try:
                found[spec.task] = DataDigests(load_dataset(spec, "train").digest, load_dataset(spec, "dev").digest)
            except InvalidInput as error:
                found[spec.task] = f"its data cannot be read: {error.problems[0]}"
            report("reading the tasks' data", number, len(specs))
    return found


def _commands(found: Sequence[TaskStanding], alias: str) -> list[str]:
    """Each once: what brings tasks to another backbone is one command for all."""
    return list(dict.fromkeys(command for one in found for command in one.run)) + channel_updates(found, alias)


def _print(found: Sequence[TaskStanding], alias: str) -> None:
    print_table(
        ["task", "champion", "live", "behind"],
        [
            (
                one.task,
                "" if one.champion is None else f"/{one.champion}",
                ", ".join(f"{channel} /{number}" for channel, number in one.live.items()),
                "; ".join(one.behind),
            )
            for one in found
        ],
    )
    commands = _commands(found, alias)
    print_line("")
    if commands:
        print_line("to catch up:")
        for command in commands:
            print_line(f"  {command}")
    else:
        print_line("nothing is behind" if found else "no active task")
