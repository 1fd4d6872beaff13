"""Two releases side by side: what became of every task, of the trunk and of the layer count."""

from collections.abc import Mapping, Sequence

from registry.domain.manifests import BranchManifest, Manifest
from registry.domain.plain_data import Plain
from registry.domain.records import Release, Version
from registry.domain.references import Name

Scored = Mapping[tuple[str, int], tuple[Version, str]]
"""(task, number) -> the version and the metric of the definition that it was trained for."""


class HeldVersion(Plain):
    """A version as a release holds it."""

    version: int
    frozen_depth: int
    task_layers: int
    metric: str
    score: float | None
    """In points; None where the version has none in this metric."""
    dev_digest: str


class TaskDiff(Plain):
    task: Name
    before: HeldVersion | None
    """None: it was added."""
    after: HeldVersion | None
    """None: it was removed."""
    contract: tuple[str, ...]
    """What a reader of the answers notices: see `contract_changes`."""

    @property
    def gain(self) -> float | None:
        """In points; None where the scores are on other dev data, in another metric, or missing."""
        if self.before is None or self.after is None:
            return None
        was, now = self.before, self.after
        if was.score is None or now.score is None or (was.metric, was.dev_digest) != (now.metric, now.dev_digest):
            return None
        return now.score - was.score


class ReleaseDiff(Plain):
    before: str
    after: str
    backbone_before: Name
    backbone: Name
    trunk_depth_before: int
    trunk_depth: int
    layer_count_before: int
    layer_count: int
    changed: tuple[TaskDiff, ...]
    """By name; the versions are other ones, or one of them is not there."""
    unchanged: tuple[Name, ...]
    new_blobs: int
    """How many of the later one's blobs the earlier one does not hold."""


def release_diff(
    releases: tuple[Release, Release], manifests: tuple[Manifest, Manifest], scored: Scored
) -> ReleaseDiff:
    """What the second release changes against the first."""
    (before, after), (old, new) = releases, manifests
    tasks = sorted({*old.tasks, *new.tasks})
    changed = [task for task in tasks if old.tasks.get(task) != new.tasks.get(task)]
    return ReleaseDiff(
        before=before.name,
        after=after.name,
        backbone_before=before.backbone,
        backbone=after.backbone,
        trunk_depth_before=old.trunk.depth,
        trunk_depth=new.trunk.depth,
        layer_count_before=old.layers_in_use,
        layer_count=new.layers_in_use,
        changed=tuple(
            TaskDiff(
                task=task,
                before=_held(task, old.tasks.get(task), scored),
                after=_held(task, new.tasks.get(task), scored),
                contract=tuple(contract_changes(old.tasks[task], new.tasks[task]))
                if task in old.tasks and task in new.tasks
                else (),
            )
            for task in changed
        ),
        unchanged=tuple(task for task in tasks if task not in changed),
        new_blobs=len(new.blobs - old.blobs),
    )


def contract_changes(old: BranchManifest, new: BranchManifest) -> Sequence[str]:
    """What a reader of a task's answers would notice, in words."""
    changes = [
        f"{name} was {was}, and is {now}"
        for name, was, now in (("type", old.type, new.type), ("input form", old.input_form, new.input_form))
        if was != now
    ]
    added = [label for label in new.labels if label not in old.labels]
    removed = [label for label in old.labels if label not in new.labels]
    changes += [f"labels added: {', '.join(added)}"] if added else []
    changes += [f"labels removed: {', '.join(removed)}"] if removed else []
    if not added and not removed and old.labels != new.labels:
        changes.append("labels reordered")
    return changes


def _held(task: str, branch: BranchManifest | None, scored: Scored) -> HeldVersion | None:
    if branch is None:
        return None
    version, metric = scored[task, branch.version]
    score = version.metrics.get(metric)
    return HeldVersion(
        version=branch.version,
        frozen_depth=branch.frozen_depth,
        task_layers=branch.task_layers,
        metric=metric,
        score=None if score is None else round(100 * score, 6),
        dev_digest=version.dev_digest,
    )
