"""From the engine's threads to the event loop: the answers to one request, and every way that it may end early."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager

from starlette.types import Receive

from serving.engine import Asked, Engine
from serving.errors import DeadlinePassed, Overloaded
from serving.http.refusals import ClientGone
from serving.questions import Text, TextAnswer

_TEXTS_ON_THE_LOOP = 32
_CHARACTERS_ON_THE_LOOP = 2_000
"""Up to here, texts are turned into tokens on the event loop, which answers nobody else meanwhile.

So many characters take 1.7 ms in English and 5 to 6 in Chinese or punctuation; handing them to a thread takes 0.1 ms,
and up to 3 while lanes compute (two cores, MiniLM's tokenizer). Where two clients kept sending 20 texts of 1,500
characters, one of short texts waited 7 ms for an answer, and 49 with all of it on the loop; 7 % fewer of the large
requests were answered, of Chinese ones 18 %. With 16 texts of 200 characters it was 10 ms and 13, and as many.
"""


class TokeniserRoom:
    """How much text is with the threads that turn it into tokens, or waits for one, in bytes; for the event loop.

    Args:
        size: that may be there. One request is let in whatever it has, as long as nobody else is.
    """

    def __init__(self, size: int) -> None:
        self._limit, self._taken = size, 0

    def take(self, size: int) -> None:
        """Raises Overloaded."""
        if self._taken and self._taken + size > self._limit:
            raise Overloaded(
                f"{self._taken:,} bytes of text are being turned into tokens already and {size:,} more would be "
                f"beyond the limit of {self._limit:,}; ask again in 1 s",
                retry_after=1.0,
            )
        self._taken += size

    def give_back(self, size: int) -> None:
        self._taken -= size


class Replies:
    """What the engine says to one request. `put` and `end` are for any thread, the rest is for the event loop."""

    asked: Asked

    def __init__(self, *, streamed: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._streamed = streamed
        self._arrived: deque[Sequence[TextAnswer]] = deque()
        self._news = asyncio.Event()
        self.over = asyncio.Event()
        """Set when nothing more comes: all is answered, or something has ended the request early."""
        self.error: Exception | None = None
        """What ended the request early, as soon as something has; read by any thread."""

    def put(self, answers: Sequence[TextAnswer]) -> None:
        """Wakes the loop only if somebody reads answers one by one."""
        self._arrived.append(answers)
        if self._streamed:
            self._loop.call_soon_threadsafe(self._news.set)

    def end(self, error: Exception | None) -> None:
        self._loop.call_soon_threadsafe(self.end_now, error)

    def end_now(self, error: Exception | None) -> None:
        """The first end counts."""
        if not self.over.is_set():
            self.error = error
            self._news.set()
            self.over.set()

    async def next(self) -> list[TextAnswer]:
        """The next answers: those of a branch or more if streamed, else all; none once the last have been taken.

        An early end comes after the answers that were there before it, if they are read one by one.

        Raises:
            DeadlinePassed, ClientGone, and what the engine ends a request with.
        """
        while True:
            await self._news.wait()
            if not self.over.is_set():
                self._news.clear()
            if self.error is not None and not (self._streamed and self._arrived):
                raise self.error
            found = [answer for _ in range(len(self._arrived)) for answer in self._arrived.popleft()]
            if found or self.over.is_set():
                return found


@asynccontextmanager
async def replies_to(
    replies: Replies,
    engine: Engine,
    texts: Sequence[Text],
    tasks: Collection[str] | None,
    *,
    seconds: float,
    room: TokeniserRoom,
    receive: Receive,
    refuse_truncated: bool,
) -> AsyncIterator[None]:
    """Asks the engine, which replies there, and takes the request back if the block ends before it does.

    Args:
        seconds: after which the request ends with DeadlinePassed, whatever the engine is doing.
        receive: the connection's, whose body has been read: it tells when the client goes away.

    Raises:
        NotFound, UsageError, InvalidInput, Overloaded, Stopping: as `Engine.ask` does.
    """
    loop = asyncio.get_running_loop()
    late = DeadlinePassed(f"not answered within {seconds:g} s; ask for fewer texts, or give it more time")
    timer = loop.call_later(seconds, replies.end_now, late)
    watcher = loop.create_task(_end_when_gone(receive, replies))
    engine_ended = False

    def on_end(error: Exception | None) -> None:
        nonlocal engine_ended
        engine_ended = True
        replies.end(error)

    until = time.monotonic() + seconds

    def ask() -> Asked:
        left = until - time.monotonic()
        if left <= 0:  # it waited for a thread
            raise late
        refuse_if_over()
        return engine.ask(
            texts,
            tasks,
            timeout=left,
            on_answers=replies.put,
            on_end=on_end,
            refuse_truncated=refuse_truncated,
            between_texts=refuse_if_over,
        )

    def refuse_if_over() -> None:
        """Its time is over, or its client has left."""
        if replies.error is not None:
            raise replies.error

    try:
        replies.asked = ask() if _is_light(texts) else await _asked_in_a_thread(ask, replies, room, _bytes(texts))
        try:
            yield
        finally:
            if not engine_ended:
                replies.asked.cancel()
    finally:
        timer.cancel()
        watcher.cancel()
        replies.end_now(ClientGone())  # nobody reads on: a thread that still makes tokens of its texts stops


async def _asked_in_a_thread(ask: Callable[[], Asked], replies: Replies, room: TokeniserRoom, size: int) -> Asked:
    """What the call returns; what ended the request before that is raised at once, and the thread stops by itself."""
    room.take(size)
    asking = asyncio.ensure_future(asyncio.to_thread(ask))
    asking.add_done_callback(lambda _: room.give_back(size))
    over = asyncio.ensure_future(replies.over.wait())
    is_left = True
    try:
        await asyncio.wait({asking, over}, return_when=asyncio.FIRST_COMPLETED)
        is_left = not asking.done() and replies.error is not None
    finally:
        over.cancel()
        if is_left:
            asking.add_done_callback(_taken_back)
    if is_left and replies.error is not None:
        raise replies.error
    return await asking


def _taken_back(asking: "asyncio.Future[Asked]") -> None:
    """Nobody waits for the request that was asked."""
    if not asking.cancelled() and asking.exception() is None:
        asking.result().cancel()


def _is_light(texts: Sequence[Text]) -> bool:
    if len(texts) > _TEXTS_ON_THE_LOOP:
        return False
    return sum(len(text.text) + len(text.text_pair or "") for text in texts) <= _CHARACTERS_ON_THE_LOOP


def _bytes(texts: Sequence[Text]) -> int:
    """In UTF-8, as bodies are counted; half a surrogate pair, which the tokenizer will refuse, has its three too."""
    parts = (part for text in texts for part in (text.text, text.text_pair or ""))
    return sum(len(part.encode("utf-8", "surrogatepass")) for part in parts)


async def _end_when_gone(receive: Receive, replies: Replies) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    replies.end_now(ClientGone())
