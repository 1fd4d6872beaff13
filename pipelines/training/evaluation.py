"""A module on the dev data: metrics, predictions row by row, and the golden examples it will be held to."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from modeling.backbone import Trunk
from modeling.batching import row_outputs
from modeling.crf import Transitions
from modeling.decoding import word_labels
from modeling.multitask import MergedModel
from modeling.parity import TOLERANCE, compare
from modeling.task_module import TaskModule
from modeling.text import EncodedText, TextEncoder, collate
from pipelines.data.dataset import Dataset
from pipelines.data.predictions import Decision, DevPredictions
from pipelines.training.activation_cache import ActivationCache, EncodedRows, module_outputs
from pipelines.training.metrics import score
from pipelines.training.packed_rows import RowTensors
from pipelines.training.recipes import Precision
from pipelines.training.trunk_features import TrunkFeatures
from registry.domain.golden_examples import GoldenExample, GoldenExamples
from registry.domain.manifests import Reading
from registry.domain.task_specs import TaskSpec, TaskType
from registry.errors import ArtifactDamaged

GOLDEN_EXAMPLES = 16


def decide(spec: TaskSpec, outputs: Tensor, encoded: EncodedText, transitions: Transitions | None = None) -> Decision:
    """What one row's raw outputs, [O] or [words, O], say in the words of the task."""
    if spec.type is TaskType.REGRESSION:
        return outputs.item()
    if spec.type is TaskType.CLASSIFICATION:
        return spec.output_labels[int(outputs.argmax())]
    return word_labels(outputs, spec.output_labels, encoded, spec.tag_scheme, transitions)


@dataclass(frozen=True)
class DevOutputs:
    """What a module answers to the dev data."""

    rows: Sequence[Tensor]
    """Raw outputs in fp32, one tensor a row: [O], or [words(row), O]."""
    transitions: Transitions | None
    """Of the module's CRF, without which its outputs cannot be read; None where it has none."""


@dataclass(frozen=True)
class DevEvaluation:
    """The dev data of a task with their frozen activations in fp32."""

    spec: TaskSpec
    dataset: Dataset
    rows: EncodedRows
    activations: RowTensors
    cache: ActivationCache
    depth: int
    _below: dict[Reading, TrunkFeatures] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return self.cache.device

    @classmethod
    def of(cls, spec: TaskSpec, dataset: Dataset, cache: ActivationCache, *, depth: int) -> Self:
        """The dev data as a branch that leaves after layer `depth` sees them; what is not cached yet is computed."""
        rows = EncodedRows.of(dataset, cache.encoder)
        activations = cache.frozen(rows, depth=depth, precision="fp32", stage="dev data")
        return cls(spec=spec, dataset=dataset, rows=rows, activations=activations, cache=cache, depth=depth)

    def outputs(self, module: TaskModule, *, precision: Precision = "fp32") -> DevOutputs:
        """What the module answers, computed in a precision."""
        found: dict[int, Tensor] = {}
        for numbers, values in module_outputs(
            module,
            self.activations,
            self.rows,
            precision=precision,
            device=self.device,
            below=self._trunk_features(module),
        ):
            found.update(zip(numbers, values, strict=True))
        with torch.no_grad():
            return DevOutputs([found[row] for row in range(len(self.rows))], module.transitions)

    def _trunk_features(self, module: TaskModule) -> TrunkFeatures | None:
        """Looked up once for all epochs that are scored."""
        reading = module.reads_below
        if reading is not None and reading not in self._below:
            found = self.cache.below(self.rows, reading, depth=self.depth, precision="fp32", stage="dev data")
            if found is not None:
                self._below[reading] = found
        return None if reading is None else self._below[reading]

    def decisions(self, outputs: DevOutputs) -> list[Decision]:
        return [
            decide(self.spec, of_row, encoded, outputs.transitions)
            for of_row, encoded in zip(outputs.rows, self.rows.encoded, strict=True)
        ]

    def score(self, module: TaskModule, *, precision: Precision) -> dict[str, float]:
        return self.metrics(self.outputs(module, precision=precision))

    def metrics(self, outputs: DevOutputs) -> dict[str, float]:
        """Every metric that fits the task, of what a module answered."""
        return score(self.spec, [example.target for example in self.dataset.examples], self.decisions(outputs))

    def predictions(self, outputs: DevOutputs) -> DevPredictions:
        return DevPredictions([example.target for example in self.dataset.examples], self.decisions(outputs))


def golden_examples(
    trunk: Trunk, module: TaskModule, dev: DevEvaluation, outputs: DevOutputs, encoder: TextEncoder, *, depth: int
) -> GoldenExamples:
    """Dev rows spread evenly over the lengths, each answered alone, without padding and without any cache.

    Args:
        outputs: what the module answers to the dev rows from the cache.
        depth: where the module leaves the trunk, which may be deeper.
    Raises:
        ArtifactDamaged: the cached activations lead to other answers than the model itself.
    """
    lengths = dev.rows.lengths
    by_length = sorted(range(len(lengths)), key=lambda row: (lengths[row], row))
    count = min(GOLDEN_EXAMPLES, len(by_length))
    rows = sorted(by_length[(2 * place + 1) * len(by_length) // (2 * count)] for place in range(count))
    alone = [
        _stand_alone(trunk, module, dev.rows.encoded[row], depth=depth, pad_id=encoder.pad_id, device=dev.device)
        for row in rows
    ]
    parity = compare(alone, [outputs.rows[row] for row in rows], type=dev.spec.type, tolerance=TOLERANCE["fp32"])
    if not parity.passed:
        raise ArtifactDamaged(
            f"task {dev.spec.task}: answers from the activation cache differ from the model's own by "
            f"{parity.largest_difference:.2g}; delete the folder cache in the registry's home and run again"
        )
    return GoldenExamples(
        examples=tuple(
            GoldenExample(
                text=dev.dataset.examples[row].text,
                text_pair=dev.dataset.examples[row].text_pair,
                outputs=tuple(map(tuple, answer.reshape(-1, answer.shape[-1]).tolist())),
            )
            for row, answer in zip(rows, alone, strict=True)
        )
    )


def _stand_alone(
    trunk: Trunk, module: TaskModule, encoded: EncodedText, *, depth: int, pad_id: int, device: torch.device
) -> Tensor:
    batch = collate([encoded], pad_id=pad_id, multiple_of=1).to(device)
    with torch.inference_mode():
        outputs = MergedModel(trunk, {"alone": (depth, module)})(batch, {"alone": None})["alone"]
        return row_outputs(outputs.cpu(), [encoded])[0]
