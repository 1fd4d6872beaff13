"""What never changes while a task is trained, computed once a text: frozen hidden states and what teachers answer.

Training reads hidden states in the precision it multiplies in. The dev data are always in fp32, the precision that a
release answers in, so that a recorded metric is that of the module as served.

A row is always computed in a batch of rows that are padded to the same width as it would be alone, so that its values
do not depend on which other rows were missing when it was computed.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from modeling.backbone import Trunk
from modeling.batching import place_counts, places, row_outputs, token_batches
from modeling.heads import READS
from modeling.task_module import TaskModule
from modeling.text import EncodedText, TextEncoder
from pipelines.data.dataset import Dataset
from pipelines.training.batches import CachedBatch, cached_batch
from pipelines.training.cache_room import CacheRoom
from pipelines.training.cache_rows import RowCache
from pipelines.training.cache_segments import Digests, RowGroup, digest_rows
from pipelines.training.packed_rows import RowTensors
from pipelines.training.recipes import Precision
from pipelines.training.trunk_features import TrunkFeatures, packed_places
from registry.domain.manifests import Reading
from registry.progress import Report

TOKENISATION = "raw text, longest first, 2"
"""Names how text becomes tokens beyond what P(0) covers; changed whenever `modeling.text` encodes differently, or
`modeling.words` splits."""
_TEACHING = "2"
"""How a teacher's layers are computed; raised when its answers are rounded otherwise, as `trials.TRIAL_FORMAT` is."""

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_COLLATED_TO = 8
"""What `TextEncoder.collate` pads to; `cached_batch` pads to the longest row."""
_BATCH_TOKENS = 4096

_TeacherReads = tuple[RowTensors, TrunkFeatures | None]
"""Its input, and what its head mixes of the frozen states below."""

_BatchOfGroups = tuple[Sequence[int], Sequence[Sequence[Tensor]]]
"""Row numbers, and for each group one tensor a row."""


def computing_in(precision: Precision, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """The autocast context of a precision; fp32 needs none."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


@dataclass(frozen=True)
class EncodedRows:
    """The texts of a data set as trunk input."""

    encoded: Sequence[EncodedText]
    digests: Sequence[str]
    """Of each row's texts. Labels are not in them: tasks over the same texts share what is cached."""

    @classmethod
    def of(cls, dataset: Dataset, encoder: TextEncoder) -> "EncodedRows":
        encoded = encoder.encode([(example.text, example.text_pair) for example in dataset.examples])
        return cls(encoded, dataset.input_digests)

    @cached_property
    def lengths(self) -> list[int]:
        return [len(row.input_ids) for row in self.encoded]

    @cached_property
    def digest_rows(self) -> Digests:
        return digest_rows(self.digests)

    def only(self, numbers: Sequence[int]) -> "EncodedRows":
        return EncodedRows([self.encoded[row] for row in numbers], [self.digests[row] for row in numbers])

    def __len__(self) -> int:
        return len(self.encoded)


def activation_group(*, prefix_digest: str, precision: Precision, hidden_size: int) -> RowGroup:
    """The hidden states of one depth in one precision."""
    fields = {"prefix_digest": prefix_digest, "tokenisation": TOKENISATION, "precision": precision}
    return RowGroup("activations", fields, hidden_size, _DTYPES[precision])


def features_group(activations: RowGroup, reading: Reading) -> RowGroup:
    """What heads read of every state below that of these activations."""
    return RowGroup("trunk_features", {**activations.fields, "reading": reading}, activations.width, activations.dtype)


def features_lengths(rows: EncodedRows, reading: Reading, depth: int) -> list[int]:
    """How long each row of that is: its places, once a state."""
    return [depth * count for count in place_counts(rows.encoded, token_level=reading == "words")]


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
    depths: tuple[int, ...] = ()
    """Depths that will be asked for too: what one pass through the trunk comes by is kept in that pass."""
    limit_bytes: int | None = None
    """How large the caches of the folder may grow together; None for as large as the disk."""

    def frozen(self, rows: EncodedRows, *, depth: int, precision: Precision, stage: str) -> RowTensors:
        """The hidden state after layer `depth` of every row, [tokens(row), H] in the precision's dtype."""
        also = sorted(other for other in {*self.depths} - {depth} if other <= self.trunk.depth)
        groups = {self._group(one, precision): one for one in (depth, *also)}

        def compute(numbers: Sequence[int], wanted: Sequence[RowGroup]) -> Iterator[_BatchOfGroups]:
            return self._hidden_states(rows, numbers, [groups[group] for group in wanted], precision)

        def named(wanted: Sequence[RowGroup]) -> str:
            deepest = max(groups[group] for group in wanted)
            return f"{stage}: {f'layers 1-{deepest}' if deepest else 'embeddings'}"

        def on_the_fly(numbers: Sequence[int]) -> list[Tensor]:
            return _in_order(
                numbers,
                ((batch, hidden) for batch, (hidden,) in self._hidden_states(rows, numbers, [depth], precision)),
            )

        return self._cached_rows.rows(
            list(groups), rows.digest_rows, rows.lengths, compute=compute, on_the_fly=on_the_fly, stage=named
        )

    def below(
        self, rows: EncodedRows, reading: Reading | None, *, depth: int, precision: Precision, stage: str
    ) -> TrunkFeatures | None:
        """What a head reads of every state below layer `depth`, where its branch leaves; None if it reads nothing."""
        if reading is None:
            return None
        read = READS[reading]
        group = self._group(depth, precision)
        kept, counts = features_group(group, reading), features_lengths(rows, reading, depth)

        def batches(numbers: Sequence[int]) -> Iterator[tuple[Sequence[int], Sequence[Tensor]]]:
            for batch in batches_of_one_width(rows.lengths, numbers, padded_to=_COLLATED_TO):
                inputs = self.encoder.collate([rows.encoded[row] for row in batch]).to(self.device)
                with torch.no_grad(), computing_in(precision, self.device):
                    states = self.trunk.hidden_states(inputs, depth - 1)
                    features = [read(hidden, inputs.mask, inputs.word_tokens) for hidden in states]
                packed = packed_places(torch.stack(features, dim=-2), inputs.word_tokens, reading)
                yield batch, torch.split(packed.to(group.dtype).cpu(), [counts[row] for row in batch])

        return TrunkFeatures(
            self._cached_rows.rows(
                [kept],
                rows.digest_rows,
                counts,
                compute=lambda numbers, _: ((batch, [values]) for batch, values in batches(numbers)),
                on_the_fly=lambda numbers: _in_order(numbers, batches(numbers)),
                stage=lambda _: f"{stage}: what the head reads below",
            ),
            depth,
            reading,
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
    ) -> RowTensors:
        """The raw outputs on every row of a teacher that leaves after layer `depth`, [places(row), outputs] fp32."""
        return self.of_teacher(
            teacher,
            lambda batch: teacher(batch.hidden, batch.mask, batch.word_tokens, batch.below),
            rows,
            kind="teacher_outputs",
            depth=depth,
            module_digest=module_digest,
            width=outputs,
            token_level=token_level,
            precision=precision,
            stage=f"{stage}: teacher",
        )

    def of_teacher(
        self,
        teacher: TaskModule,
        answer: Callable[[CachedBatch], Tensor],
        rows: EncodedRows,
        *,
        kind: Literal["teacher_outputs", "teacher_features"],
        depth: int,
        module_digest: str,
        width: int,
        token_level: bool,
        precision: Precision,
        stage: str,
    ) -> RowTensors:
        """What a teacher that leaves after layer `depth` says to every row, [places(row), width] fp32.

        Args:
            answer: a batch of the teacher's inputs -> [B, width], or [B, W, width] at word level.
            kind: what the answer is; with the module's digest it says where it is kept.
        """
        fields = {"module": module_digest, "reading": teacher.head.reading, "teaching": _TEACHING}
        fields |= self._group(depth, precision).fields
        counts = place_counts(rows.encoded, token_level=token_level)

        def reads(of: EncodedRows) -> _TeacherReads:
            return (
                self.frozen(of, depth=depth, precision=precision, stage=stage),
                self.below(of, teacher.reads_below, depth=depth, precision=precision, stage=stage),
            )

        def answers(read: _TeacherReads, encoded: Sequence[EncodedText], batch: Sequence[int]) -> Sequence[Tensor]:
            inputs = cached_batch(read[0], encoded, batch, self.device, read[1])
            with torch.no_grad(), computing_in(precision, self.device):
                answered = places(answer(inputs), inputs.word_tokens).float().cpu()
            of_rows = place_counts([encoded[row] for row in batch], token_level=token_level)
            return list(torch.split(answered, of_rows))

        def compute(numbers: Sequence[int], _: Sequence[RowGroup]) -> Iterator[_BatchOfGroups]:
            missing = rows.only(numbers)
            read = reads(missing)
            for batch in batches_of_one_width(missing.lengths, range(len(missing)), padded_to=1):
                yield [numbers[row] for row in batch], [answers(read, missing.encoded, batch)]

        all_read: list[_TeacherReads] = []

        def on_the_fly(numbers: Sequence[int]) -> list[Tensor]:
            if not all_read:
                all_read.append(reads(rows))
            batches = batches_of_one_width(rows.lengths, numbers, padded_to=1)
            return _in_order(numbers, ((batch, answers(all_read[0], rows.encoded, batch)) for batch in batches))

        return self._cached_rows.rows(
            [RowGroup(kind, fields, width, torch.float32)],
            rows.digest_rows,
            counts,
            compute=compute,
            on_the_fly=on_the_fly,
            stage=lambda _: stage,
        )

    @property
    def _cached_rows(self) -> RowCache:
        return RowCache(CacheRoom(self.folder, self.limit_bytes), self.report)

    def _group(self, depth: int, precision: Precision) -> RowGroup:
        return activation_group(
            prefix_digest=self.prefix_digests[depth],
            precision=precision,
            hidden_size=self.trunk.config.hidden_size,
        )

    def _hidden_states(
        self, rows: EncodedRows, numbers: Sequence[int], depths: Sequence[int], precision: Precision
    ) -> Iterator[_BatchOfGroups]:
        """Batch by batch in one pass: row numbers, and for each depth one tensor a row, [tokens(row), H]."""
        for batch in batches_of_one_width(rows.lengths, numbers, padded_to=_COLLATED_TO):
            inputs = self.encoder.collate([rows.encoded[row] for row in batch]).to(self.device)
            # No inference mode: training may go through what is computed on the fly.
            with torch.no_grad(), computing_in(precision, self.device):
                hidden = self.trunk(inputs, depths)
            packed = (hidden[depth].to(_DTYPES[precision]).cpu() for depth in depths)
            yield (
                batch,
                [[of_depth[place, : rows.lengths[row]] for place, row in enumerate(batch)] for of_depth in packed],
            )


def _in_order(numbers: Sequence[int], batches: Iterable[tuple[Sequence[int], Sequence[Tensor]]]) -> list[Tensor]:
    found = {row: value for batch, values in batches for row, value in zip(batch, values, strict=True)}
    return [found[row] for row in numbers]


def batches_of_one_width(lengths: Sequence[int], numbers: Sequence[int], *, padded_to: int) -> Iterator[list[int]]:
    """Rows in batches of at most 4,096 padded tokens, each batch of rows that are padded to the same width.

    Args:
        padded_to: the number that padded lengths are multiples of.
    """
    by_width: dict[int, list[int]] = {}
    for row in dict.fromkeys(numbers):
        by_width.setdefault(-(-lengths[row] // padded_to) * padded_to, []).append(row)
    for width, rows in sorted(by_width.items()):
        size = max(1, _BATCH_TOKENS // width)
        for first in range(0, len(rows), size):
            yield rows[first : first + size]


def module_outputs(
    module: TaskModule,
    activations: RowTensors,
    rows: EncodedRows,
    *,
    precision: Precision,
    device: torch.device,
    below: TrunkFeatures | None = None,
) -> Iterator[tuple[list[int], list[Tensor]]]:
    """Raw outputs of a module over cached rows, batch by batch: row numbers, and [O] or [words(row), O] in fp32."""
    for numbers in token_batches(rows.lengths):
        batch = cached_batch(activations, rows.encoded, numbers, device, below)
        with torch.inference_mode(), computing_in(precision, device):
            outputs = module(batch.hidden, batch.mask, batch.word_tokens, batch.below)
        yield numbers, row_outputs(outputs.float().cpu(), [rows.encoded[row] for row in numbers])
