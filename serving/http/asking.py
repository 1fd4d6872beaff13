"""What the plain routes and the Open Inference Protocol do alike with a request, once it is read."""

import math
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

from starlette.requests import Request

from modeling.decoding import Answer
from registry.errors import InvalidInput
from serving.engine import Asked
from serving.http.answers import Replies, replies_to
from serving.http.lifecycle import Lifecycle, stopped_before_the_answer
from serving.http.limits import Limits
from serving.http.refusals import Refused
from serving.http.request_watch import note
from serving.http.service import Service
from serving.questions import Text

TIMEOUT_HEADER = "X-Request-Timeout"


@asynccontextmanager
async def ask(
    service: Service,
    request: Request,
    texts: Sequence[Text],
    tasks: Collection[str] | None,
    *,
    seconds: float | None,
    streamed: bool = False,
) -> AsyncIterator[Replies]:
    """Asks within the server's limits; `seconds` is the request's own, from its body.

    Raises:
        Refused, InvalidInput: it is beyond a limit.
        NotFound, UsageError, Overloaded, Stopping: the engine does not take it.
    """
    limits = service.limits
    _refuse_long(texts, limits)
    given = [limits.seconds, _seconds_in_header(request), seconds]
    least = min(one for one in given if one is not None)
    replies = Replies(streamed=streamed)
    with _told_if_the_server_stops(replies, service.lifecycle):
        async with replies_to(
            replies,
            service.engine,
            texts,
            tasks,
            seconds=least,
            room=service.room,
            receive=request.receive,
            refuse_truncated=limits.refuse_long_texts,
        ):
            asked = replies.asked
            note(request, texts=len(texts), tasks=asked_tasks(asked), release=asked.release.name)
            yield replies


@contextmanager
def _told_if_the_server_stops(replies: Replies, lifecycle: Lifecycle) -> Iterator[None]:
    lifecycle.waiting.add(replies)
    if lifecycle.stopped:
        replies.end_now(stopped_before_the_answer())
    try:
        yield
    finally:
        lifecycle.waiting.discard(replies)


async def all_answers(replies: Replies) -> list[dict[str, Answer]]:
    """By text and task, the tasks in the manifest's order; raises what ended the request early."""
    found: list[dict[str, Answer]] = [{} for _ in replies.asked.tasks]
    for one in await replies.next():
        found[one.number][one.task] = one.answer
    return [{task: answers[task] for task in tasks} for tasks, answers in zip(replies.asked.tasks, found, strict=True)]


def asked_tasks(asked: Asked) -> list[str]:
    """Every task that answers a text of the request."""
    return list(dict.fromkeys(task for tasks in asked.tasks for task in tasks))


def _refuse_long(texts: Sequence[Text], limits: Limits) -> None:
    if problems := [
        f"text {number}: has {longest:,} characters; this server takes {limits.characters:,}"
        for number, text in enumerate(texts, 1)
        if (longest := max(len(text.text), len(text.text_pair or ""))) > limits.characters
    ]:
        raise InvalidInput("input", problems)


def _seconds_in_header(request: Request) -> float | None:
    given = request.headers.get(TIMEOUT_HEADER)
    if given is None:
        return None
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise Refused(422, f"{TIMEOUT_HEADER}: must be a number of seconds above 0")
    return seconds
