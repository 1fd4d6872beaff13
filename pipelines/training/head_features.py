"""What heads read, computed once a text: what a teacher's head reads, for the hidden-state loss.

One vector a predicted place (a text, or a word that has a piece), kept as teacher outputs are.
"""

from modeling.task_module import TaskModule
from pipelines.training.activation_cache import ActivationCache, EncodedRows
from pipelines.training.packed_rows import RowTensors
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
    return cache.of_teacher(
        teacher,
        lambda batch: teacher.features(batch.hidden, batch.mask, batch.word_tokens, batch.below),
        rows,
        kind="teacher_features",
        depth=depth,
        module_digest=module_digest,
        width=cache.trunk.config.hidden_size,
        token_level=token_level,
        precision=precision,
        stage=f"{stage}: teacher's hidden states",
    )
