"""From the engine's threads to the event loop: the answers to one request, and every way that it may end early."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager

from starlette.types import Receive

from serving.engine import Asked, Engine
from serving.errors import DeadlinePassed
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


class Replies:
    """What the engine says to one request. `put` and `end` are for any thread, the rest is for the event loop."""

    asked: Asked

    def __init__(self, *, streamed: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._streamed = streamed
        self._arrived: deque[Sequence[TextAnswer]] = deque()
        self._news = asyncio.Event()
        self.error: Exception | None = None
        """What ended the request early, as soon as something has; read by any thread."""
        self.ended = False

    def put(self, answers: Sequence[TextAnswer]) -> None:
        """Wakes the loop only if somebody reads answers one by one."""
        self._arrived.append(answers)
        if self._streamed:
            self._loop.call_soon_threadsafe(self._news.set)

    def end(self, error: Exception | None) -> None:
        self._loop.call_soon_threadsafe(self.end_now, error)

    def end_now(self, error: Exception | None) -> None:
        """The first end counts."""
        if not self.ended:
            self.ended, self.error = True, error
            self._news.set()

    async def next(self) -> list[TextAnswer]:
        """The next answers: those of a branch or more if streamed, else all; none once the last have been taken.

        An early end comes after the answers that were there before it, if they are read one by one.

        Raises:
            DeadlinePassed, ClientGone, and what the engine ends a request with.
        """
        while True:
            await self._news.wait()
            if not self.ended:
                self._news.clear()
            if self.error is not None and not (self._streamed and self._arrived):
                raise self.error
            found = [answer for _ in range(len(self._arrived)) for answer in self._arrived.popleft()]
            if found or self.ended:
                return found


@asynccontextmanager
async def replies_to(
    engine: Engine,
    texts: Sequence[Text],
    tasks: Collection[str] | None,
    *,
    seconds: float,
    receive: Receive,
    streamed: bool,
    refuse_truncated: bool,
) -> AsyncIterator[Replies]:
    """Asks the engine, and takes the request back if the block ends before it does.

    Args:
        seconds: after which the request ends with DeadlinePassed, whatever the engine is doing.
        receive: the connection's, whose body has been read: it tells when the client goes away.

    Raises:
        NotFound, UsageError, InvalidInput, Overloaded, Stopping: as `Engine.ask` does.
    """
    replies = Replies(streamed=streamed)
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
        if replies.error is not None:  # its client left meanwhile
            raise replies.error
        return engine.ask(
            texts,
            tasks,
            timeout=left,
            on_answers=replies.put,
            on_end=on_end,
            refuse_truncated=refuse_truncated,
        )

    try:
        replies.asked = ask() if _is_light(texts) else await asyncio.to_thread(ask)
        try:
            yield replies
        finally:
            if not engine_ended:
                replies.asked.cancel()
    finally:
        timer.cancel()
        watcher.cancel()


def _is_light(texts: Sequence[Text]) -> bool:
    if len(texts) > _TEXTS_ON_THE_LOOP:
        return False
    return sum(len(text.text) + len(text.text_pair or "") for text in texts) <= _CHARACTERS_ON_THE_LOOP


async def _end_when_gone(receive: Receive, replies: Replies) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    replies.end_now(ClientGone())
