"""Which of several ways is the fastest here, measured."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits

Way = TypeVar("Way")


def least_seconds(ways: Mapping[Way, Callable[[], object]], times: int) -> dict[Way, float]:
    """Of each way the least of so many times, taken in turn: what disturbs a busy machine only makes times longer."""
    least = dict.fromkeys(ways, float("inf"))
    for _ in range(times):
        for way, run in ways.items():
            begun = time.perf_counter()
            run()
            least[way] = min(least[way], time.perf_counter() - begun)
    return least


def least_seconds_of_a_lane(ways: Mapping[Way, Callable[[], object]], times: int) -> dict[Way, float]:
    """The same on one thread of torch's and of numpy's, without gradients, as a lane answers."""

    @torch.inference_mode()
    def timed() -> dict[Way, float]:
        torch.set_num_threads(1)
        return least_seconds(ways, times)

    # torch counts threads for each of its callers, numpy for the process.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(1) as thread:
        return thread.submit(timed).result()


def fastest(seconds: Mapping[Way, float], *, usual: Way, worth: float) -> Way:
    """The usual way unless another is so many times as fast, lest a busy machine decides."""
    return min(seconds, key=lambda way: seconds[way] * (1.0 if way is usual else worth))
