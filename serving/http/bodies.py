"""Reading a request's body, within a size and a time, and within what all requests may hold together."""

import asyncio
from typing import Any

from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request

from serving.http.lifecycle import stopped_before_the_answer
from serving.http.limits import Limits
from serving.http.refusals import ClientGone, Refused
from serving.http.request_watch import count_body
from serving.http.service import Service

_GLANCED_FROM_BYTES = 16 * 1024
_SMALL_BYTES = 256 * 1024
"""A body up to this size is read whatever the others hold: uploads that stall must not close the door to everybody."""


async def read_body(request: Request, service: Service) -> bytes:
    """The whole body. It counts among those held until its request is over, for what was made of it lives as long.

    Raises:
        Refused: 413 as soon as it is known to be too large, 408 when it does not come in time, 415 if compressed, 429
            if it is not small and the server holds too much already.
        Stopping: the server's time for draining ended first.
        ClientGone: the connection was cut.
    """
    limits = service.limits
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise Refused(415, "the body is compressed: send it without Content-Encoding")
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > limits.body_bytes:
        raise _too_large(limits)
    body = bytearray()
    patience = asyncio.timeout(limits.body_seconds)
    try:
        async with patience:
            service.lifecycle.reading.add(patience)
            async for chunk in request.stream():
                body += chunk
                if len(body) > limits.body_bytes:
                    raise _too_large(limits)
                count_body(request, service.lifecycle, len(chunk))
                if len(body) > _SMALL_BYTES and service.lifecycle.body_bytes > limits.held_body_bytes:
                    raise _no_room(limits)
    except ClientDisconnect:
        raise ClientGone from None
    except TimeoutError:
        if service.lifecycle.stopped:
            raise stopped_before_the_answer() from None
        raise Refused(
            408, f"the body did not arrive within {limits.body_seconds:g} s", {"Connection": "close"}
        ) from None
    finally:
        service.lifecycle.reading.discard(patience)
    return bytes(body)


def json_at_a_glance(body: bytes) -> Any:
    """What a large body's JSON holds, several times faster than it is validated; None of a small one, of which that is
    no matter, and of what is no JSON."""
    if len(body) <= _GLANCED_FROM_BYTES:
        return None
    try:
        return from_json(body)
    except ValueError:
        return None


def refuse_too_many_of(texts: object, most: int) -> None:
    """Of a list that is longer than a request's texts may be not one item is looked at: a million would hold up
    everybody. What is no list is left to others.

    Raises:
        Refused: 413.
    """
    if isinstance(texts, list):
        refuse_too_many(len(texts), most)


def refuse_too_many(count: int, most: int) -> None:
    """Raises Refused with 413."""
    if count > most:
        raise Refused(413, f"{count:,} texts in one request; this server takes {most:,}: send several")


def _no_room(limits: Limits) -> Refused:
    return Refused(
        429,
        f"requests of {limits.held_body_bytes:,} bytes together are being answered already; ask again in 1 s",
        {"Retry-After": "1", "Connection": "close"},
    )


def _too_large(limits: Limits) -> Refused:
    return Refused(413, f"the body is larger than {limits.body_bytes:,} bytes: ask about fewer texts at a time")
