"""The gate that proves that a change of some tasks leaves every other one alone: bit for bit, in the same batches."""

from collections.abc import Iterator, Sequence
from itertools import zip_longest

import torch

from modeling.backbone import load_text_encoder
from modeling.golden_answers import golden_texts
from modeling.multitask import MergedModel
from modeling.text import EncodedText
from pipelines.assembly.comparison_gates import unchanged_branches
from registry.artifacts.store import ArtifactStore
from registry.domain.gate_findings import Gate, GateFinding
from registry.domain.manifests import Manifest
from registry.domain.task_specs import InputForm
from registry.progress import Report

_BATCH = 16
_TEXTS, _FEWEST = 96, 4
"""Of an input form together, and of each task: what interferes shows in any text, and every one is answered by all
tasks of both releases."""


def non_interference_findings(
    live: Manifest, new: Manifest, models: tuple[MergedModel, MergedModel], *, store: ArtifactStore, report: Report
) -> list[GateFinding]:
    """Both releases answer the same batches, in this process, all their tasks of an input form at once.

    The batches are of golden texts of every unchanged task, evenly spread over their lengths, which take turns, so that
    each task also answers the texts of the others, at their lengths.

    Args:
        models: of the live release and of the new one, in fp32.
    """
    unchanged = unchanged_branches(live, new)
    encoder = load_text_encoder(new.trunk, store)
    differing: dict[str, float] = {}
    answered: dict[str, int] = dict.fromkeys(unchanged, 0)
    for form in InputForm:
        asked = [task for task in unchanged if new.tasks[task].input_form is form]
        texts = [_spread(golden_texts(task, new.tasks[task], store), texts_a_task(len(asked))) for task in asked]
        batches = list(_batches([encoder.encode(of_task) for of_task in texts]))
        for number, batch in enumerate(batches, 1):
            tensors = encoder.collate(batch)
            with torch.inference_mode():
                before, after = (
                    model(tensors, {task: None for task, branch in manifest.tasks.items() if branch.input_form is form})
                    for manifest, model in zip((live, new), models, strict=True)
                )
            for task in asked:
                answered[task] += len(batch)
                if not torch.equal(before[task], after[task]):
                    largest = (before[task] - after[task]).abs().max().item()
                    differing[task] = max(differing.get(task, 0.0), largest)
            report("non-interference", number, len(batches))
    return [
        GateFinding(
            gate=Gate.NON_INTERFERENCE,
            task=task,
            passed=task not in differing,
            words=f"answers differ by up to {differing[task]:.2g}"
            if task in differing
            else f"{answered[task]} answers in mixed batches are the same bit for bit",
            values={"texts": answered[task], "largest_difference": differing.get(task, 0.0)},
        )
        for task in unchanged
    ]


def texts_a_task(tasks: int) -> int:
    """How many golden texts of each of so many unchanged tasks are asked, where a task has as many."""
    return max(_FEWEST, _TEXTS // max(1, tasks))


def _spread(texts: Sequence[tuple[str, str | None]], most: int) -> Sequence[tuple[str, str | None]]:
    """So many of the texts, the shortest and the longest among them."""
    by_length = sorted(texts, key=lambda text: len(text[0]) + len(text[1] or ""))
    count = min(most, len(by_length))
    return [by_length[place * (len(by_length) - 1) // max(1, count - 1)] for place in range(count)]


def _batches(of_tasks: Sequence[Sequence[EncodedText]]) -> Iterator[list[EncodedText]]:
    """The tasks' texts in turn."""
    turns = [one for turn in zip_longest(*of_tasks) for one in turn if one is not None]
    for first in range(0, len(turns), _BATCH):
        yield turns[first : first + _BATCH]
