"""Ours in one process: the engine asked for texts as a server asks it, one request a text, all tasks of each.

No answer is kept: a benchmark asks the same texts again, and what is measured is computing them.
"""

import threading
import time
from collections.abc import Sequence

import beside  # noqa: F401
import torch
from peers import TRIES, Way
from setting import Setting

from modeling.inference import Form, Precision
from serving.engine import Engine, EngineSettings
from serving.questions import Text, TextAnswer
from serving.release_loading import load_served_release
from serving.served_release import ServedRelease


def load_served(setting: Setting, digest: str, precision: Precision) -> ServedRelease:
    form = Form(precision, torch.device("cpu"))
    return load_served_release(digest, setting.store, name="measured", form=form)


def answer_all(releases: Sequence[ServedRelease], texts: Sequence[str], way: Way) -> float:
    """Seconds until every release has answered every text for all its tasks, tokenising with it.

    Args:
        releases: one engine each, at the same time; one is the usual case.
        way: lanes and threads of each engine, and pieces of a batch.
    """
    settings = EngineSettings(
        lanes=way.lanes,
        threads=way.threads,
        batch_pieces=way.budget,
        waiting_texts=len(texts) + 1,
        cache_bytes=0,
    )
    engines = [Engine(release, settings) for release in releases]
    left = len(engines) * len(texts)
    lock, done = threading.Lock(), threading.Event()
    failed: list[Exception] = []

    def ended(error: Exception | None) -> None:
        nonlocal left
        with lock:
            left -= 1
            if error is not None:
                failed.append(error)
            if not left:
                done.set()

    def answered(answers: Sequence[TextAnswer]) -> None:
        """They are what is waited for, and nothing is done with them."""

    begin = time.perf_counter()
    for text in texts:
        for engine in engines:
            engine.ask([Text(text)], None, timeout=3600.0, on_answers=answered, on_end=ended)
    done.wait()
    seconds = time.perf_counter() - begin
    for engine in engines:
        engine.close(timeout=10.0)
    if failed:
        raise failed[0]
    return seconds


def best_way(release: ServedRelease, texts: Sequence[str], tried: Sequence[Way]) -> Way:
    """The fastest of these, after a warm-up: one try alone may have met whatever else a shared machine does."""
    answer_all([release], texts[:32], tried[0])
    return min(tried, key=lambda way: min(answer_all([release], texts, way) for _ in range(TRIES)))
