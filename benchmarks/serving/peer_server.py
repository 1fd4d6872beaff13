"""Hosts a peer over HTTP as a careful practitioner would: FastAPI on uvloop, workers with dynamic batches.

Two ways in one process, so that neither has to share the cores with another process of its own kind:

    POST /predict         {"text": …}   one request, answered by all models: {"answers": {task: …}}
    POST /predict/TASK    {"text": …}   one request a task

    .venv/bin/python benchmarks/serving/peer_server.py --peer onnx-fp32 --home FOLDER --port 8100

A text is tokenised once a request, while the workers compute. Whatever waits when a worker is free becomes its next
batch, up to a window of pieces: sorted by length, cut into batches of at most `--batch` padded pieces, each padded to
its own longest row, and answered as soon as it is computed. `GET /ready` answers once all models have been warmed up.
"""

import argparse
import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import beside  # noqa: F401
import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, HTTPException, Response
from peers import PEERS, TASKS, Peer, PeerTokenizer, Values, Way, load_peer
from pydantic import BaseModel
from pydantic_core import to_json
from setting import Setting, add_options, opened, task_labels

from modeling.batching import token_batches
from serving.http.server import KEEP_ALIVE_SECONDS


@dataclass(frozen=True, slots=True)
class _Asked:
    row: Sequence[int]
    tasks: tuple[int, ...]
    done: Callable[[list[Values]], None]
    """Called with one task's raw outputs [outputs] after the other, from the worker."""
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """Threads that compute what waits. Requests for the same tasks are batched together; whose oldest one has waited
    longest is served first.

    Args:
        window: pieces that are taken out of the queue at once.
    """

    def __init__(self, peer: Peer, way: Way, *, window: int) -> None:
        self._peer, self._way, self._window = peer, way, window
        self._waiting: dict[tuple[int, ...], deque[_Asked]] = {}
        self._something = threading.Condition()
        for _ in range(way.lanes):
            threading.Thread(target=self._work, daemon=True).start()

    def ask(self, asked: _Asked) -> None:
        with self._something:
            self._waiting.setdefault(asked.tasks, deque()).append(asked)
            self._something.notify()

    def _work(self) -> None:
        torch.set_num_threads(self._way.threads)
        while True:
            taken = self._taken()
            for batch in token_batches([len(asked.row) for asked in taken], tokens=self._way.budget):
                self._answer([taken[place] for place in batch])

    def _taken(self) -> list[_Asked]:
        with self._something:
            while not (lines := [line for line in self._waiting.values() if line]):
                self._something.wait()
            line = min(lines, key=lambda line: line[0].since)
            taken, pieces = [line.popleft()], 0
            while line and (pieces := pieces + len(taken[-1].row)) < self._window:
                taken.append(line.popleft())
            return taken

    def _answer(self, batch: Sequence[_Asked]) -> None:
        rows = [asked.row for asked in batch]
        outputs = [self._peer.answer(task, rows) for task in batch[0].tasks]
        for place, asked in enumerate(batch):
            asked.done([of_task[place] for of_task in outputs])


class Question(BaseModel):
    text: str


def label_answer(labels: Sequence[str], outputs: Values) -> dict[str, Any]:
    exponentials = np.exp(outputs - outputs.max())
    probabilities = (exponentials / exponentials.sum()).tolist()
    best = int(outputs.argmax())
    return {
        "label": labels[best],
        "probability": probabilities[best],
        "probabilities": dict(zip(labels, probabilities, strict=True)),
    }


def application(batcher: Batcher, tokenizer: PeerTokenizer, tasks: int) -> FastAPI:
    app = FastAPI()
    names = {f"task-{task:02}": task for task in range(tasks)}
    labels = [task_labels(task) for task in range(tasks)]
    everything = tuple(range(tasks))

    async def outputs(text: str, asked: tuple[int, ...]) -> list[Values]:
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[list[Values]] = loop.create_future()

        def done(found: list[Values]) -> None:
            loop.call_soon_threadsafe(lambda: answered.done() or answered.set_result(found))

        (row,) = tokenizer.rows([text])
        batcher.ask(_Asked(row, asked, done))
        return await answered

    @app.post("/predict")
    async def predict(question: Question) -> Response:
        found = await outputs(question.text, everything)
        answers = {name: label_answer(labels[task], found[task]) for name, task in names.items()}
        return Response(to_json({"answers": answers}), media_type="application/json")

    @app.post("/predict/{name}")
    async def predict_one(name: str, question: Question) -> Response:
        if (task := names.get(name)) is None:
            raise HTTPException(404, f"there is no task {name}")
        (found,) = await outputs(question.text, (task,))
        return Response(to_json(label_answer(labels[task], found)), media_type="application/json")

    @app.get("/ready")
    async def ready() -> dict[str, bool]:
        return {"ready": True}

    return app


def warm_up(peer: Peer, max_length: int) -> None:
    for width in (8, 32, max_length):
        for rows in (1, 2, 16):
            for task in range(peer.tasks):
                peer.answer(task, [[5] * width] * (rows - 1) + [[5] * (width - 2)])


def serve(setting: Setting, name: str, way: Way, *, tasks: int, window: int, port: int, copies: int) -> None:
    peer = load_peer(name, setting, threads=way.threads, tasks=tasks, copies=copies)
    warm_up(peer, setting.backbone.max_length)
    tokenizer = PeerTokenizer(setting.folder, setting.backbone.max_length)
    app = application(Batcher(peer, way, window=window), tokenizer, tasks)
    kept = {"timeout_keep_alive": KEEP_ALIVE_SECONDS, "log_level": "warning"}
    uvicorn.run(app, host="127.0.0.1", port=port, loop="uvloop", http="httptools", **kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--peer", choices=list(PEERS), required=True)
    parser.add_argument("--tasks", type=int, default=TASKS)
    parser.add_argument("--copies", type=int, default=TASKS, help="sets of encoder weights")
    parser.add_argument("--lanes", type=int, default=1, help="batches computed at once")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each batch")
    parser.add_argument("--batch", type=int, default=1024, help="most padded pieces of a batch")
    parser.add_argument("--window", type=int, default=4096, help="pieces taken out of the queue at once")
    parser.add_argument("--port", type=int, default=8100)
    arguments = parser.parse_args()
    serve(
        opened(arguments),
        arguments.peer,
        Way(arguments.lanes, arguments.threads, arguments.batch),
        tasks=arguments.tasks,
        window=arguments.window,
        port=arguments.port,
        copies=arguments.copies,
    )


if __name__ == "__main__":
    main()
