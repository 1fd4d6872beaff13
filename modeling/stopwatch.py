"""Which of several ways is the fastest here, measured."""

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

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
