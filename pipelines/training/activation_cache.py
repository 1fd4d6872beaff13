"""What never changes while a task is trained, computed once per data set: frozen hidden states and teacher outputs.

Training reads hidden states in the precision it multiplies in. The dev data are always in fp32, the precision that a
release answers in, so that a recorded metric is that of the module as served.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from modeling.backbone import Trunk
from modeling.batching import place_counts, places, row_outputs, token_batches
from modeling.task_module import TaskModule
from modeling.text import EncodedText, TextEncoder
from pipelines.data.dataset import Dataset
from pipelines.training.batches import cached_batch
from pipelines.training.packed_rows import FilledRows, PackedRows, RowTensors, load_or_pack
from pipelines.training.recipes import Precision
from registry.progress import Report

TOKENISATION = "raw text, longest first, 2"
"""Names how text becomes tokens beyond what P(0) covers; changed whenever `modeling.text` encodes differently."""

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def computing_in(precision: Precision, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """The autocast context of a precision; fp32 needs none."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


@dataclass(frozen=True)
class EncodedRows:
    """The texts of a data set as trunk input."""

    encoded: Sequence[EncodedText]
    digest: str
    """Of the texts, in order. Labels are not in it: tasks over the same texts share what is cached."""

    @classmethod
    def of(cls, dataset: Dataset, encoder: TextEncoder) -> "EncodedRows":
        encoded = encoder.encode([(example.text, example.text_pair) for example in dataset.examples])
        return cls(encoded, hashlib.sha256("\n".join(dataset.input_digests).encode()).hexdigest())

    @cached_property
    def lengths(self) -> list[int]:
        return [len(row.input_ids) for row in self.encoded]

    def __len__(self) -> int:
        return len(self.encoded)


@dataclass(frozen=True)
class ActivationCache:
    """One backbone's cache in one folder."""

    folder: Path
    trunk: Trunk
    encoder: TextEncoder
    prefix_digests: Sequence[str]
    """P(0)..P(N)."""
    device: torch.device
    report: Report

    def frozen(self, rows: EncodedRows, *, depth: int, precision: Precision, stage: str) -> PackedRows:
        """The hidden state after layer `depth` of every row, [tokens(row), H] in the precision's dtype."""

        def fill() -> FilledRows:
            done = 0
            for numbers in token_batches(rows.lengths):
                batch = self.encoder.collate([rows.encoded[row] for row in numbers]).to(self.device)
                with torch.inference_mode(), computing_in(precision, self.device):
                    hidden = self.trunk(batch, [depth])[depth].to(_DTYPES[precision]).cpu()
                yield numbers, [hidden[place, : rows.lengths[row]] for place, row in enumerate(numbers)]
                done += len(numbers)
                self.report(f"{stage}: {f'layers 1-{depth}' if depth else 'embeddings'}", done, len(rows))

        return load_or_pack(
            self.folder / "activations",
            {
                "prefix_digest": self.prefix_digests[depth],
                "inputs": rows.digest,
                "tokenisation": TOKENISATION,
                "precision": precision,
            },
            lengths=rows.lengths,
            width=self.trunk.config.hidden_size,
            dtype=_DTYPES[precision],
            fill=fill,
        )

    def teacher_outputs(
        self,
        teacher: TaskModule,
        rows: EncodedRows,
        *,
        depth: int,
        module_digest: str,
        outputs: int,
        token_level: bool,
        precision: Precision,
        stage: str,
    ) -> PackedRows:
        """The raw outputs on every row of a teacher that leaves after layer `depth`, [places(row), outputs] fp32."""

        def fill() -> FilledRows:
            activations = self.frozen(rows, depth=depth, precision=precision, stage=stage)
            done = 0
            for numbers, values in module_outputs(teacher, activations, rows, precision=precision, device=self.device):
                tokens = [torch.tensor(rows.encoded[row].word_tokens) for row in numbers]
                yield numbers, [places(one[None], of_row[None]) for one, of_row in zip(values, tokens, strict=True)]
                done += len(numbers)
                self.report(f"{stage}: teacher", done, len(rows))

        return load_or_pack(
            self.folder / "teacher_outputs",
            {
                "module": module_digest,
                "prefix_digest": self.prefix_digests[depth],
                "inputs": rows.digest,
                "tokenisation": TOKENISATION,
                "precision": precision,
            },
            lengths=place_counts(rows.encoded, token_level=token_level),
            width=outputs,
            dtype=torch.float32,
            fill=fill,
        )


def module_outputs(
    module: TaskModule,
    activations: RowTensors,
    rows: EncodedRows,
    *,
    precision: Precision,
    device: torch.device,
) -> Iterator[tuple[list[int], list[Tensor]]]:
    """Raw outputs of a module over cached rows, batch by batch: row numbers, and [O] or [words(row), O] in fp32."""
    for numbers in token_batches(rows.lengths):
        batch = cached_batch(activations, rows.encoded, numbers, device)
        with torch.inference_mode(), computing_in(precision, device):
            outputs = module(batch.hidden, batch.mask, batch.word_tokens)
        yield numbers, row_outputs(outputs.float().cpu(), [rows.encoded[row] for row in numbers])
