"""What happens to every request, whatever it asks: its id, its line in the log, its metrics; no new one at the end."""

import logging
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from opentelemetry import trace
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.routing import BaseRoute, Match
from starlette.types import Message, Receive, Scope, Send

from serving.http.lifecycle import Lifecycle
from serving.http.refusals import CLIENT_GONE, error_response, stopping
from serving.metrics import ServerMetrics
from serving.structured_logs import fields

UNKNOWN_ROUTE = "unknown"
"""The one label of all paths that are no route: a metric must not grow with what strangers ask for."""

_ALWAYS_ANSWERED = re.compile(r"/v2/health/|/metrics|/v2/models/[^/]+(?:/versions/[^/]+)?/ready$")
"""Asked by those who watch the server, every few seconds and until its last: never refused, and logged as debugging."""

_SANE_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Noted:
    """What a route found out about its request."""

    texts: int = 0
    tasks: Sequence[str] = ()
    release: str | None = None
    body_bytes: int = 0
    end: int | None = None
    """The status that it ended with after another one had been sent: of a stream."""


def count_body(request: Request, lifecycle: Lifecycle, size: int) -> None:
    """So many bytes more are held for this request, until it is over."""
    request.scope["trunkline.noted"].body_bytes += size
    lifecycle.body_bytes += size


def note(request: Request, *, texts: int, tasks: Sequence[str], release: str) -> None:
    """Keeps this for the request's line in the log, and writes it on the span, where there is one."""
    noted: Noted = request.scope["trunkline.noted"]
    noted.texts, noted.tasks, noted.release = texts, tasks, release
    span = trace.get_current_span()
    if span.is_recording():
        span.set_attributes({"trunkline.texts": texts, "trunkline.tasks": tasks, "trunkline.release": release})


def note_end(request: Request, status: int) -> None:
    """A stream that began well ended with this status."""
    request.scope["trunkline.noted"].end = status


class RequestWatch:
    """The outermost layer. Nothing that goes wrong inside gets past it, and no text gets into what it writes."""

    def __init__(self, app: Starlette, *, lifecycle: Lifecycle, metrics: ServerMetrics) -> None:
        self._app = app
        self._lifecycle = lifecycle
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        request_id = _request_id(Headers(scope=scope).get("x-request-id"))
        noted = scope["trunkline.noted"] = Noted()
        scope["query_string"] = b""  # no route reads one, and a text that is sent in it would be written on the span
        is_work = _ALWAYS_ANSWERED.match(scope["path"]) is None
        status = CLIENT_GONE

        async def watched_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                if self._lifecycle.draining:
                    headers["Connection"] = "close"
            await send(message)

        self._lifecycle.in_flight += is_work
        try:
            if is_work and self._lifecycle.draining:
                scope["route"] = self._route_of(scope)
                refusal = stopping()
                response = error_response(refusal.status, str(refusal), refusal.headers)
                await response(scope, receive, watched_send)
            else:
                await self._app(scope, receive, watched_send)
        except Exception:  # noqa: BLE001 - the application has answered 500 already, if it could
            status = 500
            _log.exception("request failed", extra=fields(request=request_id))
        finally:
            self._lifecycle.in_flight -= is_work
            self._lifecycle.body_bytes -= noted.body_bytes
            self._write_down(scope, request_id, noted.end or status, time.perf_counter() - begun, noted, is_work)

    def _route_of(self, scope: Scope) -> BaseRoute | None:
        """Of a request that does not get as far as the router: what that would find."""
        matches = [route.matches(scope) for route in self._app.routes]
        for wanted in (Match.FULL, Match.PARTIAL):
            for match, found in matches:
                if match is wanted:
                    return cast("BaseRoute | None", found.get("route"))
        return None

    def _write_down(
        self, scope: Scope, request_id: str, status: int, seconds: float, noted: Noted, is_work: bool
    ) -> None:
        route = getattr(scope.get("route"), "path", UNKNOWN_ROUTE)
        self._metrics.request(route=route, status=status, seconds=seconds, asked=noted.release is not None)
        level = logging.INFO if is_work else logging.DEBUG
        if _log.isEnabledFor(level):
            line = fields(
                route=route,
                status=status,
                seconds=round(seconds, 6),
                texts=noted.texts,
                tasks=list(noted.tasks),
                release=noted.release,
                request=request_id,
            )
            _log.log(level, "request", extra=line)


def _request_id(given: str | None) -> str:
    """The client's own, if it can stand in a header and in a log, else a new one."""
    return given if given is not None and _SANE_ID.fullmatch(given) else secrets.token_hex(16)
