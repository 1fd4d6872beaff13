"""The content-addressed store in a local folder: a blob is found under its own sha256, and nowhere else.

<root>/sha256/ab/cdef…      blobs, read-only, complete from the moment they have this name
<root>/incoming/…           files being written; what a killed process leaves here is never read
"""

import hashlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from registry.artifacts.atomic_file import sync_folder
from registry.errors import ArtifactDamaged, ArtifactMissing, InvalidInput, StorageError

_DIGEST = re.compile(r"[0-9a-f]{64}")
_CHUNK_BYTES = 1 << 20


class LocalArtifactStore:
    """Blobs under `root`, which is created by the first `put`.

    Digests are 64 lower-case hexadecimal digits; any other string is refused with InvalidInput before a path is
    made of it.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, data: bytes) -> str:
        """Stores the bytes and returns their digest; storing them again changes nothing, or mends a damaged blob.

        Raises:
            StorageError: the bytes could not be written; nothing of them is left behind.
        """
        digest = hashlib.sha256(data).hexdigest()
        if not self._is_whole(digest):
            self._write([data])
        return digest

    def put_file(self, path: Path) -> str:
        """Stores a file's bytes without holding them in memory, and returns their digest.

        Raises:
            InvalidInput: the file cannot be read.
            StorageError: the bytes could not be written; nothing of them is left behind.
        """
        return self._write(_chunks(path))

    def fetch(self, digest: str) -> Path:
        """A local path to read the blob from, after its bytes have been compared with its digest.

        Raises:
            ArtifactMissing: the store does not hold it.
            ArtifactDamaged: its bytes have another digest.
            StorageError: it could not be read.
        """
        with self._opened(digest) as file:
            self._compare(digest, hashlib.file_digest(file, "sha256").hexdigest())
        return self._path(digest)

    def read(self, digest: str) -> bytes:
        """The blob's bytes; raises what `fetch` raises."""
        with self._opened(digest) as file:
            data = file.read()
        self._compare(digest, hashlib.sha256(data).hexdigest())
        return data

    def _path(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise InvalidInput(f"digest {digest!r}", ["is not a sha256: 64 of the digits 0-9 and a-f"])
        return self._root / "sha256" / digest[:2] / digest[2:]

    def _is_whole(self, digest: str) -> bool:
        try:
            self.fetch(digest)
        except (ArtifactMissing, ArtifactDamaged):
            return False
        return True

    @contextmanager
    def _opened(self, digest: str) -> Iterator[BufferedReader]:
        path = self._path(digest)
        try:
            with path.open("rb") as file:
                yield file
        except FileNotFoundError:
            raise ArtifactMissing(
                f"blob {digest} is not in {self._root}: copy it from the store it was registered with, "
                "or check that TRUNKLINE_HOME is the right one"
            ) from None
        except OSError as error:
            raise StorageError(f"blob {digest}: cannot read {path}: {error.strerror}") from error

    def _compare(self, digest: str, found: str) -> None:
        if found != digest:
            raise ArtifactDamaged(
                f"blob {digest} in {self._root} is damaged (its bytes have digest {found}): "
                "restore it from a copy, or store its source again, which replaces it"
            )

    def _write(self, chunks: Iterable[bytes]) -> str:
        """Temporary file, fsync, rename, fsync of the folder: the name appears with all of its bytes or not at all."""
        incoming = self._root / "incoming" / secrets.token_hex(16)
        try:
            _make_folder(incoming.parent)
            try:
                digest = _write_file(incoming, chunks)
                path = self._path(digest)
                _make_folder(path.parent)
                incoming.replace(path)
            finally:
                incoming.unlink(missing_ok=True)
            sync_folder(path.parent)
        except OSError as error:
            raise StorageError(
                f"cannot store a blob in {self._root}: {error.strerror}; "
                "nothing was stored: free some space or mend the folder, then run the command again"
            ) from error
        return digest


def _chunks(path: Path) -> Iterator[bytes]:
    # The source's errors are its own: they must not read as if the store had failed.
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk
    except OSError as error:
        raise InvalidInput(str(path), [f"cannot be read: {error.strerror}"]) from error


def _write_file(path: Path, chunks: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    # Blobs are read-only from birth: an editor or a stray `>` must not change what a digest names.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
    with os.fdopen(descriptor, "wb") as file:
        for chunk in chunks:
            digest.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _make_folder(folder: Path) -> None:
    """Creates the folder and its missing parents so that they outlast a power cut."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)
