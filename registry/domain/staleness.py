"""What of a task is behind: its champion against its definition, its data and the backbone; what is live against it."""

from collections.abc import Iterator, Mapping
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
    run: tuple[str, ...]
    """The commands that do it."""


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
        run.append(f"trunkline search run {task.name}")
    for channel, number in live.items():
        if champion is not None and number != champion.version.number:
            reasons.append(f"{task.name}/{number} is live on {channel}")
            run.append(f"trunkline release update --channel {channel} --task {task.name}@{alias}")
    return TaskStanding(
        task=task.name,
        champion=None if champion is None else champion.version.number,
        live=live,
        behind=tuple(reasons),
        run=tuple(run),
    )


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
    if not _fits(version, backbone):
        yield f"on backbone {version.backbone}; the newest is {backbone.name}"


def _fits(version: Version, backbone: Backbone) -> bool:
    """Whether the version may attach to the backbone, whatever name that has."""
    depth = version.frozen_depth
    return depth <= backbone.layer_count and backbone.prefix_digests[depth] == version.prefix_digest
