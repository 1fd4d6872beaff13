"""What of a task is behind: its champion against its definition, its data and the backbone; what is live against it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from registry.domain.plain_data import Plain
from registry.domain.records import Backbone, Task, Version
from registry.domain.references import Name
from registry.domain.task_specs import TaskSpec


class DataDigests(NamedTuple):
    train: str
    dev: str


class Champion(NamedTuple):
    version: Version
    spec: TaskSpec
    """Of the revision that it was trained for."""


class TaskStanding(Plain):
    task: Name
    champion: int | None
    live: Mapping[Name, int]
    """Channel -> the version that is live there."""
    behind: tuple[str, ...]
    """Why something is to be done; empty where nothing is."""
    outdated_on: tuple[Name, ...]
    """Channels that answer with another version than the champion."""
    run: tuple[str, ...]
    """The commands that mend the champion; for the channels see `channel_updates`."""
    retired: bool = False
    """Whether it is to be served no more: then no champion is wanted, and channels that answer it are behind."""


def task_standing(
    task: Task,
    champion: Champion | None,
    *,
    alias: str,
    backbone: Backbone,
    live: Mapping[str, int],
    data: DataDigests | str | None,
) -> TaskStanding:
    """What is behind of an active task.

    Args:
        backbone: the newest one.
        data: digests of the files as they are now; in words why they cannot be read; None: not looked at.
    """
    reasons = list(_behind(task, champion, alias, backbone, data))
    run = []
    if champion is None and task.version_count:
        run.append(f"trunkline task promote {task.name}/N --alias {alias}")
    elif reasons and not isinstance(data, str):  # training would stop at those files too
        run.append(_command(task, champion, backbone, reasons, alias))
    number = None if champion is None else champion.version.number
    outdated = [channel for channel, there in live.items() if number not in (None, there)]
    reasons += [f"{task.name}/{live[channel]} is live on {channel}" for channel in outdated]
    return TaskStanding(
        task=task.name,
        champion=number,
        live=live,
        behind=tuple(reasons),
        outdated_on=tuple(outdated),
        run=tuple(run),
    )


def retired_standing(task: str, live: Mapping[str, int]) -> TaskStanding:
    """Of a retired task that is still live."""
    reasons = [f"retired, and {task}/{number} is live on {channel}" for channel, number in live.items()]
    return TaskStanding(
        task=task, champion=None, live=live, behind=tuple(reasons), outdated_on=tuple(live), run=(), retired=True
    )


def _command(task: Task, champion: Champion | None, backbone: Backbone, reasons: Sequence[str], alias: str) -> str:
    """Where only the backbone is another one, the recorded recipe is run again, if there is one; else the search is.

    The first is one command for all tasks, and says what it would do: a backbone may have been pinned to try it.
    """
    if champion is not None and len(reasons) == 1 and not backbone.carries(champion.version):
        version = champion.version
        if "imported" not in version.recipe:
            named = "" if alias == "champion" else f" --alias {alias}"
            return f"trunkline backbone migrate {version.backbone} {backbone.name}{named} --plan"
    return f"trunkline search run {task.name} --backbone {backbone.name}"


def channel_updates(found: Sequence[TaskStanding], alias: str) -> list[str]:
    """One command a channel, for all its tasks at once: releases made one by one of what is live would each hold only
    their own change."""
    kept = {channel for one in found if not one.retired for channel in one.live}
    changes: dict[str, list[str]] = {}
    for one in found:
        # A channel of which nothing would be left has no command: another release is to go live there.
        for channel in set(one.outdated_on) & kept:
            changes.setdefault(channel, []).append(
                f"--remove {one.task}" if one.retired else f"--task {one.task}@{alias}"
            )
    return [
        f"trunkline release update --channel {channel} {' '.join(of_channel)}"
        for channel, of_channel in sorted(changes.items())
    ]


def _behind(
    task: Task, champion: Champion | None, alias: str, backbone: Backbone, data: DataDigests | str | None
) -> Iterator[str]:
    if isinstance(data, str):
        yield data
    if champion is None:
        yield f"no {alias}" if task.version_count else "no version"
        return
    version = champion.version
    if champion.spec.meaning_digest() != task.spec.meaning_digest():
        yield f"trained for spec revision {version.spec_revision}, now {task.spec_revision}"
    if isinstance(data, DataDigests):
        changed = [
            name
            for name, was, now in (
                ("training", version.train_digest, data.train),
                ("dev", version.dev_digest, data.dev),
            )
            if was != now
        ]
        if changed:
            yield f"its {' and '.join(changed)} data have changed"
    if not backbone.carries(version):
        yield f"on backbone {version.backbone}; the newest is {backbone.name}"
