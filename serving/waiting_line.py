"""The texts that wait for a batch, by request: who comes next, and who has left."""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Condition

from modeling.text import EncodedText
from serving.errors import Overloaded, Stopping
from serving.questions import TextAnswer
from serving.served_release import ServedRelease


@dataclass(eq=False)
class Question:
    """One text of a request, and the tasks that have not answered it yet."""

    request: "Request"
    number: int
    """The text's place in its request."""
    text: str
    """The first text: spans point into it."""
    key: bytes
    """What the cache knows the text by."""
    encoded: EncodedText
    tasks: list[str]


@dataclass(eq=False)
class Request:
    """What of a request is in the engine."""

    release: ServedRelease
    entered: float
    """By the monotonic clock, as the deadline."""
    deadline: float
    on_answers: Callable[[Sequence[TextAnswer]], None]
    on_end: Callable[[Exception | None], None]
    waiting: deque[Question] = field(default_factory=deque)
    lined_up: float = 0.0
    """When they began to wait, by the monotonic clock."""
    unanswered: int = 0
    """Answers that are still to come."""
    ended: bool = False
    """Answered, failed or cancelled: nothing more is told."""


class WaitingLine:
    """Requests in the order in which they came, bounded in texts.

    Args:
        limit: texts that may wait.
        least_share: pieces that a lane aims at, at least, where it leaves the rest to one that has nothing to do.
        on_expired: told of a request whose deadline passed while it waited; called without the line's lock.
    """

    def __init__(self, limit: int, on_expired: Callable[[Request], None], *, least_share: int) -> None:
        self._limit, self._on_expired, self._least_share = limit, on_expired, least_share
        self._idle = 0
        self._requests: deque[Request] = deque()
        self._texts = 0
        self._changed = Condition()
        self._closed = False
        self._texts_per_second = 0.0

    def __len__(self) -> int:
        """Texts that wait."""
        return self._texts

    @property
    def idle_lanes(self) -> int:
        """How many wait for texts."""
        return self._idle

    def refuse_without_room(self, texts: int) -> None:
        """Raises what `add` would raise now, of a request of so many texts: before work is put into it."""
        with self._changed:
            self._refuse(texts)

    def add(self, request: Request) -> None:
        """Raises Overloaded, or Stopping after `close`."""
        with self._changed:
            self._refuse(len(request.waiting))
            request.lined_up = time.monotonic()
            self._requests.append(request)
            self._texts += len(request.waiting)
            self._changed.notify()

    def leave(self, request: Request) -> None:
        """What of the request has not entered a batch leaves the line."""
        with self._changed:
            self._texts -= len(request.waiting)
            request.waiting.clear()
            with suppress(ValueError):  # it may have left before
                self._requests.remove(request)

    def take(self, pieces: int) -> list[Question] | None:
        """Waits for texts and takes a batch of at most so many pieces, or of one text; None once closed and empty.

        All are for one release: the one that the oldest request was taken in with. Its requests give one text each in
        turn, those first that waited longest for one: large requests do not hold up the next one's single text. Where
        other lanes wait too, what is there is shared out among them: a list of texts is answered by all.
        """
        while True:
            with self._changed:
                self._idle += 1
                while not self._texts and not self._closed:
                    self._changed.wait()
                self._idle -= 1
                expired = self._without_ended()
                batch = [] if expired else self._next_batch(pieces)
                if self._texts:
                    self._changed.notify()  # one request may be work for every lane, and woke only one
                done = self._closed and not self._texts
            for request in expired:
                self._on_expired(request)
            if batch or (done and not expired):
                return batch or None

    def computed(self, texts: int, seconds: float) -> None:
        """Learns from a batch how fast the line moves: texts that all lanes would have computed in these seconds."""
        rate = texts / max(seconds, 1e-6)
        self._texts_per_second += 0.1 * (rate - self._texts_per_second) if self._texts_per_second else rate

    def close(self) -> None:
        """Takes nothing new."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _refuse(self, texts: int) -> None:
        if self._closed:
            raise Stopping("the server is stopping and takes no new request; ask another one")
        if self._texts + texts > self._limit:
            wait = max(1.0, self._texts / self._texts_per_second if self._texts_per_second else 1.0)
            raise Overloaded(
                f"{self._texts} texts wait already and {texts} more would be beyond the limit of {self._limit}; ask "
                f"again in {wait:.0f} s",
                retry_after=wait,
            )

    def _without_ended(self) -> list[Request]:
        """Forgets requests that have nothing waiting; returns those whose deadline has passed."""
        now = time.monotonic()
        expired = [request for request in self._requests if request.waiting and request.deadline <= now]
        for request in expired:
            self._texts -= len(request.waiting)
            request.waiting.clear()
        self._requests = deque(request for request in self._requests if request.waiting)
        return expired

    def _share(self, pieces: int, turn: Sequence[Request]) -> float:
        """How many pieces of what waits a lane aims at: an equal part, as far as others are idle."""
        if not self._idle:
            return math.inf
        waiting, enough = 0, pieces * (self._idle + 1)
        for question in (question for request in turn for question in request.waiting):
            waiting += len(question.encoded.input_ids)
            if waiting >= enough:
                return math.inf
        return max(self._least_share, waiting / (self._idle + 1))

    def _next_batch(self, pieces: int) -> list[Question]:
        batch: list[Question] = []
        filled = 0
        turn = [request for request in self._requests if request.release is self._requests[0].release]
        share = self._share(pieces, turn)
        while turn:
            for request in turn:
                length = len(request.waiting[0].encoded.input_ids)
                if batch and (filled + length > pieces or filled + length / 2 > share):  # by its middle: nearest to it
                    self._line_up_after(batch)
                    return batch
                batch.append(request.waiting.popleft())
                filled += length
            turn = [request for request in turn if request.waiting]
        self._line_up_after(batch)
        return batch

    def _line_up_after(self, batch: Sequence[Question]) -> None:
        """Who gave a text goes behind those of the same release that did not; another release's turn is later."""
        self._texts -= len(batch)
        gave = {question.request for question in batch}
        served = {request.release for request in gave}
        left = (request for request in self._requests if request.waiting)
        self._requests = deque(sorted(left, key=lambda one: (one.release not in served, one in gave)))
