"""The Open Inference Protocol v2: bytes to plain data and back, with its binary extension. Pure functions.

A tensor stands in the JSON, or behind it as raw bytes: there an element of BYTES is its length, as four bytes in
little-endian order, and then itself; FP32 is four bytes an element, BOOL one.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import to_json

from modeling.decoding import Answer, LabelAnswer
from registry.domain.manifests import Manifest
from registry.domain.task_specs import TaskType
from registry.errors import InvalidInput, NotFound
from serving.http.bodies import json_at_a_glance, refuse_too_many, refuse_too_many_of
from serving.http.plain_bodies import MOST_NAME
from serving.http.refusals import Refused, refusal_of_body
from serving.questions import Text

HEADER_LENGTH = "Inference-Header-Content-Length"
PROBABILITIES = ".probabilities"
TRUNCATED = "truncated"
Datatype = Literal["BYTES", "FP32", "BOOL"]
_LENGTH = struct.Struct("<I")


_Name = Annotated[str, Field(max_length=MOST_NAME)]


class _Loose(BaseModel):
    """What the protocol does not name is left to others."""

    model_config = ConfigDict(strict=True, frozen=True)


class InputTensor(_Loose):
    name: _Name
    shape: Annotated[list[int], Field(max_length=8, fail_fast=True)]
    datatype: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    data: list[Any] | None = None


class RequestedOutput(_Loose):
    name: _Name
    parameters: dict[str, Any] = Field(default_factory=dict)


class InferRequest(_Loose):
    """`parameters`: `timeout` in microseconds, and `binary_data_output`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "inputs": [
                        {
                            "name": "text",
                            "shape": [1],
                            "datatype": "BYTES",
                            "data": ["Shares in Boeing fell on Monday."],
                        }
                    ]
                }
            ]
        }
    )

    id: Annotated[str, Field(max_length=1024)] | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    inputs: Annotated[list[InputTensor], Field(max_length=16, fail_fast=True)]
    outputs: Annotated[list[RequestedOutput], Field(max_length=4096, fail_fast=True)] | None = None


class OutputTensor(_Loose):
    name: str
    datatype: Datatype
    shape: list[int]
    parameters: dict[str, Any] = Field(default_factory=dict)
    data: list[Any] | None = None


class InferResponse(_Loose):
    model_name: str
    model_version: str
    id: str | None = None
    parameters: dict[str, Any]
    outputs: list[OutputTensor]


@dataclass(frozen=True)
class Wanted:
    """One output of a request, and whether it is to follow the JSON as bytes."""

    name: str
    binary: bool


@dataclass(frozen=True)
class Inference:
    """What a request asks."""

    id: str | None
    texts: list[Text]
    outputs: list[Wanted] | None
    """None asks for all."""
    binary: bool
    """How all are to come, where none is named."""
    seconds: float | None


@dataclass(frozen=True)
class Output:
    """An output that a release has."""

    task: str | None
    """None: of the text, not of a task."""
    datatype: Datatype
    columns: int | None
    """[texts, columns], or None for [texts]."""
    parameters: dict[str, Any]


_REQUEST = TypeAdapter(InferRequest)


def outputs_of(manifest: Manifest) -> dict[str, Output]:
    """By name: for each task its answers as JSON and, if it classifies, its probabilities; and what was truncated."""
    found = {TRUNCATED: Output(None, "BOOL", None, {})}
    for task, branch in manifest.tasks.items():
        about: dict[str, Any] = {
            "version": branch.version,
            "type": branch.type.value,
            "input_form": branch.input_form.value,
        }
        if branch.labels:
            about["labels"] = list(branch.labels)
        found[task] = Output(task, "BYTES", None, about)
        if branch.type is TaskType.CLASSIFICATION:
            found[task + PROBABILITIES] = Output(task, "FP32", len(branch.labels), about)
    return found


def decode_request(body: bytes, header_length: str | None, *, most_texts: int) -> Inference:
    """Reads a request.

    Args:
        header_length: of the header `Inference-Header-Content-Length`: the JSON's bytes, where tensors follow it.

    Raises:
        Refused: 400 if the bytes or the JSON are broken, 413 if there are more texts, 422 if the JSON is no request.
        InvalidInput: it is a request for another model: names, types or shapes are not those of this one.
    """
    header, tensors = _split(body, header_length)
    _refuse_many_elements(json_at_a_glance(header), most_texts)
    try:
        request = _REQUEST.validate_json(header)
    except ValidationError as error:
        raise refusal_of_body(error) from None
    for tensor in request.inputs:
        refuse_too_many(tensor.shape[0] if tensor.shape else 0, most_texts)
    columns = _columns(request.inputs, tensors)
    binary = _flag(request.parameters, "binary_data_output", default=False)
    return Inference(
        id=request.id,
        texts=_texts(columns),
        outputs=None
        if request.outputs is None
        else [Wanted(one.name, _flag(one.parameters, "binary_data", default=binary)) for one in request.outputs],
        binary=binary,
        seconds=_seconds(request.parameters),
    )


def wanted_tasks(inference: Inference, outputs: Mapping[str, Output]) -> list[str] | None:
    """The tasks that the request's outputs belong to; None for all.

    Raises:
        NotFound: an output is none of the release's.
        InvalidInput: it names one twice, or none that belongs to a task.
    """
    if not inference.outputs:
        return None
    if len({wanted.name for wanted in inference.outputs}) < len(inference.outputs):
        raise InvalidInput("outputs", ["one is named twice"])
    if unknown := [wanted.name for wanted in inference.outputs if wanted.name not in outputs]:
        raise NotFound(f"not an output of this release: {', '.join(unknown[:5])}; its outputs: {', '.join(outputs)}")
    tasks = [task for wanted in inference.outputs if (task := outputs[wanted.name].task) is not None]
    if not tasks:
        raise InvalidInput("outputs", [f"name a task beside {TRUNCATED}"])
    return list(dict.fromkeys(tasks))


def encode_response(
    inference: Inference,
    outputs: Mapping[str, Output],
    answers: Sequence[Mapping[str, Answer]],
    truncated: Sequence[bool],
    *,
    head: Mapping[str, Any],
) -> tuple[bytes, int | None]:
    """The response's bytes, and the JSON's length where tensors follow it.

    Args:
        answers: by text and task; all texts have the same tasks.
        head: what stands before the outputs.
    """
    wanted = inference.outputs or [
        Wanted(name, inference.binary)
        for name, output in outputs.items()
        if output.task is None or output.task in answers[0]
    ]
    described, tensors = [], []
    for one in wanted:
        output = outputs[one.name]
        values = _values(output, answers, truncated)
        shape = [len(answers)] if output.columns is None else [len(answers), output.columns]
        tensor = {"name": one.name, "datatype": output.datatype, "shape": shape}
        if one.binary:
            raw = _raw(output.datatype, values)
            tensors.append(raw)
            described.append({**tensor, "parameters": _about(output) | {"binary_data_size": len(raw)}})
        else:
            data = [value.decode() for value in values] if output.datatype == "BYTES" else values
            described.append({**tensor, "parameters": _about(output), "data": data})
    own_id = {} if inference.id is None else {"id": inference.id}
    header = to_json({**head, **own_id, "outputs": described})
    return b"".join([header, *tensors]), len(header) if tensors else None


def _refuse_many_elements(request: Any, most: int) -> None:
    """Before anything is made of what stands in the JSON."""
    inputs = request.get("inputs") if isinstance(request, dict) else None
    for tensor in inputs[:16] if isinstance(inputs, list) else ():
        if isinstance(tensor, dict):
            refuse_too_many_of(tensor.get("data"), most)


def _about(output: Output) -> dict[str, Any]:
    """What changes from one release to the next; the rest is in the model's metadata."""
    return {"version": output.parameters["version"]} if output.task is not None else {}


def _split(body: bytes, header_length: str | None) -> tuple[bytes, bytes | None]:
    if header_length is None:
        return body, None
    if not header_length.isascii() or not header_length.isdigit():
        raise Refused(400, f"{HEADER_LENGTH}: must be a number of bytes")
    length = int(header_length[:20])
    if length > len(body):
        raise Refused(400, f"{HEADER_LENGTH}: is {length:,}, and the whole body has {len(body):,} bytes")
    return body[:length], body[length:]


def _columns(inputs: Sequence[InputTensor], tensors: bytes | None) -> dict[str, list[str]]:
    problems: list[str] = []
    found: dict[str, list[str]] = {}
    position = 0
    for tensor in inputs:
        size = tensor.parameters.get("binary_data_size")
        raw = None
        if size is not None:
            raw = _slice(tensor, size, tensors, position)
            position += len(raw)
        if tensor.name in found:
            problems.append(f"{tensor.name}: is there twice")
        elif problem := _problem(tensor):
            problems.append(f"{tensor.name}: {problem}")
        else:
            found[tensor.name] = _from_json(tensor) if raw is None else _from_raw(tensor, raw)
    if tensors is not None and position != len(tensors):
        raise Refused(400, f"{len(tensors) - position:,} bytes at the body's end belong to no input")
    if problems or "text" not in found:
        raise InvalidInput("inputs", problems or ["text: is missing"])
    return found


def _slice(tensor: InputTensor, size: Any, tensors: bytes | None, position: int) -> bytes:
    if tensors is None:
        raise Refused(400, f"input {tensor.name} is binary, and the header {HEADER_LENGTH} is missing")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise Refused(422, f"input {tensor.name}: binary_data_size must be a number of bytes")
    if position + size > len(tensors):
        raise Refused(400, f"input {tensor.name}: the body ends before its {size:,} bytes do")
    return tensors[position : position + size]


def _problem(tensor: InputTensor) -> str:
    if tensor.name not in ("text", "text_pair"):
        return "is no input; the inputs are text and text_pair"
    if tensor.datatype != "BYTES":
        return f"must be BYTES, not {tensor.datatype[:20]}"
    shape = tensor.shape
    if len(shape) not in (1, 2) or shape[0] < 1 or (len(shape) == 2 and shape[1] != 1):
        return "its shape must be [n] or [n, 1], with n at least 1"
    return ""


def _from_json(tensor: InputTensor) -> list[str]:
    if tensor.data is None:
        raise InvalidInput("inputs", [f"{tensor.name}: has no data"])
    values = [one[0] if isinstance(one, list) and len(one) == 1 else one for one in tensor.data]
    if not all(isinstance(value, str) for value in values):
        raise InvalidInput("inputs", [f"{tensor.name}: every element of its data must be a string"])
    return _of_length(tensor, values)


def _from_raw(tensor: InputTensor, raw: bytes) -> list[str]:
    values: list[str] = []
    position = 0
    while position < len(raw) and len(values) <= tensor.shape[0]:
        if position + _LENGTH.size > len(raw):
            raise Refused(400, f"input {tensor.name}: its bytes end within the length of element {len(values)}")
        (length,) = _LENGTH.unpack_from(raw, position)
        position += _LENGTH.size
        if position + length > len(raw):
            raise Refused(400, f"input {tensor.name}: its bytes end within element {len(values)}")
        try:
            values.append(raw[position : position + length].decode())
        except UnicodeDecodeError:
            raise Refused(400, f"input {tensor.name}: element {len(values)} is not UTF-8") from None
        position += length
    return _of_length(tensor, values)


def _of_length(tensor: InputTensor, values: list[str]) -> list[str]:
    if len(values) != tensor.shape[0]:
        count = "more" if len(values) > tensor.shape[0] else "fewer"
        raise InvalidInput("inputs", [f"{tensor.name}: has {count} elements than its shape {tensor.shape}"])
    return values


def _texts(columns: Mapping[str, list[str]]) -> list[Text]:
    texts, pairs = columns["text"], columns.get("text_pair")
    if pairs is None:
        return [Text(text) for text in texts]
    if len(pairs) != len(texts):
        raise InvalidInput("inputs", [f"text has {len(texts):,} elements and text_pair {len(pairs):,}"])
    return [Text(text, pair) for text, pair in zip(texts, pairs, strict=True)]


def _flag(parameters: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise Refused(422, f"parameters.{name}: must be true or false")
    return value


def _seconds(parameters: Mapping[str, Any]) -> float | None:
    microseconds = parameters.get("timeout")
    if microseconds is None:
        return None
    if not isinstance(microseconds, int) or isinstance(microseconds, bool) or not 0 < microseconds < 1e15:
        raise Refused(422, "parameters.timeout: must be a whole number of microseconds above 0")
    return microseconds / 1e6


def _values(output: Output, answers: Sequence[Mapping[str, Answer]], truncated: Sequence[bool]) -> list[Any]:
    if output.task is None:
        return list(truncated)
    if output.datatype == "BYTES":
        return [to_json(of_text[output.task]) for of_text in answers]
    return [
        probability
        for of_text in answers
        if isinstance(answer := of_text[output.task], LabelAnswer)
        for probability in answer.probabilities.values()
    ]


def _raw(datatype: Datatype, values: Sequence[Any]) -> bytes:
    match datatype:
        case "BYTES":
            return b"".join(_LENGTH.pack(len(value)) + value for value in values)
        case "FP32":
            return struct.pack(f"<{len(values)}f", *values)
        case "BOOL":
            return bytes(values)
