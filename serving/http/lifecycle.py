"""From the first request to the last: whether new ones are taken, and who waits for an answer."""

import asyncio

from serving.errors import Stopping
from serving.http.answers import Replies


class Lifecycle:
    """Of the event loop's thread alone, but for `draining`."""

    def __init__(self) -> None:
        self.draining = False
        """Whether the server is about to end: it is not ready, and takes no new request."""
        self.in_flight = 0
        """Requests that are being read or answered."""
        self.body_bytes = 0
        """Of those requests."""
        self.waiting: set[Replies] = set()
        """Those of them whose texts are with the engine, or on their way there."""
        self.reading: set[asyncio.Timeout] = set()
        """How long each of them is waited for whose body still arrives."""
        self.stopped = False
        """Whether the time for draining is over."""

    def end_waiting(self) -> None:
        """Nobody waits any longer, and no body is waited for: each is told that the server stops."""
        self.stopped = True
        for replies in self.waiting:
            replies.end_now(stopped_before_the_answer())
        for patience in self.reading:
            if not patience.expired():  # else it is ending already
                patience.reschedule(asyncio.get_running_loop().time())


def stopped_before_the_answer() -> Stopping:
    return Stopping("the server stopped before this was answered; ask another one")
