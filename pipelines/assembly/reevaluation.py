"""Dev predictions made anew, of versions that were scored on other dev data than those they are compared on."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from modeling.backbone import load_text_encoder, load_trunk
from modeling.task_module import load_task_module
from pipelines.assembly.comparison_gates import ChangedTask
from pipelines.data.dataset import Dataset, load_dataset
from pipelines.data.predictions import DevPredictions
from pipelines.training.activation_cache import ActivationCache
from pipelines.training.evaluation import DevEvaluation
from registry.artifacts.store import ArtifactStore
from registry.domain.records import Member
from registry.errors import InvalidInput
from registry.progress import Report


@dataclass(frozen=True)
class Evaluator:
    """What it takes to run a version's module over a data set."""

    store: ArtifactStore
    caches: Path
    """Folder of the activation caches."""
    cache_bytes: int | None
    device: torch.device
    report: Report

    def predictions(self, member: Member, dev: Dataset) -> DevPredictions:
        """What the version answers to these rows, in fp32, as it would have when it was registered."""
        version, backbone, depth = member.version, member.trained_on, member.version.frozen_depth
        trunk = load_trunk(
            config=backbone.config, embeddings=backbone.embeddings, layers=backbone.layers[:depth], store=self.store
        ).to(self.device)
        encoder = load_text_encoder(backbone, self.store)
        cache = ActivationCache(
            self.caches,
            trunk,
            encoder,
            backbone.prefix_digests,
            self.device,
            self.report,
            limit_bytes=self.cache_bytes,
        )
        module = load_task_module(
            self.store.fetch(version.module),
            subject=str(version.reference),
            config=backbone.config,
            head=version.head,
            task_layers=version.task_layers,
            frozen_depth=depth,
        ).to(self.device)
        evaluation = DevEvaluation.of(member.spec, dev, cache, depth=depth)
        return evaluation.predictions(evaluation.outputs(module))


def evaluated_anew(changed: ChangedTask, members: Mapping[int, Member], evaluator: Evaluator) -> ChangedTask:
    """The task with the predictions that are missing for its comparisons, if its dev file has the rows.

    Where the file holds what one of the versions was scored on (the old one, the new one, its teacher), every other one
    answers it.

    Args:
        members: of the task's versions, by number.
    Raises:
        InvalidWeights, ArtifactMissing, ArtifactDamaged: a module or a part of its backbone cannot be used.
    """
    compared = [one for one in (changed.old, changed.new, changed.teacher) if one is not None]
    if len({one.dev_digest for one in compared}) == 1:
        return changed
    try:
        dev = load_dataset(changed.spec, "dev")
    except InvalidInput:  # the gates then say that the versions cannot be compared
        return changed
    if dev.digest not in {one.dev_digest for one in compared}:
        return changed
    asked = [one for one in compared if one.dev_digest != dev.digest]
    anew = {one.number: evaluator.predictions(members[one.number], dev) for one in asked}
    return replace(changed, predicted_anew=anew)
