"""The routes of the Open Inference Protocol v2: `/v2/…`. One model, whose one version is the release's name."""

from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from registry.errors import NotFound
from serving.http.asking import all_answers, ask
from serving.http.bodies import read_body
from serving.http.open_inference import (
    HEADER_LENGTH,
    InferRequest,
    InferResponse,
    Output,
    decode_request,
    encode_response,
    outputs_of,
    wanted_tasks,
)
from serving.http.plain_bodies import Problem
from serving.http.plain_routes import body_of, following, refusals
from serving.http.refusals import JSON
from serving.http.service import Service
from serving.served_release import ServedRelease

_OBJECT: dict[int | str, dict[str, Any]] = {200: {"content": {JSON: {"schema": {"type": "object"}}}}}
_WITH_TENSORS = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_HEADER_LENGTH_PARAMETER = {
    "name": HEADER_LENGTH,
    "in": "header",
    "description": "Of a body with binary tensors: how many of its bytes are the JSON before them.",
    "schema": {"type": "integer", "minimum": 0},
}
_NOT_READY: dict[int | str, dict[str, Any]] = {503: {"description": "The server is stopping.", "model": Problem}}


def add_open_inference_routes(app: FastAPI, service: Service) -> None:
    _add_server_routes(app, service)
    for end in ("", "/versions/{version}"):
        _add_model_routes(app, service, f"/v2/models/{{name}}{end}")


def _add_server_routes(app: FastAPI, service: Service) -> None:
    @app.get("/v2", summary="The server and what it can do", response_class=Response, responses=_OBJECT)
    async def server(request: Request) -> Response:  # noqa: ARG001 - the one form that needs no validation
        return _json({"name": "trunkline", "version": version("trunkline"), "extensions": ["binary_tensor_data"]})

    @app.get("/v2/health/live", summary="Whether it runs", response_class=Response, responses=_OBJECT)
    async def live(request: Request) -> Response:  # noqa: ARG001
        return _json({"live": True})

    @app.get(
        "/v2/health/ready",
        summary="Whether it takes requests",
        response_class=Response,
        responses={**_OBJECT, **_NOT_READY},
    )
    async def ready(request: Request) -> Response:  # noqa: ARG001
        return _readiness(service)


def _add_model_routes(app: FastAPI, service: Service, path: str) -> None:
    parameters = [_path_parameter("name", service.model_name)]
    if path.endswith("{version}"):
        parameters.append(_path_parameter("version", service.engine.release.name))

    @app.get(
        path,
        summary="The model's inputs and outputs",
        response_class=Response,
        responses={**_OBJECT, **refusals(404, 503)},
        openapi_extra={"parameters": parameters},
    )
    async def metadata(request: Request) -> Response:
        return _json(_metadata(service, _named_release(service, request)))

    @app.get(
        f"{path}/ready",
        summary="Whether the model takes requests",
        response_class=Response,
        responses={**_OBJECT, **refusals(404), **_NOT_READY},
        openapi_extra={"parameters": parameters},
    )
    async def model_ready(request: Request) -> Response:
        _named_release(service, request)
        return _readiness(service)

    infer_body = body_of(InferRequest.__name__)
    infer_body["parameters"] = [*parameters, *infer_body["parameters"], _HEADER_LENGTH_PARAMETER]
    infer_body["requestBody"]["content"] |= _WITH_TENSORS

    @app.post(
        f"{path}/infer",
        summary="Answer texts, as tensors",
        response_class=Response,
        responses={200: {"model": InferResponse, "content": _WITH_TENSORS}, **refusals()},
        openapi_extra=infer_body,
    )
    async def infer(request: Request) -> Response:
        outputs = outputs_of((release := _named_release(service, request)).manifest)
        inference = decode_request(
            await read_body(request, service),
            request.headers.get(HEADER_LENGTH),
            most_texts=service.limits.texts,
        )
        tasks = wanted_tasks(inference, outputs)
        async with ask(service, request, inference.texts, tasks, seconds=inference.seconds) as replies:
            asked = replies.asked
            if asked.release is not release:  # it was swapped meanwhile
                _check_version(request, asked.release)
                outputs = outputs_of(asked.release.manifest)
                wanted_tasks(inference, outputs)
            answers = await all_answers(replies)
        head = {
            "model_name": service.model_name,
            "model_version": asked.release.name,
            "parameters": {"digest": asked.release.digest, "truncated_texts": sum(asked.truncated)},
        }
        body, header_length = encode_response(inference, outputs, answers, asked.truncated, head=head)
        if header_length is None:
            return Response(body, media_type=JSON)
        return Response(body, media_type="application/octet-stream", headers={HEADER_LENGTH: str(header_length)})


def _named_release(service: Service, request: Request) -> ServedRelease:
    name = request.path_params["name"]
    if name != service.model_name:
        raise NotFound(f"there is no model {name[:80]}; this server serves {service.model_name}")
    release = service.engine.release
    _check_version(request, release)
    return release


def _check_version(request: Request, release: ServedRelease) -> None:
    asked = request.path_params.get("version")
    if asked is not None and asked != release.name:
        raise NotFound(f"version {asked[:80]} is not served; this server serves {release.name} alone")


def _readiness(service: Service) -> Response:
    problem = None
    if service.lifecycle.draining:
        problem = "the server is stopping"
    elif not service.engine.working:
        problem = "a thread that computes has ended; the server's log tells why: start it anew"
    found = {
        "ready": problem is None,
        "release": service.engine.release.name,
        "following": following(service.follower),
    }
    if problem is not None:
        return _json({**found, "error": problem}, status=503)
    return _json(found)


def _metadata(service: Service, release: ServedRelease) -> dict[str, Any]:
    return {
        "name": service.model_name,
        "versions": [release.name],
        "platform": "trunkline",
        "inputs": [
            {"name": "text", "datatype": "BYTES", "shape": [-1]},
            {"name": "text_pair", "datatype": "BYTES", "shape": [-1], "parameters": {"optional": True}},
        ],
        "outputs": [_described(name, output) for name, output in outputs_of(release.manifest).items()],
        "parameters": {
            "digest": release.digest,
            "precision": release.precision,
            "max_length": release.manifest.trunk.max_length,
            "following": following(service.follower),
        },
    }


def _described(name: str, output: Output) -> dict[str, Any]:
    shape = [-1] if output.columns is None else [-1, output.columns]
    return {"name": name, "datatype": output.datatype, "shape": shape, "parameters": output.parameters}


def _json(value: dict[str, Any], status: int = 200) -> Response:
    return Response(to_json(value), status, media_type=JSON)


def _path_parameter(name: str, example: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}, "example": example}
