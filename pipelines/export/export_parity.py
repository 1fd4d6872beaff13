"""Whether an export answers as its release: asked in a fresh process, the golden examples of every task."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from modeling.backbone import load_text_encoder
from modeling.golden_answers import read_golden_examples
from modeling.parity import TOLERANCE, ParityResult, compare
from modeling.text import EncodedText
from pipelines.assembly.parity_gate import PRECISION
from pipelines.export import answers_alone, single_file
from registry.artifacts.store import ArtifactStore
from registry.domain.golden_examples import GoldenExamples
from registry.domain.manifests import Manifest
from registry.domain.task_specs import TaskType
from registry.errors import GateFailed


def folder_parity(manifest: Manifest, folder: Path, *, store: ArtifactStore) -> dict[str, ParityResult]:
    """Asks a transformers folder, by transformers alone: Trunkline cannot be imported in that process.

    Returns:
        Task -> what was found.
    Raises:
        GateFailed: the folder cannot be loaded, its tokenizer reads a text otherwise, or a task answers differently.
    """
    golden = {task: read_golden_examples(task, branch, store) for task, branch in manifest.tasks.items()}
    encoder = load_text_encoder(manifest.trunk, store)
    encoded = {
        task: encoder.encode([(example.text, example.text_pair) for example in examples.examples])
        for task, examples in golden.items()
    }
    answers = _asked(folder, {task: _questions(manifest, task, golden[task], encoded[task]) for task in golden})
    problems = [
        f"{task}: its tokenizer reads {example.text[:60]!r} as other pieces"
        for task, examples in golden.items()
        for example, row, answer in zip(examples.examples, encoded[task], answers[task], strict=True)
        if list(row.input_ids) != answer["ids"]
    ]
    findings = {
        task: compare(
            [torch.tensor(example.outputs) for example in examples.examples],
            [torch.tensor(answer["outputs"]) for answer in answers[task]],
            type=manifest.tasks[task].type,
            tolerance=TOLERANCE[PRECISION],
        )
        for task, examples in golden.items()
    }
    _refuse(folder, findings, problems)
    return findings


def file_parity(manifest: Manifest, path: Path) -> dict[str, ParityResult]:
    """Asks a single file: a fresh process unpacks it elsewhere, and runs the parity gate on what it finds there.

    Returns:
        Task -> the worse of what was found of its golden examples, in batches of one task and of all.
    Raises:
        GateFailed: the file cannot be read, holds another release, or a task answers differently.
    """
    # -P: a folder of the user's must not stand in for a package of ours.
    said = json.loads(_run([sys.executable, "-P", "-m", single_file.__name__, str(path)], str(path)))
    if said["manifest"] != manifest.digest():
        raise GateFailed(f"{path} holds manifest {said['manifest']}, not {manifest.digest()}")
    ways = {task: [ParityResult(**one) for one in found.values()] for task, found in said["parity"].items()}
    findings = {
        task: max(of_task, key=lambda one: (not one.passed, one.largest_difference)) for task, of_task in ways.items()
    }
    _refuse(path, findings)
    return findings


def _refuse(path: Path, findings: Mapping[str, ParityResult], problems: Sequence[str] = ()) -> None:
    """Raises GateFailed where a task does not answer as its release, or there are other problems."""
    differing = [
        f"{task}: outputs differ by up to {found.largest_difference:.2g} (allowed {TOLERANCE[PRECISION]:.0e}), "
        f"{found.decisions_differ} of {found.examples} decisions differ"
        for task, found in findings.items()
        if not found.passed
    ]
    if problems or differing:
        raise GateFailed("\n".join([f"{path.name} does not answer as the release does:", *problems, *differing]))


def _questions(
    manifest: Manifest, task: str, golden: GoldenExamples, encoded: Sequence[EncodedText]
) -> list[dict[str, Any]]:
    of_words = manifest.tasks[task].type is TaskType.TOKEN_CLASSIFICATION
    return [
        {
            "text": example.text,
            "text_pair": example.text_pair,
            "pieces": list(row.word_tokens) if of_words else None,
        }
        for example, row in zip(golden.examples, encoded, strict=True)
    ]


def _asked(folder: Path, questions: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    with tempfile.TemporaryDirectory() as name:
        asked, answered = Path(name) / "questions.json", Path(name) / "answers.json"
        asked.write_text(json.dumps(questions))
        script = Path(str(answers_alone.__file__))
        command = [sys.executable, "-I", str(script), str(folder.resolve()), str(asked), str(answered)]
        _run(command, str(folder), HF_HOME=name, HF_HUB_OFFLINE="1")
        found: dict[str, list[dict[str, Any]]] = json.loads(answered.read_text())
        return found


def _run(command: Sequence[str], subject: str, **environment: str) -> str:
    done = subprocess.run(  # noqa: S603 - our own interpreter and script
        command, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise GateFailed(f"{subject} cannot be used by a fresh process: {last}")
    return done.stdout
