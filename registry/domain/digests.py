"""The byte layout behind every digest of a backbone. `docs/digests.md` says the same in prose.

    text(s)       = u64le(number of UTF-8 bytes) + the bytes
    tensors(T)    = sha256("trunkline tensors 1\\n" + entry(t) for t in T, sorted by the UTF-8 bytes of the name)
    entry(t)      = text(name) + text(dtype) + u64le(number of dimensions) + u64le(each)
                    + u64le(number of bytes) + bytes
    P(0)          = sha256("trunkline prefix 1\\n" + canonical JSON of the root: see `prefix_root`)
    P(d)          = sha256(P(d-1) as 32 bytes + tensors(layer d) as 32 bytes)

dtype is spelt as in the safetensors header (`F32`, `BF16`, …); names are relative to the layer.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from registry.domain.plain_data import canonical_json, json_digest


class TensorBytes(NamedTuple):
    """One tensor as it lies in a safetensors file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes | memoryview


def _u64(number: int) -> bytes:
    return number.to_bytes(8, "little")


def _text(value: str) -> bytes:
    encoded = value.encode()
    return _u64(len(encoded)) + encoded


def tensors_digest(tensors: Iterable[TensorBytes]) -> str:
    """Digest of a set of tensors (64 hexadecimal digits), whatever their order."""
    digest = hashlib.sha256(b"trunkline tensors 1\n")
    for tensor in sorted(tensors, key=lambda t: t.name.encode()):
        digest.update(_text(tensor.name) + _text(tensor.dtype) + _u64(len(tensor.shape)))
        digest.update(b"".join(map(_u64, tensor.shape)) + _u64(len(tensor.data)))
        digest.update(tensor.data)
    return digest.hexdigest()


def tokenizer_digest(tokenizer_json: bytes) -> str:
    """Digest of a `tokenizer.json` without its padding and truncation: those are a caller's state."""
    content = json.loads(tokenizer_json)
    content.pop("padding", None)
    content.pop("truncation", None)
    return json_digest(content)


def prefix_root(
    *, model_type: str, config: Mapping[str, Any], max_length: int, embeddings: str, tokenizer: str
) -> dict[str, Any]:
    """What P(0) covers. `config` holds the family's function fields only; `embeddings` and `tokenizer` are digests.

    `max_length` is in it because another truncation is another input to the first layer.
    """
    return {
        "config": dict(config),
        "embeddings": embeddings,
        "max_length": max_length,
        "model_type": model_type,
        "tokenizer": tokenizer,
    }


def prefix_digests(root: Mapping[str, Any], layers: Sequence[str]) -> tuple[str, ...]:
    """P(0)..P(N) from the root and the N layers' digests."""
    chain = [hashlib.sha256(b"trunkline prefix 1\n" + canonical_json(dict(root))).hexdigest()]
    for layer in layers:
        chain.append(hashlib.sha256(bytes.fromhex(chain[-1]) + bytes.fromhex(layer)).hexdigest())
    return tuple(chain)


def first_difference(
    ours: Mapping[str, Any],
    our_layers: Sequence[str],
    theirs: Mapping[str, Any],
    their_layers: Sequence[str],
    depth: int,
) -> str | None:
    """Names the first field or layer up to `depth` in which two backbones differ, or None when P(depth) is equal."""
    for field in ("model_type", "max_length", "tokenizer", "embeddings"):
        if ours[field] != theirs[field]:
            shown = f" ({ours[field]} against {theirs[field]})" if field in ("model_type", "max_length") else ""
            return f"{field}{shown}"
    for field in sorted(ours["config"].keys() | theirs["config"].keys()):
        left, right = ours["config"].get(field), theirs["config"].get(field)
        if left != right:
            return f"config field {field} ({left!r} against {right!r})"
    for number in range(1, depth + 1):
        left = our_layers[number - 1] if number <= len(our_layers) else None
        right = their_layers[number - 1] if number <= len(their_layers) else None
        if left != right:
            return f"layer {number}" + (" (missing in one of them)" if None in (left, right) else "")
    return None
