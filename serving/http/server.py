"""The process's side of the server: its socket, its signals, and an end that leaves nobody unanswered."""

import asyncio
import gc
import socket
import time
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from registry.errors import UsageError
from serving.http.connections import PatientProtocol
from serving.http.lifecycle import Lifecycle

KEEP_ALIVE_SECONDS = 75
"""How long an idle connection is kept. A client or a load balancer that keeps it longer may send a request into a
connection that is just being closed. By default an AWS load balancer keeps one for 60 s; this is nginx's default."""
_LAST_WRITES = 5
"""Seconds for the last responses to be written, and for clients that read none."""


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket that will listen here; bound before the release is loaded, so that a taken port is known at once.

    Raises:
        UsageError: it cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; choose others with --host and --port "
            "(0 takes any free port)"
        ) from None
    return bound


def url_of(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class DrainingServer(uvicorn.Server):
    """Serves until SIGTERM or SIGINT, then refuses what is new, answers what it has taken in, and returns.

    It goes on listening meanwhile: who asks whether it is ready must be told no, not find a closed door. A second
    signal ends it without an answer to whom it has taken in.

    Args:
        drain_seconds: after which those who still wait are told that the server stops.
        on_start: called when connections are taken.
        on_drain: called when no new request is taken any more.
        on_second_signal: called with it, from its handler. Without more, `run` returns as soon as threads let it: those
            that turn texts into tokens are waited for.
    """

    def __init__(
        self,
        application: ASGIApp,
        lifecycle: Lifecycle,
        *,
        drain_seconds: float,
        on_start: Callable[[], None] = lambda: None,
        on_drain: Callable[[], None] = lambda: None,
        on_second_signal: Callable[[int], None] = lambda _: None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                application,
                http=PatientProtocol,
                loop="uvloop",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=_LAST_WRITES,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
            )
        )
        self._lifecycle = lifecycle
        self._drain_seconds = drain_seconds
        self._on_start = on_start
        self._on_drain = on_drain
        self._on_second_signal = on_second_signal
        self._last_moment: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the base class's signature
        """Not the base's, which raises the signal once more at the end: a server that drained has ended well."""
        if self._lifecycle.draining:
            self.should_exit = self.force_exit = True
            self._on_second_signal(sig)
        self._lifecycle.draining = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        gc.collect()
        gc.freeze()  # the libraries' objects stay: looking through them for garbage held every request up for 0.2 s
        await super().startup(sockets)
        self._on_start()

    async def on_tick(self, counter: int) -> bool:
        if self._lifecycle.draining and not self.should_exit:
            await self._drain()
        return await super().on_tick(counter)

    async def _drain(self) -> None:
        if self._last_moment is None:
            self._last_moment = time.monotonic() + self._drain_seconds
            self._on_drain()
        if time.monotonic() >= self._last_moment:
            self._lifecycle.end_waiting()
            await asyncio.sleep(0)  # lets them take the answer in before the connections are told to close
            self.should_exit = True
        self.should_exit |= not self._lifecycle.in_flight
