"""Releases that can be served: random modules with the golden answers that they truly give."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from modeling.backbone import load_text_encoder
from modeling.batching import row_outputs
from modeling.inference import Form
from modeling.multitask import load_merged_model
from registry.domain.golden_examples import GoldenExample, GoldenExamples
from registry.domain.manifests import Manifest
from registry.domain.task_specs import InputForm, TaskType
from serving.engine import Engine
from serving.questions import Text, TextAnswer
from serving.release_loading import load_served_release
from serving.served_release import ServedRelease
from tests.conftest import Branch, Pinned

CPU_FP32 = Form("fp32", torch.device("cpu"))
GOLDEN = ("hello new york", "the end of the world", "she visited york")


def golden_manifest(pinned: Pinned, manifest: Manifest) -> Manifest:
    """The manifest with golden examples in the store: what the merged model answers to a few texts."""
    model, encoder = load_merged_model(manifest, pinned.store), load_text_encoder(manifest.trunk, pinned.store)
    branches = {}
    for task, branch in manifest.tasks.items():
        pair = "hello" if branch.input_form is InputForm.PAIR else None
        examples = []
        for text in GOLDEN:
            encoded = encoder.encode([(text, pair)])
            with torch.no_grad():
                (outputs,) = row_outputs(model(encoder.collate(encoded), {task: None})[task], encoded)
            rows = outputs.reshape(-1, outputs.shape[-1]).tolist()
            examples.append(GoldenExample(text=text, text_pair=pair, outputs=tuple(map(tuple, rows))))
        blob = pinned.store.put(GoldenExamples(examples=tuple(examples)).to_bytes())
        branches[task] = branch.model_copy(update={"golden": blob})
    return manifest.model_copy(update={"tasks": branches})


@pytest.fixture
def branches(pinned: Pinned, make_branch: Callable[..., Branch]) -> dict[str, Branch]:
    """`intent` after layer 1, `city` after layer 2, `mood` after layer 3; `similarity` reads pairs, after layer 2."""
    similarity = make_branch(pinned, TaskType.REGRESSION, depth=2, seed=3)
    pair = similarity.manifest.model_copy(update={"input_form": InputForm.PAIR})
    return {
        "intent": make_branch(pinned, TaskType.CLASSIFICATION, depth=1, seed=1),
        "city": make_branch(pinned, TaskType.TOKEN_CLASSIFICATION, depth=2, seed=2),
        "similarity": Branch(similarity.module, pair),
        "mood": make_branch(pinned, TaskType.CLASSIFICATION, depth=3, seed=4, pooling="mean"),
    }


@pytest.fixture
def stored(pinned: Pinned, make_manifest: Callable[..., Manifest]) -> Callable[[dict[str, Branch]], str]:
    """Puts a release of these branches into the store; returns its manifest's digest."""

    def put(of: dict[str, Branch]) -> str:
        return pinned.store.put(golden_manifest(pinned, make_manifest(pinned, of)).to_bytes())

    return put


@pytest.fixture
def release(pinned: Pinned, stored: Callable[..., str], branches: dict[str, Branch]) -> ServedRelease:
    return load_served_release(stored(branches), pinned.store, name="r1", form=CPU_FP32)


class Listener:
    """Collects what an engine says of one request."""

    def __init__(self) -> None:
        self.answers: list[TextAnswer] = []
        self.groups: list[list[TextAnswer]] = []
        self.errors: list[Exception | None] = []
        self._ended = threading.Event()

    def on_answers(self, answers: Any) -> None:
        self.groups.append(list(answers))
        self.answers += answers

    def on_end(self, error: Exception | None) -> None:
        self.errors.append(error)
        self.ended_at = time.monotonic()
        self._ended.set()

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    def wait(self) -> "Listener":
        assert self._ended.wait(30), "the engine never ended the request"
        return self

    @property
    def by_text(self) -> dict[tuple[int, str], Any]:
        assert self.errors == [None], self.errors
        return {(one.number, one.task): one.answer for one in self.answers}


def ask(
    engine: Engine, *texts: str | Text, tasks: Any = None, timeout: float = 30.0, refuse_truncated: bool = False
) -> Listener:
    """Asks without waiting; the listener has what `ask` returned as `asked`."""
    listener = Listener()
    asked = [text if isinstance(text, Text) else Text(text) for text in texts]
    listener.asked = engine.ask(
        asked,
        tasks,
        timeout=timeout,
        on_answers=listener.on_answers,
        on_end=listener.on_end,
        refuse_truncated=refuse_truncated,
    )
    return listener
