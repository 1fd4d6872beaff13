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
    """The task with the predictions that are missing for its comparisons, as far as its dev file has the rows.

    Where the file holds what the new version was scored on, the old one and the teacher answer it; where it holds what
    the old one was scored on, the new one does.

    Args:
        members: of the task's versions, by number.
    Raises:
        InvalidWeights, ArtifactMissing, ArtifactDamaged: a module or a part of its backbone cannot be used.
    """
    old, new = changed.old, changed.new
    others = [one for one in (old, changed.teacher) if one is not None and one.dev_digest != new.dev_digest]
    if not others:
        return changed
    try:
        dev = load_dataset(changed.spec, "dev")
    except InvalidInput:  # the gates then say that the versions cannot be compared
        return changed
    if dev.digest == new.dev_digest:
        asked = others
    elif old is not None and dev.digest == old.dev_digest:
        asked = [new]
    else:
        asked = []
    anew = {one.number: evaluator.predictions(members[one.number], dev) for one in asked}
    return replace(changed, predicted_anew=anew)
