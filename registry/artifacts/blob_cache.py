"""Local copies of the blobs of a remote store, up to a size: what was used longest ago goes first.

<folder>/sha256/ab/cdef…    copies, read-only, complete from the moment they have this name
<folder>/incoming/…         copies being written; those that a killed process left go after an hour

A copy says nothing about the store: it is compared with its digest at each use, and dropped when it is damaged.
"""

import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from registry.artifacts.atomic_file import write_blob
from registry.artifacts.store import blob_key
from registry.errors import StorageError
from registry.fault_points import reached

_IN_USE_SECONDS = 120.0
"""How long after its path was handed out a copy is left alone, because it may not have been opened yet."""

_ABANDONED_SECONDS = 3600.0
"""After so long without a write, a copy that is not complete belongs to nobody."""


class _Copy(NamedTuple):
    used: float
    """Seconds since 1970, by the clock of the file system."""
    size: int
    path: Path


class BlobCache:
    """A folder, made by the first copy, that any number of processes may use at once.

    It stays below `limit` bytes, but never drops what was used in the last two minutes: it is larger while more than
    the limit is in use. A copy that was opened stays readable when it is dropped.
    """

    def __init__(self, folder: Path, *, limit: int) -> None:
        self._folder = folder
        self._limit = limit

    def find(self, digest: str) -> Path | None:
        """A whole copy, from now on used; None when there is none.

        Raises:
            StorageError: there is one that cannot be read.
        """
        path = self._folder / blob_key(digest)
        with self._using("read"):
            try:
                with path.open("rb") as file:
                    with suppress(OSError):  # a folder that can only be read serves its copies all the same
                        os.utime(path)
                    found = hashlib.file_digest(file, "sha256").hexdigest()
            except FileNotFoundError:
                return None
            # Whoever makes room may have looked at it just before it was used.
            return path if found == digest and path.exists() else None

    def add(self, digest: str, chunks: Iterable[bytes]) -> Path | None:
        """Keeps a copy of these bytes; None, and nothing kept, when they do not have this digest.

        Raises:
            StorageError: the folder cannot be written, or the disk is full.
        """
        path = self._folder / blob_key(digest)
        incoming = self._folder / "incoming" / secrets.token_hex(16)
        with self._using("write"):
            incoming.parent.mkdir(parents=True, exist_ok=True)
            try:
                found = write_blob(incoming, chunks, durable=False)
                reached("cache.written")
                if found != digest:
                    return None
                path.parent.mkdir(parents=True, exist_ok=True)
                incoming.replace(path)
                reached("cache.named")
            finally:
                incoming.unlink(missing_ok=True)
            self._make_room(now=path.stat().st_mtime)
        return path

    def _make_room(self, *, now: float) -> None:
        """Drops what is too much. `now` is a time that the file system gave: no other clock stamps the copies."""
        for unfinished in _files(self._folder, "incoming/*"):
            if abs(now - unfinished.used) > _ABANDONED_SECONDS:
                unfinished.path.unlink(missing_ok=True)
        copies = sorted(_files(self._folder, "sha256/*/*"))
        held = sum(copy.size for copy in copies)
        for copy in copies:
            if held <= self._limit:
                break
            if not self._is_in_use(copy.path, now):
                copy.path.unlink(missing_ok=True)
                held -= copy.size
                reached("cache.dropped")

    @staticmethod
    def _is_in_use(path: Path, now: float) -> bool:
        with suppress(FileNotFoundError):
            # Not only its past: a clock that was set back must not make copies immortal.
            return abs(now - path.stat().st_mtime) <= _IN_USE_SECONDS
        return False

    @contextmanager
    def _using(self, how: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"cannot {how} the local copies of blobs in {self._folder}: {error.strerror}; free some space or check "
                "who may use that folder. TRUNKLINE_HOME decides where it is, TRUNKLINE_BLOB_CACHE_GB how large it gets"
            ) from error


def _files(folder: Path, pattern: str) -> Iterator[_Copy]:
    for path in folder.glob(pattern):
        with suppress(FileNotFoundError):  # another process makes room too
            state = path.stat()
            yield _Copy(state.st_mtime, state.st_size, path)
