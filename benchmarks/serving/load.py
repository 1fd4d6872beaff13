"""Load on a server, and what it answered.

A *question* is what a user wants to know of one text: one request for all tasks, or one a task, sent at the same time.
It has its first answer when the first bytes of an answer have come, and its last when all are there.

* `saturated` holds so many questions open and sends the next one when one is answered: the highest throughput.
* `all_answered` does so until a list of questions is answered to the last. A rate over a stretch of time favours who
  computes short texts first and is cut off before the long ones; here every side has answered the same.
* `poisson` sends questions at drawn times whether or not the last one was answered, and counts a question's time from
  the moment it was meant to be sent, so that a server that stops does not slow down those who measure it.
* `wrk_saturated` is the first by `wrk`, which takes less of the cores that the server runs on.

    .venv/bin/python benchmarks/serving/load.py http://127.0.0.1:8100/predict --rate 20
"""

import argparse
import asyncio
import json
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import aiohttp
import beside  # noqa: F401
import numpy as np
from merged_vs_separate import real_texts


class Request(NamedTuple):
    path: str
    body: bytes
    """JSON."""


Question = Sequence[Request]

LONGEST = 900.0
"""Seconds after which a request counts as failed."""


@dataclass(frozen=True)
class Load:
    """One run. Times in seconds, of questions that were answered whole, without the warm-up."""

    seconds: float
    answered: int
    errors: int
    """Questions with an answer that was not 200, or that did not come."""
    first: tuple[float, ...]
    """Until the first answer; empty where a tool does not tell."""
    last: tuple[float, ...]

    @property
    def rate(self) -> float:
        """Questions a second."""
        return self.answered / self.seconds

    def percentiles(self, *, first: bool = False) -> tuple[float, float, float]:
        """P50, P95 and P99, in seconds; of no answers NaN."""
        times = self.first if first else self.last
        if not times:
            return (float("nan"),) * 3
        found: tuple[float, float, float] = tuple(np.percentile(times, [50, 95, 99]).tolist())
        return found

    def plain(self) -> dict[str, float | int | list[float]]:
        """For a file."""
        return {
            "seconds": self.seconds,
            "answered": self.answered,
            "errors": self.errors,
            "rate": self.rate,
            "first": list(self.percentiles(first=True)),
            "last": list(self.percentiles()),
        }


def questions(texts: Sequence[str], tasks: Sequence[str] | None = None, *, path: str = "/predict") -> list[Question]:
    """One question a text: with one request, or with one a task."""
    bodies = [json.dumps({"text": text}).encode() for text in texts]
    if tasks is None:
        return [[Request(path, body)] for body in bodies]
    return [[Request(f"{path}/{task}", body) for task in tasks] for body in bodies]


class _Times(NamedTuple):
    first: float
    last: float
    failed: bool


async def _ask(session: aiohttp.ClientSession, question: Question) -> _Times:
    """Clock times of the first and the last answer."""
    answers = await asyncio.gather(*(_send(session, request) for request in question))
    return _Times(
        min(answer.first for answer in answers),
        max(answer.last for answer in answers),
        any(answer.failed for answer in answers),
    )


async def _send(session: aiohttp.ClientSession, request: Request) -> _Times:
    first = None
    try:
        async with session.post(
            request.path, data=request.body, headers={"content-type": "application/json"}
        ) as response:
            async for _ in response.content.iter_any():
                first = first or time.perf_counter()
            failed = response.status != 200
    except (aiohttp.ClientError, TimeoutError):
        failed = True
    now = time.perf_counter()
    return _Times(first or now, now, failed)


def _session(server: str, connections: int) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        server,
        connector=aiohttp.TCPConnector(limit=connections),
        timeout=aiohttp.ClientTimeout(total=LONGEST),
    )


async def _saturated(server: str, asked: Sequence[Question], connections: int, seconds: float, warm_up: float) -> Load:
    begin = time.perf_counter() + warm_up
    end = begin + seconds
    number = 0
    found: list[tuple[float, _Times]] = []

    async with _session(server, 0) as session:

        async def one_user() -> None:
            nonlocal number
            while (sent := time.perf_counter()) < end:
                number += 1
                found.append((sent, await _ask(session, asked[number % len(asked)])))

        await asyncio.gather(*(one_user() for _ in range(connections)))
    return _load(found, begin, end)


def _load(found: Sequence[tuple[float, _Times]], begin: float, end: float) -> Load:
    """Of what was answered between two times; failures whenever they came."""
    within = [(sent, times) for sent, times in found if begin <= times.last < end and not times.failed]
    return Load(
        seconds=end - begin,
        answered=len(within),
        errors=sum(times.failed for _, times in found),
        first=tuple(times.first - sent for sent, times in within),
        last=tuple(times.last - sent for sent, times in within),
    )


def saturated(
    server: str, asked: Sequence[Question], *, connections: int, seconds: float, warm_up: float = 2.0
) -> Load:
    """Args:
    server: "http://127.0.0.1:8100".
    connections: questions that are open at any time.
    """
    return asyncio.run(_saturated(server, asked, connections, seconds, warm_up))


async def _all_answered(server: str, asked: Sequence[Question], connections: int) -> Load:
    begin = time.perf_counter()
    left = iter(asked)
    found: list[tuple[float, _Times]] = []

    async with _session(server, 0) as session:

        async def one_user() -> None:
            for question in left:
                sent = time.perf_counter()
                found.append((sent, await _ask(session, question)))

        await asyncio.gather(*(one_user() for _ in range(connections)))
    return _load(found, begin, time.perf_counter())


def all_answered(server: str, asked: Sequence[Question], *, connections: int) -> Load:
    """Every question once, so many open at any time until none is left."""
    return asyncio.run(_all_answered(server, asked, connections))


async def _poisson(
    server: str, asked: Sequence[Question], rate: float, seconds: float, warm_up: float, seed: int
) -> Load:
    drawn = random.Random(seed)  # noqa: S311
    begin = time.perf_counter() + warm_up
    end = begin + seconds
    meant = begin - warm_up
    found: list[tuple[float, _Times]] = []
    async with _session(server, 0) as session, asyncio.TaskGroup() as group:

        async def one(question: Question, at: float) -> None:
            found.append((at, await _ask(session, question)))

        while True:
            meant += drawn.expovariate(rate)
            if meant >= end:
                break
            await asyncio.sleep(max(0.0, meant - time.perf_counter()))
            group.create_task(one(drawn.choice(asked), meant))
    counted = [(at, times) for at, times in found if at >= begin]
    answered = [(at, times) for at, times in counted if not times.failed]
    return Load(
        seconds=end - begin,
        answered=len(answered),
        errors=len(counted) - len(answered),
        first=tuple(times.first - at for at, times in answered),
        last=tuple(times.last - at for at, times in answered),
    )


def poisson(
    server: str, asked: Sequence[Question], *, rate: float, seconds: float, warm_up: float = 2.0, seed: int = 0
) -> Load:
    """Args:
    rate: questions a second in the mean. Which question, and when, follows the seed.
    """
    return asyncio.run(_poisson(server, asked, rate, seconds, warm_up, seed))


_SCRIPT = """
local requests, number = {}, 0
init = function()
  for line in io.lines("%s") do
    local path, body = line:match("^(%%S+) (.*)$")
    requests[#requests + 1] = wrk.format("POST", path, {["content-type"] = "application/json"}, body)
  end
end
request = function()
  number = number + 1
  return requests[number %% #requests + 1]
end
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format('WRK {"seconds": %%f, "requests": %%d, "errors": %%d, "p": [%%f, %%f, %%f]}\\n',
    summary.duration / 1e6, summary.requests, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50) / 1e6, latency:percentile(95) / 1e6, latency:percentile(99) / 1e6))
end
"""


@dataclass(frozen=True)
class WrkLoad:
    """Times in seconds, of requests."""

    seconds: float
    requests: int
    errors: int
    percentiles: tuple[float, float, float]
    """P50, P95, P99."""

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


def has_wrk() -> bool:
    return shutil.which("wrk") is not None


def wrk_saturated(server: str, asked: Sequence[Question], *, connections: int, seconds: float) -> WrkLoad:
    """All requests in their order, by `wrk` with one thread.

    Raises:
        RuntimeError: wrk failed; its output.
    """
    with tempfile.TemporaryDirectory() as scratch:
        lines = Path(scratch) / "requests"
        lines.write_bytes(b"".join(b"%s %s\n" % (path.encode(), body) for many in asked for path, body in many))
        script = Path(scratch) / "load.lua"
        script.write_text(_SCRIPT % lines)
        how = ["-t1", f"-c{connections}", f"-d{seconds:.0f}s", f"--timeout={LONGEST:.0f}s", "-s", str(script)]
        done = subprocess.run(  # noqa: S603
            ["wrk", *how, server],  # noqa: S607
            capture_output=True,
            text=True,
            check=False,
        )
    told = [line.removeprefix("WRK ") for line in done.stdout.splitlines() if line.startswith("WRK ")]
    if done.returncode or not told:
        raise RuntimeError(f"wrk ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    found = json.loads(told[0])
    return WrkLoad(found["seconds"], found["requests"], found["errors"], tuple(found["p"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="where a text is asked about, such as http://127.0.0.1:8100/predict")
    parser.add_argument("--rate", type=float, help="texts a second, at random times (default: saturation)")
    parser.add_argument("--connections", type=int, default=64, help="open at any time, at saturation")
    parser.add_argument("--tasks", default=None, help="one request a task, of these names")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--wrk", action="store_true", help="saturation by wrk")
    arguments = parser.parse_args()
    parts = arguments.url.split("/", 3)
    server, path = "/".join(parts[:3]), f"/{parts[3]}"
    asked = questions(real_texts(256), arguments.tasks.split(",") if arguments.tasks else None, path=path)
    if arguments.wrk:
        by_wrk = wrk_saturated(server, asked, connections=arguments.connections, seconds=arguments.seconds)
        print(json.dumps({**vars(by_wrk), "rate": by_wrk.rate}))
    elif arguments.rate:
        print(json.dumps(poisson(server, asked, rate=arguments.rate, seconds=arguments.seconds).plain()))
    else:
        found = saturated(server, asked, connections=arguments.connections, seconds=arguments.seconds)
        print(json.dumps(found.plain()))


if __name__ == "__main__":
    main()
