"""A segment of cached rows: one immutable, memory-mapped safetensors file, named by its own sha256.

    header     1,024 bytes with its length; `__metadata__` says what decides the values, and the index's sha256
    digests    U8 [rows, 32]: of what each row was computed from
    offsets    I64 [rows + 1]
    values     F32 or BF16 [total length, width]: the rows one behind the other

Digests and offsets are the index: it is compared with its sha256 whenever a segment is opened, the whole file with its
name when rows of it are used. The mapping holds a shared lock on the file (flock) for as long as a tensor over it
lives; whoever makes room takes the lock alone, so that nothing is dropped that somebody reads.
"""

import fcntl
import hashlib
import json
import mmap
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.training.cache_room import cannot_write
from registry.domain.plain_data import json_digest
from registry.fault_points import reached

HEADER_BYTES = 1024
"""All headers are padded to this, so that a segment's size follows from its rows alone."""

_DIGEST_BYTES = 32
_DTYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16"}

Digests = NDArray[np.uint8]
"""[rows, 32]."""


class SegmentDamaged(Exception):
    """Not the bytes that were written."""


@dataclass(frozen=True, eq=False)
class RowGroup:
    """Rows that may share segments: equal in all that decides their values, their own input aside."""

    kind: str
    """The folder of the groups of its kind."""
    fields: Mapping[str, str]
    """Everything that decides the values beside a row's input; the group's folder is named by their digest."""
    width: int
    dtype: torch.dtype

    @cached_property
    def path(self) -> Path:
        return Path(self.kind, json_digest(dict(self.fields)))


def digest_rows(hexadecimal: Sequence[str]) -> Digests:
    """Digests as the index holds them."""
    return np.frombuffer(bytes.fromhex("".join(hexadecimal)), np.uint8).reshape(-1, _DIGEST_BYTES)


def segment_bytes(*, rows: int, total: int, width: int, dtype: torch.dtype) -> int:
    """The size of a segment of so many rows, `total` long together."""
    return HEADER_BYTES + rows * _DIGEST_BYTES + (rows + 1) * 8 + total * width * dtype.itemsize


def _header(group: RowGroup, *, rows: int, total: int, index: str) -> bytes:
    ends = [rows * _DIGEST_BYTES, rows * _DIGEST_BYTES + (rows + 1) * 8]
    ends.append(ends[-1] + total * group.width * group.dtype.itemsize)
    entries = {
        "__metadata__": {**group.fields, "index_sha256": index},
        "digests": {"dtype": "U8", "shape": [rows, _DIGEST_BYTES], "data_offsets": [0, ends[0]]},
        "offsets": {"dtype": "I64", "shape": [rows + 1], "data_offsets": ends[:2]},
        "values": {"dtype": _DTYPE_NAMES[group.dtype], "shape": [total, group.width], "data_offsets": ends[1:]},
    }
    text = json.dumps(entries).encode().ljust(HEADER_BYTES - 8)
    return len(text).to_bytes(8, "little") + text


class Segment:
    """A segment, open and locked against being dropped.

    Raises:
        FileNotFoundError: it is gone.
        SegmentDamaged: its header or its index is not what was written.
        OSError: it cannot be read.
    """

    def __init__(self, path: Path, group: RowGroup) -> None:
        self.path = path
        descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if not os.fstat(descriptor).st_nlink:
                raise FileNotFoundError(path)
            # The mapping keeps the open file, and with it the lock. For reading alone: pages that might be written to
            # have to fit into memory and swap together, however large the data.
            self._content = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise SegmentDamaged("it is empty") from None
        finally:
            os.close(descriptor)
        self._group = group
        self.digests, self.offsets = self._index()

    def _index(self) -> tuple[Digests, NDArray[np.int64]]:
        content, group = self._content, self._group
        try:
            header = json.loads(content[8:HEADER_BYTES])
            rows, (total, _) = header["digests"]["shape"][0], header["values"]["shape"]
            index = content[HEADER_BYTES : HEADER_BYTES + rows * _DIGEST_BYTES + (rows + 1) * 8]
            expected = _header(group, rows=rows, total=total, index=hashlib.sha256(index).hexdigest())
        except (ValueError, TypeError, KeyError, IndexError):
            raise SegmentDamaged("its header cannot be read") from None
        size = segment_bytes(rows=rows, total=total, width=group.width, dtype=group.dtype)
        if content[:HEADER_BYTES] != expected or len(content) != size:
            raise SegmentDamaged("its header, index or size is not what was written")
        digests = np.frombuffer(index, np.uint8, rows * _DIGEST_BYTES).reshape(rows, _DIGEST_BYTES)
        return digests, np.frombuffer(index, np.int64, rows + 1, rows * _DIGEST_BYTES)

    def __len__(self) -> int:
        return len(self.digests)

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self._content)

    def find(self, wanted: Digests) -> NDArray[np.int64]:
        """For each wanted digest the number of its row here, or -1."""
        if not len(self) or not len(wanted):
            return np.full(len(wanted), -1)
        # By the first 8 bytes, then compared whole.
        here, there = _first_bytes(self.digests), _first_bytes(wanted)
        order = np.argsort(here)
        places = order[np.minimum(np.searchsorted(here[order], there), len(here) - 1)]
        return np.where((self.digests[places] == wanted).all(axis=1), places, -1)

    def is_whole(self) -> bool:
        """Reads the whole file."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == self.path.stem

    @cached_property
    def values(self) -> Tensor:
        """[total length, width], mapped; whoever writes to it is killed by a signal."""
        total, width, dtype = int(self.offsets[-1]), self._group.width, self._group.dtype
        if not total:
            return torch.empty(0, width, dtype=dtype)
        begin = len(self._content) - total * width * dtype.itemsize
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given buffer is not writable")
            values = torch.frombuffer(self._content, dtype=dtype, count=total * width, offset=begin)
        return values.reshape(total, width)


def _first_bytes(digests: Digests) -> NDArray[np.uint64]:
    return np.ascontiguousarray(digests[:, :8]).view(np.uint64)[:, 0]


class SegmentWriter:
    """Writes a segment's rows in any order into a file that has its size already, then gives it its name.

    Args:
        descriptor: of the file, open for reading and writing, with an exclusive lock.
        path: the file's name until it is whole, in the group's folder.
        lengths: of the rows, in the order of their digests.
    Raises:
        StorageError: the disk is full, or the file cannot be written.
    """

    def __init__(
        self, descriptor: int, path: Path, *, group: RowGroup, digests: Digests, lengths: Sequence[int]
    ) -> None:
        self._descriptor = descriptor
        self._path = path
        self._row_bytes = group.width * group.dtype.itemsize
        self._dtype = group.dtype
        self._offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        index = np.ascontiguousarray(digests).tobytes() + self._offsets.tobytes()
        header = _header(
            group, rows=len(lengths), total=int(self._offsets[-1]), index=hashlib.sha256(index).hexdigest()
        )
        self._values_begin = len(header) + len(index)
        self._missing = len(lengths)
        self._write(memoryview(header + index), 0)

    def write(self, places: Sequence[int], values: Sequence[Tensor]) -> None:
        """Some rows: their numbers in this segment and their values [length, width]. Each row once."""
        for place, value in zip(places, values, strict=True):
            begin, end = self._offsets[place : place + 2].tolist()
            if len(value) != end - begin:
                raise ValueError(f"row {place} of {self._path} has length {len(value)}, not {end - begin}")
            data = value.to(self._dtype).contiguous().reshape(-1).view(torch.uint8).numpy()
            self._write(data.data, self._values_begin + begin * self._row_bytes)
        self._missing -= len(places)

    def finish(self) -> Path:
        """Makes it durable and gives it its name; from then on its lock is shared."""
        if self._missing:
            raise ValueError(f"{self._missing} rows of {self._path} were not written")
        try:
            os.fsync(self._descriptor)
            reached("cache.rows-written")
            with self._path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            named = self._path.with_name(f"{digest}.safetensors")
            self._path.replace(named)
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)
        except OSError as error:
            raise cannot_write(self._path.parent, error) from error
        reached("cache.rows-named")
        return named

    def _write(self, data: memoryview, position: int) -> None:
        # pwrite and not a writable mapping: a full disk is then an error here, and not a SIGBUS.
        try:
            while data:
                written = os.pwrite(self._descriptor, data, position)
                data, position = data[written:], position + written
        except OSError as error:
            raise cannot_write(self._path.parent, error) from error
