"""How large the caches of training may get, and what goes when they would get larger: what was used longest ago.

Everything below <folder>/<kind>/ counts, unfinished files with their whole size from the start. A file's time of
modification is when it was last used. Any number of processes may work on one folder: sizes are looked at and files
are made and dropped under the folder's lock, which is held for moments only. Locks are flock's, on the folders and
files themselves: they go with the process that held them, and none is left lying about.
"""

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from registry.errors import StorageError
from registry.fault_points import reached

KINDS = ("activations", "teacher_outputs", "teacher_features", "trunk_features")
UNFINISHED = ".unfinished"
"""How the name of a file begins that is being written, in the folder of its group."""

SPARE_BYTES = 1_000_000_000
"""Left free on the disk: the registry, MLflow and the trials' own states are to be written there too."""
_SPARE_SHARE = 0.05
"""On a small disk, this share of it instead."""

_POLL_SECONDS = 0.1
"""Between two looks at a lock: nothing beside the computation that is waited for."""


def size_in_words(size: float) -> str:
    """Of a number of bytes: "1.2 GB"."""
    for unit in ("bytes", "kB", "MB"):
        if round(size, 1) < 1000:
            return f"{size:.1f} {unit}".replace(".0 ", " ")
        size /= 1000
    return f"{size:,.1f} GB".replace(".0 ", " ")


class _File(NamedTuple):
    used: float
    path: Path
    size: int


@dataclass(frozen=True)
class Outlook:
    """How much the caches hold and could hold, in bytes."""

    limit: int | None
    held: int
    in_use: int
    """Of these, what a running process reads or writes, and so cannot be dropped."""
    free: int
    """On the disk, less what is to stay free."""

    @property
    def room(self) -> int:
        """For new rows, if all that nobody uses were dropped; below 0 where too much is in use."""
        most = self.held + self.free
        return (most if self.limit is None else min(self.limit, most)) - self.in_use

    def __str__(self) -> str:
        limit = "no limit" if self.limit is None else f"limit {size_in_words(self.limit)}"
        free = f"{size_in_words(max(0, self.free))} free"
        return f"{limit}, {free}" + (f", {size_in_words(self.in_use)} in use" if self.in_use else "")


@dataclass(frozen=True)
class CacheRoom:
    """The caches of one home.

    They never hold more than `limit` bytes, unless it was lowered: what is too much then goes with the next row that
    is written.
    """

    folder: Path
    limit: int | None

    def outlook(self) -> Outlook:
        return self._outlook(list(self._files()))

    def reserve(self, folder: Path, sizes: Sequence[int]) -> list[tuple[int, Path]]:
        """Makes room, and in it a file of each size, empty and locked for the caller alone.

        Args:
            folder: theirs; it exists, and the caller holds it.
        Returns:
            Of each its descriptor, to be closed by the caller, and its name.
        Raises:
            StorageError: they do not fit together, or cannot be made; nothing is left of them.
        """
        try:
            with locked_folder(self.folder), ExitStack() as undone:
                self._sweep()
                self._make_room(sum(sizes))
                made = []
                for number, size in enumerate(sizes):
                    path = folder / f"{UNFINISHED}-{number}"
                    made.append((_allocated(path, size), path))
                    undone.callback(os.close, made[-1][0])
                    undone.callback(path.unlink, missing_ok=True)
                undone.pop_all()
                return made
        except OSError as error:
            raise cannot_write(folder, error) from error

    def _make_room(self, size: int) -> None:
        files = sorted(self._files())
        outlook = self._outlook(files)
        excess = outlook.held - outlook.in_use + size - outlook.room
        # Nothing is dropped for what cannot fit anyway.
        for file in files if size <= outlook.room else []:
            if excess > 0 and _drop(file.path):
                excess -= file.size
        if excess > 0:
            raise StorageError(
                f"no room for {size_in_words(size)} in the cache {self.folder} ({outlook}); set "
                "TRUNKLINE_ACTIVATION_CACHE_GB higher, or free some space there"
            )

    def _outlook(self, files: list[_File]) -> Outlook:
        disk = shutil.disk_usage(next(folder for folder in (self.folder, *self.folder.parents) if folder.exists()))
        return Outlook(
            limit=self.limit,
            held=sum(file.size for file in files),
            in_use=sum(file.size for file in files if _is_in_use(file.path)),
            free=int(disk.free - min(SPARE_BYTES, _SPARE_SHARE * disk.total)),
        )

    def _files(self) -> Iterator[_File]:
        for kind in KINDS:
            for path in (self.folder / kind).glob("*/*"):
                with suppress(FileNotFoundError):
                    state = path.stat()
                    yield _File(state.st_mtime, path, state.st_size)

    def _sweep(self) -> None:
        """Removes what killed processes left, and the former layout's files, which lay directly in a kind's folder."""
        for kind in KINDS:
            for path in (self.folder / kind).glob(f"*/{UNFINISHED}*"):
                _drop(path)
            for path in (self.folder / kind).glob("*"):
                if not path.is_dir():
                    with suppress(PermissionError):
                        path.unlink(missing_ok=True)


@contextmanager
def locked_folder(folder: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Holds a folder, which is made if need be, for the caller alone; waits for whoever holds it.

    Args:
        waiting: called again and again, some times a second, for as long as somebody else holds it; None where it is
            held for moments only.
    Raises:
        OSError: it cannot be made or opened.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # it was dropped, empty, in between
            continue
        try:
            _lock(descriptor, waiting)
            if _is_named(descriptor, folder):
                yield
                return
        finally:
            os.close(descriptor)


def _lock(descriptor: int, waiting: Callable[[], None] | None) -> None:
    while waiting is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            time.sleep(_POLL_SECONDS)
        else:
            return
    fcntl.flock(descriptor, fcntl.LOCK_EX)


def _is_named(descriptor: int, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free some space there"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "make it writable for this user"),
}


def cannot_write(folder: Path, error: OSError) -> StorageError:
    advice = _ADVICE.get(error.errno or 0, "see what is wrong with it, or delete it: nothing is lost but time")
    return StorageError(f"cannot write the cache {folder}: {error.strerror}; {advice}")


@contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Whether nobody else has a lock on it; while the context lasts, nobody else gets one.

    A file that cannot be opened, as another user's, is taken to be in use: by them, for all we know.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held = True
    except BlockingIOError:
        held = False
    try:
        yield held
    finally:
        os.close(descriptor)


def _is_in_use(path: Path) -> bool:
    with _alone(path) as alone:
        return not alone


def _drop(path: Path) -> bool:
    """Removes a file unless it is in use, and its folder with the last one."""
    with _alone(path) as alone:
        if not alone:
            return False
        try:
            path.unlink(missing_ok=True)
        except PermissionError:  # it can be read, but its folder is another user's
            return False
    reached("cache.segment-dropped")
    with _alone(path.parent) as alone, suppress(OSError):
        if alone:
            path.parent.rmdir()
    return True


def _allocated(path: Path, size: int) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # a file system that cannot set space aside
                raise
            os.truncate(descriptor, size)
    except BaseException:
        path.unlink(missing_ok=True)
        os.close(descriptor)
        raise
    return descriptor
