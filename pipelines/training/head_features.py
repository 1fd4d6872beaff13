"""What heads read, computed once per data set: what a teacher's head reads, for the hidden-state loss.

One vector a predicted place (a text, or a word that has a piece), packed as teacher outputs are.
"""

import torch

from modeling.batching import place_counts, places, token_batches
from modeling.task_module import TaskModule
from pipelines.training.activation_cache import TOKENISATION, ActivationCache, EncodedRows, computing_in
from pipelines.training.batches import cached_batch
from pipelines.training.packed_rows import FilledRows, RowTensors, load_or_pack
from pipelines.training.recipes import Precision


def teacher_features(
    cache: ActivationCache,
    teacher: TaskModule,
    rows: EncodedRows,
    *,
    depth: int,
    module_digest: str,
    token_level: bool,
    precision: Precision,
    stage: str,
) -> RowTensors:
    """What the head of a teacher that leaves after layer `depth` reads, [places(row), H] fp32 a row."""
    counts = place_counts(rows.encoded, token_level=token_level)

    def fill() -> FilledRows:
        activations = cache.frozen(rows, depth=depth, precision=precision, stage=stage)
        done = 0
        for numbers in token_batches(rows.lengths):
            batch = cached_batch(activations, rows.encoded, numbers, cache.device)
            with torch.inference_mode(), computing_in(precision, cache.device):
                features = teacher.features(batch.hidden, batch.mask, batch.word_tokens)
            of_places = places(features, batch.word_tokens).float().cpu()
            yield numbers, torch.split(of_places, [counts[row] for row in numbers])
            done += len(numbers)
            cache.report(f"{stage}: teacher's hidden states", done, len(rows))

    return load_or_pack(
        cache.folder / "teacher_features",
        {
            "module": module_digest,
            "prefix_digest": cache.prefix_digests[depth],
            "inputs": rows.digest,
            "tokenisation": TOKENISATION,
            "precision": precision,
        },
        lengths=counts,
        width=cache.trunk.config.hidden_size,
        dtype=torch.float32,
        fill=fill,
    )
