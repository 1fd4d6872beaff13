"""From what went wrong to a status, a message and headers."""

import math
from collections.abc import Mapping
from types import MappingProxyType

from pydantic import ValidationError
from pydantic_core import to_json
from starlette.responses import Response

from registry.errors import InvalidInput, NotFound, TrunklineError, UsageError
from serving.errors import DeadlinePassed, Overloaded, Stopping

JSON = "application/json"
CLIENT_GONE = 499
"""Seen in logs and metrics only: nobody is there to read it."""

_LONGEST_PLACE = 100
_UNION_PARTS = ("str", "AskedText")  # what pydantic calls the two ways to write one of `texts`


class Refused(TrunklineError):
    """A request that the server does not take, for a reason that HTTP has a status for."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        self.status = status
        self.headers = headers
        super().__init__(message)


class ClientGone(Refused):
    def __init__(self) -> None:
        super().__init__(CLIENT_GONE, "the client closed the connection before it was answered")


def error_response(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return Response(to_json({"error": message}), status, dict(headers or {}), JSON)


def refusal_of(error: TrunklineError) -> Refused:
    """The status and headers that say best what the error says."""
    match error:
        case Refused():
            return error
        case Overloaded():
            return Refused(429, str(error), {"Retry-After": str(max(1, math.ceil(error.retry_after)))})
        case DeadlinePassed():
            return Refused(504, str(error))
        case Stopping():
            return stopping(str(error))
        case NotFound():
            return Refused(404, str(error))
        case UsageError() | InvalidInput():
            return Refused(422, str(error))
        case _:
            return Refused(500, str(error))


def stopping(message: str = "the server is stopping and takes no new request; ask another one") -> Refused:
    return Refused(503, message, {"Retry-After": "1", "Connection": "close"})


def refusal_of_body(error: ValidationError) -> Refused:
    """400 for what is no JSON, 422 for JSON that is no request. Says where and why, and never what was sent."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    if found[0]["type"] == "json_invalid":
        return Refused(400, f"the body is not JSON: {found[0]['msg'].removeprefix('Invalid JSON: ')}")
    problems = dict.fromkeys(_problem(one["loc"], one["type"], one["msg"]) for one in found[:20])
    return Refused(422, "; ".join(problems))


def _problem(location: tuple[int | str, ...], kind: str, message: str) -> str:
    place = ".".join(str(part) for part in location if part not in _UNION_PARTS)
    place = place if len(place) <= _LONGEST_PLACE else f"{place[:_LONGEST_PLACE]}…"
    match kind:
        case "missing":
            said = "is missing"
        case "extra_forbidden":
            said = "is no known field"
        case "value_error":
            said = message.removeprefix("Value error, ")
        case _:
            said = message[:1].lower() + message[1:]
    return f"{place}: {said}" if place else said
