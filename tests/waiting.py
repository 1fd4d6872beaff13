"""Waiting in tests for what another thread or process brings about."""

import time
from collections.abc import Callable


def eventually(holds: Callable[[], bool], what: str) -> None:
    """Fails where it has not come about after half a minute."""
    until = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < until, f"never: {what}"
        time.sleep(0.01)
