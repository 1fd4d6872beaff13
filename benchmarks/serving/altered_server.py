"""Our server with one thing changed: it computes nothing, or it swaps its release every few seconds.

    .venv/bin/python benchmarks/serving/altered_server.py DIGEST --home FOLDER --port N --nothing
    .venv/bin/python benchmarks/serving/altered_server.py DIGEST --home FOLDER --port N --swap-with DIGEST --every 10

*Nothing*: every branch gives zeros at once. What is left is HTTP, JSON, tokenising, the queue, decoding.
*Swap*: another release is loaded as a followed channel would load it, beside the one that answers, sharing what both
have, proved by its golden answers; then back again.
"""

import argparse
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import beside  # noqa: F401
import torch
from torch import Tensor

from modeling.inference import Form, InferenceModel
from modeling.products import use_threads
from modeling.text import EncodedText
from registry.artifacts.local_store import LocalArtifactStore
from serving.engine import Engine, EngineSettings
from serving.http.application import build_application
from serving.http.lifecycle import Lifecycle
from serving.http.limits import Limits
from serving.http.server import DrainingServer, bound_socket
from serving.http.service import Service
from serving.metrics import ServerMetrics
from serving.release_loading import load_served_release


class NoPass:
    """A pass that gives zeros, as many as were asked for."""

    padding = 0

    def __init__(
        self, model: InferenceModel, encoded: Sequence[EncodedText], rows: Mapping[str, Sequence[int]]
    ) -> None:
        self.pieces = sum(len(row.input_ids) for row in encoded)
        self._model, self._rows = model, rows

    @classmethod
    def replace(cls, model: InferenceModel) -> None:
        model.one_pass = lambda encoded, rows: cls(model, encoded, rows)  # type: ignore[method-assign]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for task, rows in self._rows.items():
            yield task, torch.zeros(len(rows), self._model.branches[task].head.linear.out_features)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("digest")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--lanes", type=int, default=2)
    parser.add_argument("--nothing", action="store_true")
    parser.add_argument("--swap-with", help="digest of the other release's manifest")
    parser.add_argument("--every", type=float, default=10.0, help="seconds")
    arguments = parser.parse_args()
    store, form = LocalArtifactStore(arguments.home / "artifacts"), Form(arguments.precision, torch.device("cpu"))
    release = load_served_release(arguments.digest, store, name="r0", form=form)
    if arguments.nothing:
        NoPass.replace(release.model)
    metrics, lifecycle = ServerMetrics(), Lifecycle()
    engine = Engine(release, EngineSettings(lanes=arguments.lanes, cache_bytes=0), metrics)
    metrics.watch(engine)

    def swap() -> None:
        use_threads(engine.settings.threads)  # as `ChannelFollower` does
        number = 0
        while True:
            time.sleep(arguments.every)
            number += 1
            digest = (arguments.swap_with, arguments.digest)[(number + 1) % 2]
            new = load_served_release(digest, store, name=f"r{number}", form=form, previous=engine.release)
            engine.swap(new)
            metrics.swap(done=True)

    if arguments.swap_with:
        threading.Thread(target=swap, daemon=True).start()
    service = Service(engine=engine, metrics=metrics, lifecycle=lifecycle, limits=Limits(seconds=120.0))
    server = DrainingServer(build_application(service), lifecycle, drain_seconds=5.0)
    server.run(sockets=[bound_socket("127.0.0.1", arguments.port)])
    engine.close(timeout=10.0)


if __name__ == "__main__":
    main()
