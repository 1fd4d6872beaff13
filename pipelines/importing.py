"""A module that was trained elsewhere: every tensor accounted for, and measured here as a trial's module is."""

from dataclasses import dataclass
from pathlib import Path

import torch

from modeling.backbone import load_text_encoder, load_trunk
from modeling.heads import RegressionHead
from modeling.task_module import TaskModule, load_task_module, module_bytes
from pipelines.data.dataset import Dataset
from pipelines.training.activation_cache import ActivationCache
from pipelines.training.evaluation import DevEvaluation, golden_examples
from pipelines.training.trial_run import environment_of
from registry.artifacts.store import ArtifactStore
from registry.domain.module_manifests import PlannedImport
from registry.domain.plain_data import json_digest
from registry.domain.records import NewVersion
from registry.errors import InvalidInput, InvalidWeights
from registry.fault_points import reached
from registry.progress import Report

_IMPORT_FORMAT = 1
"""Part of every import's key; raised when the same file no longer gives the same version."""

STATISTIC = "imported, evaluated here"


@dataclass(frozen=True)
class ImportedModule:
    """What is registered of a module that was trained elsewhere."""

    planned: PlannedImport
    module: bytes
    golden: bytes
    dev_predictions: bytes
    metrics: dict[str, float]
    train_digest: str
    """As the manifest or the task's file says: nothing proves what a module was trained on."""
    dev_digest: str
    environment: dict[str, str]

    def to_version(self, store: ArtifactStore) -> NewVersion:
        """Puts the blobs into the store and returns the row that refers to them."""
        planned, module = self.planned, store.put(self.module)
        return NewVersion(
            **dict(planned.proposed),
            module=module,
            golden=store.put(self.golden),
            dev_predictions=store.put(self.dev_predictions),
            metrics=self.metrics,
            statistic=STATISTIC,
            train_digest=self.train_digest,
            dev_digest=self.dev_digest,
            recipe={"imported": planned.manifest.said()},
            seed=planned.manifest.seed or 0,
            environment=self.environment,
            trial_key=_key(planned, module, self.dev_digest),
        )


def _key(planned: PlannedImport, module: str, dev_digest: str) -> str:
    """Digest of what the module is and what it was measured on; what its manifest tells beside that is not in it."""
    # How its tensors are read, as they cannot say it themselves. Left out where it is the default, so that the keys of
    # older imports stay; type and outputs are the spec's.
    reading = planned.proposed.head.model_dump(mode="json", exclude={"type", "outputs"}, exclude_defaults=True)
    return json_digest(
        {
            "import": _IMPORT_FORMAT,
            "spec": planned.spec.meaning_digest(),
            "backbone": planned.backbone.prefix_digests[-1],
            "dev": dev_digest,
            "frozen_depth": planned.proposed.frozen_depth,
            "task_layers": planned.proposed.task_layers,
            "module": module,
            "teacher": planned.teacher.module if planned.teacher else None,
            **({"head": reading} if reading else {}),
        }
    )


def read_module(path: Path, planned: PlannedImport) -> TaskModule:
    """The module in a file.

    Raises:
        InvalidWeights: its tensors are not exactly those of such a branch, are not F32, or cannot answer anything.
    """
    module = load_task_module(
        path,
        subject=str(path),
        config=planned.backbone.config,
        head=planned.proposed.head,
        task_layers=planned.proposed.task_layers,
        frozen_depth=planned.proposed.frozen_depth,
    )
    if broken := sorted(name for name, tensor in module.state_dict().items() if not tensor.isfinite().all()):
        raise InvalidWeights(f"weights of {path}: NaN or infinity in {', '.join(broken)}")
    if isinstance(module.head, RegressionHead) and module.head.target_scale <= 0:
        raise InvalidWeights(f"weights of {path}: head.target_scale is {module.head.target_scale:g}, not above 0")
    return module


def evaluate_module(
    module: TaskModule,
    planned: PlannedImport,
    *,
    subject: str,
    dev: Dataset,
    train_digest: str,
    store: ArtifactStore,
    caches: Path,
    device: torch.device,
    report: Report,
    cache_bytes: int | None = None,
) -> ImportedModule:
    """Measures the module on the task's dev data, on this backbone's frozen layers, in the precision of a release.

    Args:
        subject: names the manifest in the error.
        caches: folder of the activation caches.
        cache_bytes: limit of the activation cache; None: none.
    Raises:
        InvalidInput: it does not reach what its manifest claims; lists every metric.
        InvalidWeights: it answers with NaN or infinity.
    """
    backbone, depth = planned.backbone, planned.proposed.frozen_depth
    encoder = load_text_encoder(backbone, store)
    trunk = load_trunk(
        config=backbone.config, embeddings=backbone.embeddings, layers=backbone.layers[:depth], store=store
    ).to(device)
    cache = ActivationCache(caches, trunk, encoder, backbone.prefix_digests, device, report, limit_bytes=cache_bytes)
    evaluation = DevEvaluation.of(planned.spec, dev, cache, depth=depth)
    reached("import.dev-rows-cached")
    module = module.to(device)
    outputs = evaluation.outputs(module)
    if not all(answer.isfinite().all() for answer in outputs.rows):
        raise InvalidWeights(f"{subject}: the module answers with NaN or infinity on the task's dev data")
    metrics = evaluation.metrics(outputs)
    if problems := planned.manifest.claim_problems(metrics):
        raise InvalidInput(subject, problems)
    reached("import.measured")
    return ImportedModule(
        planned=planned,
        module=module_bytes(module),
        golden=golden_examples(trunk, module, evaluation, outputs, encoder, depth=depth).to_bytes(),
        dev_predictions=evaluation.predictions(outputs).to_bytes(),
        metrics=metrics,
        train_digest=train_digest,
        dev_digest=dev.digest,
        environment=environment_of(device),
    )
