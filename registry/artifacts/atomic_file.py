"""Files that are there whole or not at all, whatever is killed and however full the disk is."""

import hashlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from registry.errors import StorageError


def write_atomically(path: Path, data: bytes | Iterable[bytes | memoryview]) -> None:
    """Puts `data` under `path`: a temporary file beside it, fsync, rename, fsync of the folder.

    Raises:
        StorageError: the disk is full or not writable; what was under `path` before is still there.
    """
    temporary = None
    try:
        make_folder(path.parent)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".writing-", delete=False) as file:
            temporary = Path(file.name)
            file.writelines([data] if isinstance(data, bytes) else data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_path(path.parent)
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror}; free some space or check who may write there"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_blob(path: Path, chunks: Iterable[bytes], *, durable: bool) -> str:
    """Writes a new file that nobody may write again, and returns the sha256 of its bytes; raises OSError.

    Args:
        durable: whether it must outlast a power cut; a copy need not, for what is torn is noticed by its digest.
    """
    digest = hashlib.sha256()
    # Read-only from birth: an editor or a stray `>` must not change what a digest names.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
    with os.fdopen(descriptor, "wb") as file:
        for chunk in chunks:
            digest.update(chunk)
            file.write(chunk)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    return digest.hexdigest()


def make_folder(folder: Path) -> None:
    """Creates the folder and its missing parents so that they outlast a power cut; raises OSError."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_path(folder.parent)


def sync_path(path: Path) -> None:
    """Makes a file's bytes, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
