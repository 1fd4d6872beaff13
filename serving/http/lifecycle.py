"""From the first request to the last: whether new ones are taken, and who waits for an answer."""

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
        """Those of them that the engine has taken in."""

    def end_waiting(self) -> None:
        """Nobody waits any longer: each is told that the server stops."""
        for replies in self.waiting:
            replies.end_now(Stopping("the server stopped before this was answered; ask another one"))
