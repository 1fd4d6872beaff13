"""Tensors of unequal length, one a row, packed without padding in one memory-mapped safetensors file.

The file holds `offsets` (int64, rows + 1) and `values` (total length, width). A sidecar beside it holds the key's
fields and the file's sha256. The file appears under its name only when it is whole.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import filelock
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from registry.domain.plain_data import canonical_json
from registry.errors import StorageError
from registry.fault_points import reached

logger = logging.getLogger(__name__)

_DTYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16"}

FilledRows = Iterable[tuple[Sequence[int], Sequence[Tensor]]]
"""Row numbers and their values [length, width], in any order, every row once."""


class RowTensors(Protocol):
    """One tensor [length(row), width] a row, wherever it comes from."""

    def rows(self, numbers: Sequence[int]) -> list[Tensor]:
        """Those of some rows, in this order."""
        ...


class PackedRows:
    """Rows of shape [length(row), width], read on demand."""

    def __init__(self, values: Tensor, offsets: Sequence[int]) -> None:
        self.values = values
        self.offsets = offsets

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, number: int) -> Tensor:
        return self.values[self.offsets[number] : self.offsets[number + 1]]

    def rows(self, numbers: Sequence[int]) -> list[Tensor]:
        return [self.row(number) for number in numbers]


def key_digest(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(dict(fields))).hexdigest()


def load_or_pack(
    folder: Path,
    fields: Mapping[str, Any],
    *,
    lengths: Sequence[int],
    width: int,
    dtype: torch.dtype,
    fill: Callable[[], FilledRows],
) -> PackedRows:
    """The packed rows under a key: from disk when they are there and whole, else computed by `fill` and kept.

    Args:
        fields: everything that decides the values; the key is its digest.
        lengths: the length of every row.
    Raises:
        StorageError: the file cannot be written.
    """
    path = folder / f"{key_digest(fields)}.safetensors"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Two processes that want the same rows: the second waits and reads what the first computed.
        with filelock.FileLock(path.with_suffix(".lock")):
            if path.exists() and not _is_whole(path):
                logger.warning("%s is damaged: computing it again", path)
                path.unlink()
            if not path.exists():
                _pack(path, fields, lengths=lengths, width=width, dtype=dtype, rows=fill())
    except OSError as error:
        raise StorageError(f"cannot write the cache {path}: {error.strerror}; free some space and run again") from error
    with safe_open(path, framework="pt") as file:
        return PackedRows(file.get_tensor("values"), file.get_tensor("offsets").tolist())


def _sidecar(path: Path) -> Path:
    return path.with_suffix(".json")


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_whole(path: Path) -> bool:
    try:
        expected = json.loads(_sidecar(path).read_bytes())["sha256"]
        with safe_open(path, framework="pt"):
            return bool(_file_digest(path) == expected)
    except (OSError, ValueError, KeyError, SafetensorError):
        return False


def _header(offsets: Tensor, total: int, width: int, dtype: torch.dtype) -> tuple[bytes, int]:
    """The safetensors header (with its length field), and the number of bytes that follow it."""
    begin = offsets.numel() * offsets.element_size()
    end = begin + total * width * dtype.itemsize
    entries = {
        "offsets": {"dtype": "I64", "shape": [offsets.numel()], "data_offsets": [0, begin]},
        "values": {"dtype": _DTYPE_NAMES[dtype], "shape": [total, width], "data_offsets": [begin, end]},
    }
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, end


def _raw(tensor: Tensor) -> memoryview:
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())


def _pack(
    path: Path,
    fields: Mapping[str, Any],
    *,
    lengths: Sequence[int],
    width: int,
    dtype: torch.dtype,
    rows: FilledRows,
) -> None:
    offsets = torch.zeros(len(lengths) + 1, dtype=torch.int64)
    torch.cumsum(torch.tensor(lengths, dtype=torch.int64), 0, out=offsets[1:])
    header, size = _header(offsets, int(offsets[-1]), width, dtype)
    values_begin = len(header) + offsets.numel() * offsets.element_size()
    starts: list[int] = offsets.tolist()
    # Of this name, so that the next one takes the place of what a killed one has left.
    temporary = path.with_name(f".packing-{path.name}")
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        # pwrite and not a writable mapping: a full disk is then an error here, and not a SIGBUS.
        os.truncate(descriptor, len(header) + size)
        _write_all(descriptor, memoryview(header), 0)
        _write_all(descriptor, _raw(offsets), len(header))
        for numbers, values in rows:
            for number, value in zip(numbers, values, strict=True):
                _write_all(descriptor, _raw(value.to(dtype)), values_begin + starts[number] * width * dtype.itemsize)
        os.fsync(descriptor)
        reached("cache.rows-written")
        digest = _file_digest(temporary)
        sidecar = Path(f"{temporary}.json")
        sidecar.write_text(json.dumps({"sha256": digest, "key": dict(fields)}, indent=1, sort_keys=True))
        sidecar.replace(_sidecar(path))
        reached("cache.digest-named")
        temporary.replace(path)
        reached("cache.rows-named")
    finally:
        os.close(descriptor)
        temporary.unlink(missing_ok=True)
        Path(f"{temporary}.json").unlink(missing_ok=True)


def _write_all(descriptor: int, data: memoryview, position: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, position)
        data, position = data[written:], position + written
