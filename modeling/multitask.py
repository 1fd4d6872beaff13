"""The merged model: one trunk, every task's branch on it, one pass for all.

B = rows, W = words.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from modeling.backbone import Attention, Trunk, load_trunk
from modeling.task_module import TaskModule, load_task_module
from modeling.text import Batch
from registry.artifacts.store import ArtifactStore
from registry.domain.manifests import BranchManifest, Manifest, head_problems
from registry.domain.plain_data import canonical_json
from registry.errors import ArtifactError, InvalidWeights, NotFound


class MergedModel(nn.Module):
    """A trunk with branches that leave it at their own depths.

    Args:
        branches: task -> (frozen depth, module).
    """

    def __init__(self, trunk: Trunk, branches: Mapping[str, tuple[int, TaskModule]]) -> None:
        super().__init__()
        if too_deep := [task for task, (depth, _) in branches.items() if depth > trunk.depth]:
            raise ValueError(f"{', '.join(too_deep)}: leaves after the trunk's last layer {trunk.depth}")
        if other := [
            task for task, (depth, module) in branches.items() if module.reads_below and module.states_below != depth
        ]:
            raise ValueError(f"{', '.join(other)}: mixes the states of another depth than it leaves at")
        self.trunk = trunk
        self.branches = nn.ModuleDict({_key(task): module for task, (_, module) in branches.items()})
        self.frozen_depths: Mapping[str, int] = {task: depth for task, (depth, _) in branches.items()}

    def branch(self, task: str) -> TaskModule:
        """The task's module.

        Raises:
            NotFound: the model has no such task.
        """
        if task not in self.frozen_depths:
            raise NotFound(f"task {task!r} is not in this release, which has: {', '.join(sorted(self.frozen_depths))}")
        return cast(TaskModule, self.branches[_key(task)])

    def forward(self, batch: Batch, rows: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
        """Runs the trunk once, down to the deepest layer that these tasks need, and each branch where it leaves.

        Args:
            rows: task -> indices [n] int64 of the batch's rows that ask for it, or None for all of them.

        Returns:
            task -> raw outputs of its rows, in the order asked: [n, outputs] or [n, W, outputs].

        Raises:
            NotFound: the model has no such task.
        """
        branches = {task: self.branch(task) for task in rows}
        if not branches:
            return {}
        outputs: dict[str, Tensor] = {}
        below: dict[str, list[Tensor]] = {task: [] for task, module in branches.items() if module.reads_below}
        deepest = max(self.frozen_depths[task] for task in branches)
        for depth, hidden in enumerate(self.trunk.hidden_states(batch, deepest)):
            for task, module in branches.items():
                if depth > self.frozen_depths[task] or (depth < self.frozen_depths[task] and task not in below):
                    continue
                parts, index = (hidden, batch.mask, batch.word_tokens), rows[task]
                own, mask, words = parts if index is None else (part[index] for part in parts)
                if depth < self.frozen_depths[task]:
                    below[task].append(module.head.read(own, mask, words))
                else:
                    outputs[task] = module(own, mask, words, torch.stack(below[task], -2) if task in below else None)
        return {task: outputs[task] for task in rows}


def _key(task: str) -> str:
    # A ModuleDict refuses names that are attributes of its own ("type", "keys", "pop"); no attribute has a colon.
    return f"task:{task}"


def load_merged_model(manifest: Manifest, store: ArtifactStore, *, attention: Attention = "sdpa") -> MergedModel:
    """Builds a release's model, in eval mode and without gradients: each tensor of each blob fills one parameter.

    Raises:
        InvalidWeights: a blob's tensors are not exactly those that belong there; names task and tensors.
        ArtifactMissing, ArtifactDamaged: the store does not hold a whole blob; names the task.
        InvalidInput: the trunk's config is not one of a backbone.
    """
    (model,) = load_merged_models([manifest], store, attention=attention)
    return model


_TrunkParts = tuple[bytes, str, tuple[str, ...]]
"""The config, the embeddings' blob and the layers' blobs: all that a trunk is made of."""


def load_merged_models(
    manifests: Sequence[Manifest], store: ArtifactStore, *, attention: Attention = "sdpa"
) -> list[MergedModel]:
    """Several releases' models, which hold what is of the same blobs once: two releases that differ in one task take
    little more memory than one.

    Raises:
        What `load_merged_model` raises, of any of them.
    """
    trunks: dict[_TrunkParts, Trunk] = {}
    branches: dict[tuple[bytes, BranchManifest], TaskModule] = {}
    models: dict[int, MergedModel] = {}
    # The deepest trunk first: the others are its lower layers.
    for number, manifest in sorted(enumerate(manifests), key=lambda one: -one[1].trunk.depth):
        described, config = manifest.trunk, canonical_json(manifest.trunk.config)
        if (config, described.embeddings, described.layers) not in trunks:
            trunk = load_trunk(
                config=described.config,
                embeddings=described.embeddings,
                layers=described.layers,
                store=store,
                attention=attention,
            )
            for depth in range(trunk.depth + 1):
                trunks.setdefault((config, described.embeddings, described.layers[:depth]), trunk.up_to(depth))
        for task, branch in manifest.tasks.items():
            if (config, branch) not in branches:
                branches[config, branch] = load_branch(task, branch, described.config, store, attention)
        modules = {task: (branch.frozen_depth, branches[config, branch]) for task, branch in manifest.tasks.items()}
        model = MergedModel(trunks[config, described.embeddings, described.layers], modules)
        models[number] = model.requires_grad_(False).eval()
    return [models[number] for number in range(len(manifests))]


def load_branch(
    task: str,
    branch: BranchManifest,
    config: Mapping[str, Any],
    store: ArtifactStore,
    attention: Attention = "sdpa",
) -> TaskModule:
    """A release's branch, in eval mode and without gradients.

    Raises:
        InvalidWeights: head and task do not fit, or the blob's tensors are not exactly the module's.
        ArtifactMissing, ArtifactDamaged: the store does not hold a whole blob; names the task.
    """
    subject = f"{task}/{branch.version}"
    if branch.head.type is not branch.type or branch.head.outputs != max(1, len(branch.labels)):
        raise InvalidWeights(
            f"{subject}: a {branch.head.type} head of {branch.head.outputs} outputs does not fit "
            f"a {branch.type} task of {len(branch.labels)} labels"
        )
    if problems := head_problems(
        type=branch.type, tag_scheme=branch.tag_scheme, pooling=branch.head.pooling, crf=branch.head.crf
    ):
        raise InvalidWeights(f"{subject}: its head does not fit the task: {'; '.join(problems)}")
    try:
        path = store.fetch(branch.module)
    except ArtifactError as error:
        raise type(error)(f"module of {subject}: {error}") from error
    return load_task_module(
        path,
        subject=subject,
        config=config,
        head=branch.head,
        task_layers=branch.task_layers,
        frozen_depth=branch.frozen_depth,
        attention=attention,
    ).requires_grad_(False)
