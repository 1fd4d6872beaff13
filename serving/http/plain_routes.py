"""POST /predict and /predict/stream, GET /release and /metrics."""

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from registry.errors import TrunklineError
from serving.channel_following import ChannelFollower
from serving.http.answers import Replies
from serving.http.asking import TIMEOUT_HEADER, all_answers, ask, asked_tasks
from serving.http.bodies import read_body
from serving.http.plain_bodies import (
    MANY_TEXTS,
    ONE_TEXT,
    AnswerEvent,
    EndEvent,
    ErrorEvent,
    ManyPredictions,
    OnePrediction,
    PredictRequest,
    Problem,
    ReleaseDescription,
    parse_predict_request,
)
from serving.http.refusals import JSON, refusal_of
from serving.http.request_watch import note_end
from serving.http.service import Service
from serving.metrics import CONTENT_TYPE
from serving.questions import TextAnswer
from serving.served_release import ServedRelease

REFUSALS = {
    400: "The body is not JSON.",
    404: "A task or a release is not there.",
    408: "The body did not arrive in time.",
    413: "The body is too large, or holds too many texts.",
    415: "The body is compressed.",
    422: "The request cannot be answered; says all that is wrong with it.",
    429: "No room for it now; Retry-After says when to come back.",
    500: "The server failed.",
    503: "The server is stopping.",
    504: "The request's time is over.",
}
_TIMEOUT_PARAMETER = {
    "name": TIMEOUT_HEADER,
    "in": "header",
    "required": False,
    "description": "Seconds after which the answer is of no use.",
    "schema": {"type": "number", "exclusiveMinimum": 0},
}

_EVENT = {
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "event": {"enum": ["answer", "end", "error"]},
        "data": {
            "type": "string",
            "contentMediaType": JSON,
            "contentSchema": {
                "anyOf": [
                    {"$ref": f"#/components/schemas/{data.__name__}"} for data in (AnswerEvent, EndEvent, ErrorEvent)
                ]
            },
        },
    },
}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """These refusals, or all, as an OpenAPI document describes them."""
    return {status: {"description": REFUSALS[status], "model": Problem} for status in statuses or REFUSALS}


def body_of(schema: str, **examples: Any) -> dict[str, Any]:
    """A request's body and headers, for a route that reads the bytes itself."""
    content = {
        "schema": {"$ref": f"#/components/schemas/{schema}"},
        "examples": {name: {"value": value} for name, value in examples.items()},
    }
    return {"parameters": [_TIMEOUT_PARAMETER], "requestBody": {"required": True, "content": {JSON: content}}}


def add_plain_routes(app: FastAPI, service: Service) -> None:
    request_body = body_of(PredictRequest.__name__, one_text=ONE_TEXT, many_texts=MANY_TEXTS)

    @app.post(
        "/predict",
        summary="Answer every task, or some, for one text or many",
        response_class=Response,
        responses={200: {"model": OnePrediction | ManyPredictions}, **refusals()},
        openapi_extra=request_body,
    )
    async def predict(request: Request) -> Response:
        asked = await _asked(request, service)
        async with ask(service, request, asked.asked, asked.tasks, seconds=asked.timeout) as replies:
            answers = await all_answers(replies)
        return Response(_document(asked, replies, answers), media_type=JSON)

    @app.post(
        "/predict/stream",
        summary="The same, each answer as soon as its branch is done",
        description="Events `answer`, then `end`, or `error`. The data of each is JSON.",
        response_class=Response,
        responses={200: {"content": {"text/event-stream": {"itemSchema": _EVENT}}}, **refusals()},
        openapi_extra=request_body,
    )
    async def stream(request: Request) -> Response:
        asked = await _asked(request, service)
        async with AsyncExitStack() as stack:
            replies = await stack.enter_async_context(
                ask(service, request, asked.asked, asked.tasks, seconds=asked.timeout, streamed=True)
            )
            first = await replies.next()  # what goes wrong before it still has a status of its own
            return EventStream(_events(request, replies, first), stack.pop_all())

    @app.get(
        "/release",
        summary="What new requests are answered by",
        response_class=Response,
        responses={200: {"model": ReleaseDescription}},
    )
    async def release(request: Request) -> Response:  # noqa: ARG001 - the one form that needs no validation
        return Response(to_json(_described(service.engine.release, service.follower)), media_type=JSON)

    @app.get(
        "/metrics",
        summary="Prometheus metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def metrics(request: Request) -> Response:  # noqa: ARG001
        found = service.metrics.exposition(in_flight=service.lifecycle.in_flight)
        return Response(found, headers={"Content-Type": CONTENT_TYPE})


async def _asked(request: Request, service: Service) -> PredictRequest:
    return parse_predict_request(await read_body(request, service), most_texts=service.limits.texts)


def release_name(release: ServedRelease) -> dict[str, str]:
    return {"name": release.name, "digest": release.digest}


def _document(asked: PredictRequest, replies: Replies, answers: list[dict[str, Any]]) -> bytes:
    release = replies.asked.release
    tasks = release.manifest.tasks
    head = {
        "release": release_name(release),
        "versions": {task: tasks[task].version for task in asked_tasks(replies.asked)},
    }
    found = [
        {"truncated": truncated, "answers": of_text}
        for truncated, of_text in zip(replies.asked.truncated, answers, strict=True)
    ]
    return to_json(head | found[0] if asked.texts is None else {**head, "predictions": found})


async def _events(request: Request, replies: Replies, first: list[TextAnswer]) -> AsyncIterator[bytes]:
    answers = first
    try:
        while answers:
            yield b"".join(_answer_events(replies, answers))
            answers = await replies.next()
    except TrunklineError as error:
        refusal = refusal_of(error)
        note_end(request, refusal.status)
        yield _event("error", {"status": refusal.status, "error": str(refusal)})
    else:
        yield _event("end", {"release": release_name(replies.asked.release)})


def _answer_events(replies: Replies, answers: Iterable[TextAnswer]) -> Iterable[bytes]:
    release, truncated = replies.asked.release, replies.asked.truncated
    for one in answers:
        yield _event(
            "answer",
            {
                "index": one.number,
                "task": one.task,
                "version": release.manifest.tasks[one.task].version,
                "release": release_name(release),
                "truncated": truncated[one.number],
                "answer": one.answer,
            },
        )


def _event(name: str, data: dict[str, Any]) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), to_json(data))


class EventStream(Response):
    """Sends events as they come, and leaves `stack` at the end, however it comes.

    A reader that takes some now and then is waited for; one that takes nothing loses its connection
    (`serving/http/connections.py`), and what is sent then goes nowhere.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], stack: AsyncExitStack) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        async with self._stack:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for event in self._events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def _described(release: ServedRelease, follower: ChannelFollower | None) -> dict[str, Any]:
    return {
        "release": release_name(release),
        "precision": release.precision,
        "max_length": release.manifest.trunk.max_length,
        "tasks": {
            task: {
                "version": branch.version,
                "type": branch.type,
                "input_form": branch.input_form,
                "labels": branch.labels,
            }
            for task, branch in release.manifest.tasks.items()
        },
        "following": following(follower),
    }


def following(follower: ChannelFollower | None) -> dict[str, Any] | None:
    """How the server stands to its channel; None if it follows none."""
    if follower is None:
        return None
    failure = follower.failure
    return {
        "channel": follower.channel,
        "failure": None if failure is None else asdict(failure),
        "registry_error": follower.registry_error,
    }
