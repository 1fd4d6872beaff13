"""The same texts asked of one server by several generators of load, in turn.

    .venv/bin/python benchmarks/serving/generators.py --home FOLDER [--model FOLDER] [--data FOLDER] [--locust COMMAND]

*own* is the client that the other benchmarks use, *tritonclient* its asynchronous one, which asks by the Open Inference
Protocol with binary tensors. *wrk* is left out where it is not installed, *locust* where its command is not found. The
generators share the machine's cores with the server, and run one after the other from nothing.
"""

import argparse
import asyncio
import itertools
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

import aiohttp
import beside  # noqa: F401
import numpy as np
import tritonclient.http.aio as triton
from around_the_model import milliseconds
from hosting import free_port, hosted, our_command
from load import LONGEST, Load, Question, has_wrk, questions, saturated, wrk_saturated
from peers import Way
from printed_tables import say, show
from rich.table import Table
from setting import MIXED, add_layout_options, add_options, opened
from texts import add_options as add_text_options
from texts import chosen
from tritonclient.utils import InferenceServerException

_LOCUST_FILE = Path(__file__).with_name("locustfile.py")


class Found(NamedTuple):
    """What a generator saw."""

    rate: float
    """Requests a second that were answered."""
    errors: int
    percentiles: tuple[float, ...]
    """P50, P95, P99 in seconds."""


def by_own(server: str, asked: Sequence[Question], open_requests: int, seconds: float) -> Found:
    return _found(saturated(server, asked, connections=open_requests, seconds=seconds))


def by_wrk(server: str, asked: Sequence[Question], open_requests: int, seconds: float) -> Found:
    load = wrk_saturated(server, asked, connections=open_requests, seconds=seconds)
    return Found(load.rate, load.errors, load.percentiles)


def by_tritonclient(server: str, texts: Sequence[str], open_requests: int, seconds: float) -> Found:
    return asyncio.run(_by_tritonclient(server, texts, open_requests, seconds))


async def _by_tritonclient(server: str, texts: Sequence[str], open_requests: int, seconds: float) -> Found:
    client = triton.InferenceServerClient(
        server.removeprefix("http://"), conn_limit=open_requests, conn_timeout=LONGEST
    )
    waiting, times, errors = itertools.cycle(map(_input, texts)), list[float](), 0
    begin = time.perf_counter()

    async def one_user() -> None:
        nonlocal errors
        while (sent := time.perf_counter()) - begin < seconds:
            try:
                await client.infer("trunkline", [next(waiting)])
                times.append(time.perf_counter() - sent)
            except (InferenceServerException, aiohttp.ClientError, TimeoutError):
                errors += 1

    await asyncio.gather(*(one_user() for _ in range(open_requests)))
    spent = time.perf_counter() - begin
    await client.close()
    return _found(Load(spent, len(times), errors, first=(), last=tuple(times)))


def _input(text: str) -> triton.InferInput:
    tensor = triton.InferInput("text", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([text.encode()], dtype=np.object_))
    return tensor


def by_locust(command: str, server: str, texts: Sequence[str], open_requests: int, seconds: float) -> Found:
    """Raises RuntimeError with what locust said where it ran nothing."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "texts.json"
        file.write_text(json.dumps(list(texts)))
        users = ["-u", str(open_requests), "-r", str(open_requests), "-t", f"{seconds:.0f}s"]
        done = subprocess.run(  # noqa: S603
            [command, "-f", str(_LOCUST_FILE), "--headless", "--json", *users, "--host", server],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"TEXTS": str(file)},
        )
    try:
        (told,) = json.loads(done.stdout)
    except ValueError:
        raise RuntimeError(f"locust ended with {done.returncode}:\n{done.stdout}{done.stderr[-2000:]}") from None
    times = [int(one) / 1e3 for one, count in told["response_times"].items() for _ in range(count)]  # rounded by locust
    spent, errors = told["last_request_timestamp"] - told["start_time"], told["num_failures"]
    return _found(Load(spent, told["num_requests"] - errors, errors, first=(), last=tuple(times)))


def _found(load: Load) -> Found:
    return Found(load.rate, load.errors, load.percentiles())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    add_layout_options(parser, len(MIXED))
    add_text_options(parser)
    parser.set_defaults(texts=192, lengths="mixed")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--way", default="2,1,256", help="lanes, threads of each, pieces of a batch")
    parser.add_argument("--open", type=int, default=32, help="requests at any time")
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--locust", default="locust", help="its command, which may be of another environment")
    parser.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()
    setting = opened(arguments)
    (texts,) = chosen(arguments, setting.text_encoder)
    asked, how = questions(texts.texts), {"open_requests": arguments.open, "seconds": arguments.seconds}
    generators: dict[str, Callable[[str], Found]] = {
        "own": partial(by_own, asked=asked, **how),
        "tritonclient": partial(by_tritonclient, texts=texts.texts, **how),
    }
    if has_wrk():
        generators["wrk"] = partial(by_wrk, asked=asked, **how)
    if locust := shutil.which(arguments.locust):
        generators["locust"] = partial(by_locust, locust, texts=texts.texts, **how)

    port, way = free_port(), Way(*map(int, arguments.way.split(",")))
    digest = setting.release(setting.layout(arguments.layout, arguments.tasks))
    found: dict[str, list[Found]] = {name: [] for name in generators}
    with hosted(our_command(setting, digest, arguments.precision, way, port=port), port) as server:
        for number in range(arguments.rounds):
            for name, generate in generators.items():
                found[name].append(generate(server))
            say(f"round {number + 1} of {arguments.rounds}")
    title = (
        f"{setting.title}, {arguments.precision}, {arguments.open} open; {texts.title}; {datetime.now(UTC):%Y-%m-%d}"
    )
    table = Table("generator", "requests/s", "range", "P50 / P95 / P99 ms, last round", "errors", title=title)
    for name, rounds in found.items():
        rates, times = [one.rate for one in rounds], rounds[-1].percentiles
        table.add_row(
            name,
            f"{statistics.median(rates):.1f}",
            f"{min(rates):.1f}-{max(rates):.1f}",
            milliseconds(times),
            str(sum(one.errors for one in rounds)),
        )
    show(table, markdown=arguments.markdown)


if __name__ == "__main__":
    main()
