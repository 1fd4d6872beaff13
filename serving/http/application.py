"""The application: all routes, errors as `{"error": …}`, and the document that describes them."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from registry.errors import TrunklineError
from serving.http.open_inference import InferRequest
from serving.http.open_inference_routes import add_open_inference_routes
from serving.http.plain_bodies import AnswerEvent, EndEvent, ErrorEvent, PredictRequest
from serving.http.plain_routes import add_plain_routes
from serving.http.refusals import error_response, refusal_of
from serving.http.request_watch import RequestWatch
from serving.http.service import Service

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_READ_BY_THE_ROUTES = (PredictRequest, InferRequest, AnswerEvent, EndEvent, ErrorEvent)
"""The models that FastAPI does not see, because the routes read and write bytes."""


def build_application(service: Service, tracer_provider: "TracerProvider | None" = None) -> ASGIApp:
    """The ASGI application over an engine.

    Args:
        tracer_provider: of the spans, one a request; None makes none.
    """
    app = FastAPI(
        title="Trunkline",
        version=version("trunkline"),
        docs_url=None,  # its page loads scripts from elsewhere; the document is at /openapi.json
        redoc_url=None,
        redirect_slashes=False,
        telemetry={
            "tracer_provider": tracer_provider,
            "tracing": tracer_provider is not None,
            "metrics": False,
            "logs": False,  # they would hold the messages of exceptions, and in them texts
            "operation_spans": False,
            "auto_configure": False,
        },
    )
    app.add_exception_handler(TrunklineError, _refuse)
    app.add_exception_handler(HTTPException, _refuse_path)
    app.add_exception_handler(Exception, _fail)
    add_plain_routes(app, service)
    add_open_inference_routes(app, service)
    document = _document(app)
    app.openapi = lambda: document  # type: ignore[method-assign]
    return RequestWatch(app, lifecycle=service.lifecycle, metrics=service.metrics)


async def _refuse(request: Request, error: Exception) -> Response:  # noqa: ARG001 - what starlette calls it with
    assert isinstance(error, TrunklineError)  # noqa: S101
    refusal = refusal_of(error)
    return error_response(refusal.status, str(refusal), refusal.headers)


async def _refuse_path(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    if error.status_code == 404:
        message = "there is no such route; GET /openapi.json lists them"
    else:
        message = f"{error.detail}: {request.method} is not among this route's methods"
    return error_response(error.status_code, message, error.headers)


async def _fail(request: Request, error: Exception) -> Response:  # noqa: ARG001
    return error_response(500, "the server failed; its log tells more under this answer's X-Request-Id")


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    _, found = models_json_schema(
        [(model, "validation") for model in _READ_BY_THE_ROUTES], ref_template="#/components/schemas/{model}"
    )
    document["components"]["schemas"] |= found["$defs"]
    return document
