"""Reading a request's body, within a size and a time."""

import asyncio

from starlette.requests import ClientDisconnect, Request

from serving.http.limits import Limits
from serving.http.refusals import ClientGone, Refused


async def read_body(request: Request, limits: Limits) -> bytes:
    """The whole body.

    Raises:
        Refused: 413 as soon as it is known to be too large, 408 when it does not come in time, 415 if compressed.
        ClientGone: the connection was cut.
    """
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise Refused(415, "the body is compressed: send it without Content-Encoding")
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > limits.body_bytes:
        raise _too_large(limits)
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limits.body_bytes:
                    raise _too_large(limits)
    except ClientDisconnect:
        raise ClientGone from None
    except TimeoutError:
        raise Refused(
            408, f"the body did not arrive within {limits.body_seconds:g} s", {"Connection": "close"}
        ) from None
    return bytes(body)


def _too_large(limits: Limits) -> Refused:
    return Refused(413, f"the body is larger than {limits.body_bytes:,} bytes: ask about fewer texts at a time")
