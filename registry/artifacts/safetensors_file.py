"""Reading and writing safetensors as bytes: no torch, no numpy (which lacks bf16).

    u64le(header length) + header (JSON) + data
    header: {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, …, "__metadata__": {…}}

Offsets are relative to the data; the tensors cover it without gaps or overlaps.
(https://huggingface.co/docs/safetensors)
"""

import json
import math
import mmap
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, NamedTuple, Self

from registry.domain.digests import TensorBytes
from registry.errors import InvalidWeights

ITEM_BYTES: Mapping[str, int] = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
}
"""Bytes of one item, by the dtype's name in a header."""

_LENGTH_BYTES = 8
_LARGEST_HEADER_BYTES = 100_000_000  # the library's own limit: a longer one is garbage, not a header
_ALIGNMENT_BYTES = 8

_FOREIGN_STARTS = (
    (b"PK\x03\x04", "is a zip archive, most likely a pickled checkpoint"),
    (b"\x80\x02", "is a pickled checkpoint"),
    (b"\x80\x03", "is a pickled checkpoint"),
    (b"\x80\x04", "is a pickled checkpoint"),
    (b"\x80\x05", "is a pickled checkpoint"),
    (b"\x89HDF", "is an HDF5 file"),
    (b"GGUF", "is a GGUF file"),
)
_CONVERT = (
    "; Trunkline reads only safetensors: load it where you trust it and save it again with "
    "safetensors.torch.save_file or transformers' save_pretrained"
)
_LFS_START = b"version https://git-lfs"


class TensorEntry(NamedTuple):
    """Where a tensor lies: `begin` and `end` are byte offsets in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class SafetensorsFile:
    """A memory-mapped safetensors file whose header has been checked against every byte of its length.

    Raises:
        InvalidWeights: it cannot be read, or is not exactly one well-formed safetensors file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                if size < _LENGTH_BYTES:
                    raise InvalidWeights(f"{path}: is not a safetensors file: it has only {size} bytes")
                self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise InvalidWeights(f"{path}: cannot be read: {error.strerror}") from error
        try:
            self.entries: Mapping[str, TensorEntry]
            self.metadata: Mapping[str, str]
            self.entries, self.metadata = _parse(self._mapped)
        except ValueError as error:
            reason = _foreign(self._mapped[:32]) or f"is not a whole safetensors file: {error}; copy it again"
            self._mapped.close()
            raise InvalidWeights(f"{path}: {reason}") from None
        self._view = memoryview(self._mapped)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._view.release()
        # A tensor handed out and still in use keeps the mapping alive: then it goes when the tensor goes.
        with suppress(BufferError):
            self._mapped.close()

    def tensor(self, name: str) -> TensorBytes:
        """The tensor, its data a view into the file.

        Raises:
            InvalidWeights: there is no such tensor.
        """
        entry = self.entries.get(name)
        if entry is None:
            raise InvalidWeights(f"{self._path}: has no tensor {name}")
        return TensorBytes(name, entry.dtype, entry.shape, self._view[entry.begin : entry.end])


def safetensors_bytes(tensors: Iterable[TensorBytes]) -> bytes:
    """One safetensors file as bytes; the same tensors give the same bytes, whatever their order.

    Raises:
        ValueError: two tensors have one name, or a tensor's bytes do not fit its dtype and shape.
    """
    return b"".join(safetensors_chunks(tensors))


def safetensors_chunks(
    tensors: Iterable[TensorBytes], metadata: Mapping[str, str] = MappingProxyType({})
) -> Iterator[bytes | memoryview]:
    """The same, a part at a time, so that tensors which lie in other files need not be held in memory.

    Args:
        metadata: what the header says beside the tensors.

    Written here because the library's own `serialize` takes addresses of memory, not bytes: a wrong one would be
    read without complaint.

    Raises:
        ValueError: two tensors have one name, or a tensor's bytes do not fit its dtype and shape.
    """
    # Widest items first, so that every tensor is aligned to its own item; then by name.
    ordered = sorted(tensors, key=lambda t: (-ITEM_BYTES[t.dtype], t.name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for tensor in ordered:
        if tensor.name in header:
            raise ValueError(f"two tensors are named {tensor.name}")
        if len(tensor.data) != math.prod(tensor.shape) * ITEM_BYTES[tensor.dtype]:
            raise ValueError(f"{tensor.name}: {len(tensor.data)} bytes are not {tensor.dtype} {list(tensor.shape)}")
        end = offset + len(tensor.data)
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT_BYTES)
    yield len(text).to_bytes(_LENGTH_BYTES, "little")
    yield text
    yield from (tensor.data for tensor in ordered)


def _parse(mapped: mmap.mmap) -> tuple[Mapping[str, TensorEntry], Mapping[str, str]]:
    """The header's tensors and what it says beside them; raises ValueError saying what is wrong with it."""
    length = int.from_bytes(mapped[:_LENGTH_BYTES], "little")
    start = _LENGTH_BYTES + length
    if length > _LARGEST_HEADER_BYTES or start > len(mapped):
        raise ValueError(f"its header claims {length} bytes of {len(mapped)}")
    header = _header(mapped[_LENGTH_BYTES:start])
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its __metadata__ are not texts by name")
    entries = {name: _entry(name, value, start) for name, value in header.items()}
    position = start
    for entry in sorted(entries.values(), key=lambda e: (e.begin, e.end)):
        if entry.begin != position:
            raise ValueError(f"tensor {entry.name} begins at byte {entry.begin}, expected {position}")
        position = entry.end
    if position != len(mapped):
        raise ValueError(f"its tensors end at byte {position}, the file at {len(mapped)}")
    return MappingProxyType(entries), MappingProxyType(metadata)


def _header(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text.decode(), object_pairs_hook=_without_repeats)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise ValueError("its header is not JSON") from None
    if not isinstance(header, dict):
        raise ValueError("its header is not a JSON object")
    return header


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("its header names a tensor twice")
    return content


def _entry(name: str, value: Any, start: int) -> TensorEntry:
    match value:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [begin, end]} if len(value) == 3:
            pass
        case _:
            raise ValueError(f"tensor {name} is not described by dtype, shape and data_offsets")
    if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
        raise ValueError(f"tensor {name} has a shape or offsets that are not whole numbers")
    if dtype not in ITEM_BYTES:
        raise ValueError(f"tensor {name} has the unknown dtype {dtype}")
    if end - begin != math.prod(shape) * ITEM_BYTES[dtype]:
        raise ValueError(f"tensor {name} has {end - begin} bytes, which is not {dtype} {shape}")
    return TensorEntry(name, dtype, tuple(shape), start + begin, start + end)


def _foreign(start: bytes) -> str | None:
    """What a file that is no safetensors file is instead, when its first bytes tell.

    Asked only after the header was refused: a header of 640 bytes begins like a pickle.
    """
    if start.startswith(_LFS_START):
        return "is a Git LFS pointer, not the weights themselves: run `git lfs pull` in its repository"
    for magic, what in _FOREIGN_STARTS:
        if start.startswith(magic):
            return what + _CONVERT
    return None
