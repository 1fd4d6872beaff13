"""Following a channel: what is promoted on it is loaded beside the live release, proved, and takes over."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from modeling.products import use_threads
from registry.errors import TrunklineError
from serving.engine import Engine
from serving.metrics import ServerMetrics
from serving.served_release import ServedRelease
from serving.structured_logs import fields

LONGEST_PAUSE = 600.0
"""Seconds between two attempts at a release that cannot be loaded, at most."""

Placed = tuple[str, str]
"""A release's name, and the digest of its manifest."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SwapFailure:
    """Why the server does not answer from the release that is live on the channel."""

    release: str
    digest: str
    error: str
    attempts: int
    since: datetime


class ChannelFollower:
    """Looks at a channel every few seconds, in a thread of its own; whatever fails, the old release goes on."""

    def __init__(
        self,
        channel: str,
        engine: Engine,
        metrics: ServerMetrics,
        *,
        current: Callable[[], Placed],
        load: Callable[[str, str, ServedRelease], ServedRelease],
        poll_seconds: float,
    ) -> None:
        """
        Args:
            current: what is live on the channel; may raise anything, as when the registry is away.
            load: a release by its name and digest, warmed up and proved, given the one that it is to replace.
        """
        self.channel = channel
        self.failure: SwapFailure | None = None
        """Of the release that is live on the channel now; None while the server answers from it."""
        self.registry_error: str | None = None
        """Why it is not known what is live on the channel; None if it is."""
        self._engine = engine
        self._metrics = metrics
        self._current = current
        self._load = load
        self._poll_seconds = poll_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="channel-follower", daemon=True)
        self._looks_to_skip = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """No swap begins any more; what is being loaded is not taken over."""
        self._stop.set()

    def join(self, timeout: float) -> None:
        """After `stop`: waits for what is being loaded, at most so many seconds."""
        self._thread.join(timeout)

    def look(self) -> None:
        """Looks once, and swaps if something else is live there."""
        try:
            name, digest = self._current()
        except Exception as error:  # noqa: BLE001 - whatever it is, the old release goes on
            self._cannot_look(error)
            return
        if self.registry_error is not None:
            _log.info("the channel can be read again", extra=fields(channel=self.channel))
            self.registry_error = None
        if digest == self._engine.release.digest:
            self.failure = None
        elif self.failure is None or self.failure.digest != digest:
            self._looks_to_skip = 0
            self._try(name, digest)
        elif self._looks_to_skip:
            self._looks_to_skip -= 1
        else:
            self._try(name, digest)

    def _follow(self) -> None:
        use_threads(self._engine.settings.threads)  # what is loaded is prepared and asked beside the lanes
        while not self._stop.wait(self._poll_seconds):
            self.look()

    def _cannot_look(self, error: Exception) -> None:
        said = _said(error)
        if self.registry_error != said:  # once for each reason, not at each look
            _log.warning(
                "the channel cannot be read; the release that is there goes on",
                extra=fields(channel=self.channel, error=said),
            )
            self.registry_error = said

    def _try(self, name: str, digest: str) -> None:
        old = self._engine.release
        try:
            new = self._load(name, digest, old)
            if self._stop.is_set():
                return
            self._engine.swap(new)
        except Exception as error:  # noqa: BLE001 - the same
            self._failed(name, digest, error)
            return
        self.failure = None
        self._metrics.swap(done=True)
        _log.info("swapped", extra=fields(channel=self.channel, old=old.name, new=new.name, digest=digest))

    def _failed(self, name: str, digest: str, error: Exception) -> None:
        before = self.failure if self.failure is not None and self.failure.digest == digest else None
        attempts = 1 if before is None else before.attempts + 1
        since = datetime.now(UTC) if before is None else before.since
        self.failure = SwapFailure(name, digest, _said(error), attempts, since)
        longest = int(LONGEST_PAUSE / self._poll_seconds)
        self._looks_to_skip = min(2 ** min(attempts, 30) - 1, longest)
        self._metrics.swap(done=False)
        _log.error(
            "a promoted release cannot be taken over; the one that is there goes on",
            extra=fields(channel=self.channel, release=name, digest=digest, attempts=attempts),
            exc_info=error,
        )


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, TrunklineError) else f"unexpected {type(error).__name__}"
