"""What a release costs on this machine: how many texts a second it bears, and what of that each task takes."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch

from modeling.golden_answers import golden_texts
from modeling.inference_layers import first_piece_layer
from modeling.products import use_threads
from modeling.text import EncodedText
from registry.artifacts.store import ArtifactStore
from registry.domain.manifests import Manifest
from registry.domain.task_specs import InputForm
from registry.progress import Report, silent
from serving.engine import Engine, EngineSettings
from serving.errors import EngineFailed
from serving.questions import Text
from serving.served_release import ServedRelease

_SECONDS = 4.0
_ROUNDS = 5
_FURTHER_TASK_LAYERS = (1, 2, 3)
_IN_FLIGHT = 64
_LOOKS_EVERY_SECONDS = 5.0

_Found = TypeVar("_Found")


@dataclass(frozen=True)
class TaskCost:
    """What one task takes of a text's time."""

    task: str
    layers: int
    share: float
    """Of the whole pass, from 0 to 1."""
    texts_per_second_without: float | None
    """What the machine would bear if the task were not in the release, or not asked for; None of a form's only task."""


@dataclass(frozen=True)
class FormEstimate:
    """For texts of one input form, all tasks of it asked, one text a request."""

    form: InputForm
    texts: int
    """Golden texts of the release's tasks that were asked, over and over."""
    pieces: float
    """Their mean length."""
    texts_per_second: float
    """Through the engine at saturation; HTTP and JSON come on top of it."""
    trunk_share: float
    tasks: Sequence[TaskCost]
    with_one_more: Mapping[int, float]
    """Task layers of one more task -> texts a second, as long as it leaves the trunk at a depth that is computed anyway
    and reads the first piece, as the cheapest heads do."""


def estimate(
    release: ServedRelease, store: ArtifactStore, settings: EngineSettings, report: Report = silent
) -> list[FormEstimate]:
    """Measures a release on its own golden texts, as no other traffic is known yet: a form after the other.

    Takes some ten seconds a form. Whatever else runs on the machine meanwhile is in the figures.
    """
    forms = [form for form in InputForm if any(one.input_form is form for one in release.manifest.tasks.values())]
    found = []
    for number, form in enumerate(forms, 1):
        texts = _golden(release.manifest, store, form)
        found.append(_of_form(release, form, texts, settings))
        report("measuring", number, len(forms))
    return found


def _golden(manifest: Manifest, store: ArtifactStore, form: InputForm) -> list[Text]:
    """A text of each task in turn."""
    of_tasks = [
        golden_texts(task, branch, store) for task, branch in manifest.tasks.items() if branch.input_form is form
    ]
    return [Text(*one) for turn in itertools.zip_longest(*of_tasks) for one in turn if one is not None]


def _of_form(release: ServedRelease, form: InputForm, texts: Sequence[Text], settings: EngineSettings) -> FormEstimate:
    tasks = [task for task, branch in release.manifest.tasks.items() if branch.input_form is form]
    encoded = release.encoder.encode([(text.text, text.text_pair) for text in texts])
    trunk, branches = _in_a_lane(settings, partial(_seconds, release, tasks, encoded, settings))
    whole = trunk + sum(branches.values())
    rate = _saturated(release, texts, settings)
    layer = sum(branches.values()) / sum(release.branch_costs[task] for task in tasks)
    deepest = max(release.manifest.tasks[task].frozen_depth for task in tasks)
    last = first_piece_layer(release.model.form.dtype, release.model.form.device).share

    def rate_without(task: str) -> float | None:
        """The trunk ends earlier where only this task needed its deepest layers."""
        left = [release.manifest.tasks[other].frozen_depth for other in tasks if other != task]
        if not left:
            return None
        saved = branches[task] + (trunk * (deepest - max(left)) / deepest if deepest else 0.0)
        return rate * whole / (whole - saved)

    return FormEstimate(
        form=form,
        texts=len(texts),
        pieces=sum(len(row.input_ids) for row in encoded) / len(encoded),
        texts_per_second=rate,
        trunk_share=trunk / whole,
        tasks=[
            TaskCost(
                task=task,
                layers=release.manifest.tasks[task].task_layers,
                share=branches[task] / whole,
                texts_per_second_without=rate_without(task),
            )
            for task in tasks
        ],
        with_one_more={count: rate * whole / (whole + layer * (count - 1 + last)) for count in _FURTHER_TASK_LAYERS},
    )


def _in_a_lane(settings: EngineSettings, work: Callable[[], _Found]) -> _Found:
    """On as many threads as a lane has: they are counted for each thread that asks for them."""

    def as_a_lane() -> _Found:
        use_threads(settings.threads)
        return work()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(as_a_lane).result()


def _seconds(
    release: ServedRelease, tasks: Sequence[str], encoded: Sequence[EncodedText], settings: EngineSettings
) -> tuple[float, dict[str, float]]:
    """Seconds of the trunk, and of each branch, for one batch; the least of several rounds, in turn."""
    batch: list[EncodedText] = []
    for row in itertools.cycle(encoded):
        if batch and sum(len(one.input_ids) for one in batch) + len(row.input_ids) > settings.batch_pieces:
            break
        batch.append(row)
    by_depth = sorted(tasks, key=lambda task: release.manifest.tasks[task].frozen_depth)
    rows = dict.fromkeys(by_depth, range(len(batch)))
    trunks: list[float] = []
    branches: dict[str, list[float]] = {task: [] for task in by_depth}
    for _ in range(_ROUNDS):
        one_pass, trunk = release.model.one_pass(batch, rows), 0.0
        for task in by_depth:
            begun = time.perf_counter()
            one_pass.reach(task)
            _finish(release)
            reached = time.perf_counter()
            one_pass.outputs(task)
            trunk += reached - begun
            branches[task].append(time.perf_counter() - reached)
        trunks.append(trunk)
    return min(trunks), {task: min(seconds) for task, seconds in branches.items()}


def _finish(release: ServedRelease) -> None:
    """A GPU returns before it is done."""
    if release.model.form.device.type == "cuda":
        torch.cuda.synchronize(release.model.form.device)


def _saturated(release: ServedRelease, texts: Sequence[Text], settings: EngineSettings) -> float:
    """Texts a second through an engine in which always some wait, one text a request, with nothing cached."""
    waiting = max(settings.waiting_texts, _IN_FLIGHT)
    engine = Engine(release, replace(settings, cache_bytes=0, waiting_texts=waiting))
    places, answered = threading.Semaphore(_IN_FLIGHT), itertools.count()
    failed: list[Exception] = []
    turns: Iterator[Text] = itertools.cycle(texts)

    def on_end(error: Exception | None) -> None:
        next(answered)
        if error is not None:
            failed.append(error)
        places.release()

    begun = time.perf_counter()
    try:
        while time.perf_counter() - begun < _SECONDS and not failed:
            while engine.working and not places.acquire(timeout=_LOOKS_EVERY_SECONDS):
                pass
            if not engine.working:
                raise EngineFailed("a lane of the engine has ended, by an error that the log has")
            engine.ask([next(turns)], None, timeout=60.0, on_answers=lambda _: None, on_end=on_end)
    finally:
        engine.close(timeout=60.0)
    if failed:
        raise failed[0]
    return next(answered) / (time.perf_counter() - begun)
