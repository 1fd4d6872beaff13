"""From the first request to the last: readiness, what is in flight, and an end that leaves nobody unanswered."""

import asyncio
import socket
import time
from collections.abc import Callable
from types import FrameType

import uvicorn
from uvicorn.config import Config

from serving.engine import Engine


class Lifecycle:
    """Whether new requests are taken, and how many are being answered. Of the event loop's thread alone."""

    def __init__(self) -> None:
        self.draining = False
        self.in_flight = 0


class DrainingServer(uvicorn.Server):
    """Serves until SIGTERM or SIGINT, then refuses what is new, answers what it has taken in, and returns.

    It goes on listening meanwhile: who asks whether it is ready must be told no, not find a closed door. A second
    signal ends it at once.
    """

    def __init__(
        self,
        config: Config,
        *,
        lifecycle: Lifecycle,
        engine: Engine,
        drain_seconds: float,
        on_start: Callable[[], None],
        on_drain: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._lifecycle = lifecycle
        self._engine = engine
        self._drain_seconds = drain_seconds
        self._on_start = on_start
        self._on_drain = on_drain
        self._last_moment: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the base class's signature
        """Not the base's, which raises the signal once more at the end: a server that drained has ended well."""
        if self._lifecycle.draining:
            self.should_exit = self.force_exit = True
            return
        self._lifecycle.draining = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_start()

    async def on_tick(self, counter: int) -> bool:
        if self._lifecycle.draining and not self.should_exit:
            if self._last_moment is None:
                self._last_moment = time.monotonic() + self._drain_seconds
                self._on_drain()
            late = time.monotonic() >= self._last_moment
            if late:  # ends what is left: it is answered 503
                await asyncio.to_thread(self._engine.close, timeout=0.0)
            self.should_exit = late or not self._lifecycle.in_flight
        return await super().on_tick(counter)
