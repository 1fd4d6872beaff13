"""The content-addressed store in a local folder: a blob is found under its own sha256, and nowhere else.

<root>/sha256/ab/cdef…      blobs, read-only, complete from the moment they have this name
<root>/incoming/…           files being written; what a killed process leaves here is never read
"""

import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from io import BufferedReader
from pathlib import Path
from stat import S_ISREG

from registry.artifacts.atomic_file import make_folder, sync_path, write_atomically, write_blob
from registry.artifacts.store import OWNER_KEY, StoredBlob, blob_key, is_digest
from registry.errors import ArtifactDamaged, ArtifactMissing, InvalidInput, StorageError
from registry.fault_points import reached

_CHUNK_BYTES = 1 << 20


class LocalArtifactStore:
    """An `ArtifactStore` under `root`, which is created by the first `put`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def location(self) -> str:
        return str(self._root)

    def put(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        if not self._is_whole(digest) or not self._touch(digest):
            self._write([data])
        return digest

    def put_file(self, path: Path) -> str:
        return self._write(_chunks(path))

    def fetch(self, digest: str) -> Path:
        with self._opened(digest) as file:
            self._compare(digest, hashlib.file_digest(file, "sha256").hexdigest())
        return self._path(digest)

    def read(self, digest: str) -> bytes:
        with self._opened(digest) as file:
            data = file.read()
        self._compare(digest, hashlib.sha256(data).hexdigest())
        return data

    def verify(self, digest: str) -> None:
        self.fetch(digest)

    def missing(self, digests: Iterable[str]) -> set[str]:
        return {digest for digest in digests if self.stored_at(digest) is None}

    def blobs(self) -> Iterator[StoredBlob]:
        with self._reading():
            for folder in _names(self._root / "sha256"):
                for name in _names(self._root / "sha256" / folder):
                    digest, state = folder + name, _state(self._root / "sha256" / folder / name)
                    if len(folder) == 2 and is_digest(digest) and state is not None and S_ISREG(state.st_mode):
                        yield StoredBlob(digest, state.st_size, _written_at(state))

    def stored_at(self, digest: str) -> datetime | None:
        with self._reading():
            state = _state(self._path(digest))
        return None if state is None else _written_at(state)

    def remove(self, digest: str) -> None:
        with self._reading():
            self._path(digest).unlink(missing_ok=True)
        reached("blob.removed")

    def owner(self) -> str | None:
        with self._reading():
            try:
                return (self._root / OWNER_KEY).read_text(encoding="utf-8")
            except FileNotFoundError:
                return None

    def claim(self, owner: str) -> str:
        written = self._root / "incoming" / secrets.token_hex(16)
        write_atomically(written, owner.encode())
        with self._reading():
            try:
                os.link(written, self._root / OWNER_KEY)  # unlike a rename, it never takes another one's place
            except FileExistsError:
                pass
            finally:
                written.unlink(missing_ok=True)
        return self.owner() or owner

    def take(self, owner: str) -> None:
        write_atomically(self._root / OWNER_KEY, owner.encode())

    def now(self) -> datetime:
        """By the clock that stamps files here: that of the file server, where the folder lies on one.

        It takes a file to read it, among those being written. Where nothing was ever put, nothing is made.
        """
        incoming = self._root / "incoming" / secrets.token_hex(16)
        try:
            if not incoming.parent.is_dir():
                return datetime.now(UTC)
            incoming.touch()
            reached("clock.touched")
            try:
                return _written_at(incoming.stat())
            finally:
                incoming.unlink()
        except OSError as error:
            raise StorageError(f"cannot write in {self._root}: {error.strerror}; check who may write there") from error

    def clear_unfinished(self, *, before: datetime, dry_run: bool) -> int:
        with self._reading():
            states = [(path, _state(path)) for path in (self._root / "incoming").glob("*")]
            old = [path for path, state in states if state is not None and _written_at(state) < before]
            for path in old:
                if not dry_run:
                    path.unlink(missing_ok=True)
                    reached("blob.unfinished-removed")
        return len(old)

    def _path(self, digest: str) -> Path:
        return self._root / blob_key(digest)

    def _is_whole(self, digest: str) -> bool:
        try:
            self.fetch(digest)
        except (ArtifactMissing, ArtifactDamaged):
            return False
        return True

    def _touch(self, digest: str) -> bool:
        """Makes the blob young, so that no sweep takes it from under whoever has just put it.

        False if it has gone, or belongs to another user: a file of one's own can take its place.
        """
        try:
            os.utime(self._path(digest))
        except (FileNotFoundError, PermissionError):
            return False
        except OSError as error:
            raise StorageError(f"blob {digest}: cannot touch {self._path(digest)}: {error.strerror}") from error
        reached("blob.made-young")
        return True

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"cannot use {self._root}: {error.strerror} ({error.filename}); check who may read and write there"
            ) from error

    @contextmanager
    def _opened(self, digest: str) -> Iterator[BufferedReader]:
        path = self._path(digest)
        try:
            with path.open("rb") as file:
                yield file
        except FileNotFoundError:
            raise ArtifactMissing(
                f"blob {digest} is not in {self._root}: bring it back from a copy (`trunkline release pull`), "
                "or check that TRUNKLINE_HOME and TRUNKLINE_ARTIFACT_ROOT are the right ones"
            ) from None
        except OSError as error:
            raise StorageError(f"blob {digest}: cannot read {path}: {error.strerror}; check the disk") from error

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
            make_folder(incoming.parent)
            try:
                digest = write_blob(incoming, chunks, durable=True)
                reached("blob.written")
                path = self._path(digest)
                make_folder(path.parent)
                reached("blob.folder-made")
                incoming.replace(path)
                reached("blob.named")
            finally:
                incoming.unlink(missing_ok=True)
            sync_path(path.parent)
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


def _state(path: Path) -> os.stat_result | None:
    """None if it has gone since it was listed: other processes put, sweep and clear meanwhile."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _written_at(state: os.stat_result) -> datetime:
    return datetime.fromtimestamp(state.st_mtime, UTC)


def _names(folder: Path) -> list[str]:
    """What lies in a folder, sorted; nothing where there is none. Unlike a glob, it says so when it may not look."""
    try:
        return sorted(path.name for path in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
