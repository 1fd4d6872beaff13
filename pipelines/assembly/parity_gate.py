"""The parity gate: a merged model must answer every module's golden examples as the module did alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modeling.backbone import load_text_encoder
from modeling.batching import row_outputs
from modeling.golden_answers import read_golden_examples
from modeling.multitask import MergedModel
from modeling.parity import TOLERANCE, ParityResult, compare
from modeling.text import EncodedText, TextEncoder
from registry.artifacts.store import ArtifactStore
from registry.domain.gate_findings import Gate, GateFinding
from registry.domain.golden_examples import GoldenExamples
from registry.domain.manifests import Manifest
from registry.domain.task_specs import InputForm
from registry.progress import Report

PRECISION = "fp32"
_MIXED_BATCH = 16


@dataclass(frozen=True)
class _Question:
    """One golden example of one task, ready to run."""

    task: str
    number: int
    encoded: EncodedText


def parity_findings(
    manifest: Manifest, model: MergedModel, *, store: ArtifactStore, report: Report
) -> list[GateFinding]:
    """One finding a task, of its golden answers in both ways of batching.

    Raises:
        ArtifactMissing, ArtifactDamaged: golden examples cannot be read.
    """
    measured = measured_parity(manifest, model, store=store, report=report)
    return [_finding(task, ways) for task, ways in measured.items()]


def _finding(task: str, ways: Mapping[str, ParityResult]) -> GateFinding:
    tolerance, examples = TOLERANCE[PRECISION], next(iter(ways.values())).examples
    largest = max(found.largest_difference for found in ways.values())
    differing = max(found.decisions_differ for found in ways.values())
    words = f"{examples} golden answers alone and mixed, largest difference {largest:.1e}"
    if bad := [(batching, found) for batching, found in ways.items() if not found.passed]:
        words = "; ".join(
            f"{batching}: outputs differ by up to {found.largest_difference:.2g} (allowed {tolerance:.0e}), "
            f"{found.decisions_differ} of {found.examples} decisions differ"
            for batching, found in bad
        )
    values = {
        "examples": examples,
        "largest_difference": largest,
        "decisions_differ": differing,
        "tolerance": tolerance,
        "precision": PRECISION,
    }
    return GateFinding(gate=Gate.PARITY, task=task, passed=not bad, words=words, values=values)


def measured_parity(
    manifest: Manifest, model: MergedModel, *, store: ArtifactStore, report: Report
) -> dict[str, dict[str, ParityResult]]:
    """Compares the merged model with every golden example, in batches of one task and in batches of all tasks.

    In a mixed batch the examples of all tasks of one input form take turns, and every row asks for its own task only.

    Returns:
        Task -> `one task` and `mixed` -> what was found.
    """
    golden = {task: read_golden_examples(task, branch, store) for task, branch in manifest.tasks.items()}
    encoder = load_text_encoder(manifest.trunk, store)
    questions = _questions(encoder, golden)
    one_task = [[question for question in questions if question.task == task] for task in manifest.tasks]
    findings: dict[str, dict[str, ParityResult]] = {task: {} for task in manifest.tasks}
    for batching, batches in (("one task", one_task), ("mixed", _mixed(manifest, questions))):
        answers: dict[str, dict[int, Tensor]] = {task: {} for task in manifest.tasks}
        for number, batch in enumerate(batches, 1):
            for question, outputs in _ask(model, batch, encoder):
                answers[question.task][question.number] = outputs
            report(f"parity, {batching}", number, len(batches))
        for task, branch in manifest.tasks.items():
            findings[task][batching] = compare(
                [torch.tensor(example.outputs) for example in golden[task].examples],
                [answers[task][number] for number in range(len(golden[task].examples))],
                type=branch.type,
                tolerance=TOLERANCE[PRECISION],
            )
    return findings


def _questions(encoder: TextEncoder, golden: Mapping[str, GoldenExamples]) -> list[_Question]:
    return [
        _Question(task, number, encoded)
        for task, examples in golden.items()
        for number, encoded in enumerate(
            encoder.encode([(example.text, example.text_pair) for example in examples.examples])
        )
    ]


def _mixed(manifest: Manifest, questions: Sequence[_Question]) -> list[list[_Question]]:
    batches = []
    for form in InputForm:
        of_form = [question for question in questions if manifest.tasks[question.task].input_form is form]
        taking_turns = sorted(of_form, key=lambda question: (question.number, question.task))
        batches += [taking_turns[i : i + _MIXED_BATCH] for i in range(0, len(taking_turns), _MIXED_BATCH)]
    return batches


def _ask(model: MergedModel, batch: Sequence[_Question], encoder: TextEncoder) -> Iterator[tuple[_Question, Tensor]]:
    """Every question's outputs, [1 or words, O], from one pass over the batch, each row answered by its own task."""
    tensors = encoder.collate([question.encoded for question in batch])
    rows: dict[str, list[int]] = {}
    for row, question in enumerate(batch):
        rows.setdefault(question.task, []).append(row)
    with torch.inference_mode():
        outputs = model(tensors, {task: torch.tensor(of_task) for task, of_task in rows.items()})
    for task, of_task in rows.items():
        answers = row_outputs(outputs[task], [batch[row].encoded for row in of_task])
        for row, answer in zip(of_task, answers, strict=True):
            yield batch[row], answer.reshape(-1, answer.shape[-1])
