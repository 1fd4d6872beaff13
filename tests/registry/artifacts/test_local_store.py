"""What is particular to a store in a folder. What both kinds do is in test_store.py."""

import hashlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from registry import fault_points
from registry.artifacts.local_store import LocalArtifactStore
from registry.errors import StorageError

HELLO = hashlib.sha256(b"hello").hexdigest()
LONG_AGO = (1e9, 1e9)


def files_under(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where the fixture `store` lies."""
    return tmp_path / "artifacts"


def test_a_blob_is_handed_out_where_it_lies(store: LocalArtifactStore, root: Path) -> None:
    assert store.fetch(store.put(b"hello")) == root / "sha256" / HELLO[:2] / HELLO[2:]


def test_putting_a_blob_again_does_not_write_it_again(store: LocalArtifactStore) -> None:
    first = store.fetch(store.put(b"hello")).stat()
    second = store.fetch(store.put(b"hello")).stat()
    assert second.st_ino == first.st_ino
    assert second.st_mtime_ns > first.st_mtime_ns


def test_a_blob_of_another_user_is_made_young_by_writing_it_again(
    store: LocalArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a file's owner may touch one that is read-only; the tests may run as root, who may touch all."""
    path = store.fetch(store.put(b"hello"))
    os.utime(path, LONG_AGO)
    before = path.stat()

    def not_the_owner(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "utime", not_the_owner)
    store.put(b"hello")
    assert path.stat().st_ino != before.st_ino
    assert path.stat().st_mtime > before.st_mtime
    assert store.read(HELLO) == b"hello"


def test_reading_makes_no_folder(store: LocalArtifactStore, root: Path) -> None:
    store.now()
    list(store.blobs())
    store.missing([HELLO])
    store.remove(HELLO)
    store.clear_unfinished(before=datetime.now(UTC), dry_run=False)
    assert not root.exists()


def test_a_root_that_is_no_folder_is_a_storage_error(root: Path) -> None:
    root.write_text("a file")
    store = LocalArtifactStore(root)
    for use in (lambda: store.put(b"hello"), lambda: store.fetch(HELLO), lambda: store.remove(HELLO)):
        with pytest.raises(StorageError, match=r"cannot .*artifacts"):
            use()


def test_a_place_that_is_no_file_is_a_storage_error(store: LocalArtifactStore, root: Path) -> None:
    (root / "sha256" / HELLO[:2] / HELLO[2:]).mkdir(parents=True)
    with pytest.raises(StorageError, match=f"blob {HELLO}: cannot read"):
        store.read(HELLO)
    with pytest.raises(StorageError, match=f"blob {HELLO}: cannot read"):
        store.put(b"hello")
    assert list(store.blobs()) == []


def test_a_full_disk_leaves_nothing_half_written(store: LocalArtifactStore, root: Path, tmp_path: Path) -> None:
    """A limit on the size of files fails a write where a full disk would: in the middle of it."""
    (tmp_path / "file").write_bytes(b"x" * 5_000_000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_500_000, before[1]))
    try:
        with pytest.raises(StorageError, match="nothing was stored"):
            store.put(b"x" * 5_000_000)
        with pytest.raises(StorageError, match="nothing was stored"):
            store.put_file(tmp_path / "file")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert files_under(root) == []
    assert store.read(store.put(b"x" * 5_000_000)) == b"x" * 5_000_000


PUT_A_PIPE = """
import sys
from pathlib import Path
from registry.artifacts.local_store import LocalArtifactStore
LocalArtifactStore(Path(sys.argv[1])).put_file(Path(sys.argv[2]))
"""


def test_a_put_that_is_killed_leaves_no_blob_and_what_it_leaves_is_cleared(
    store: LocalArtifactStore, root: Path, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    process = subprocess.Popen([sys.executable, "-P", "-c", PUT_A_PIPE, str(root), str(pipe)])
    with pipe.open("wb", buffering=0) as source:
        source.write(b"h" * 3_000_000)  # more than the pipe holds: the process has written a part of it
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL
    (left,) = files_under(root)
    assert left.startswith("incoming/")
    assert (root / left).stat().st_size > 0
    assert list(store.blobs()) == []
    written = datetime.fromtimestamp((root / left).stat().st_mtime, UTC)
    assert store.clear_unfinished(before=written, dry_run=False) == 0
    for dry_run in (True, False):
        assert store.clear_unfinished(before=written + timedelta(seconds=1), dry_run=dry_run) == 1
    assert files_under(root) == []
    assert store.read(store.put(b"h" * 3_000_000)) == b"h" * 3_000_000


@pytest.mark.parametrize(
    "place", ["blob.written", "blob.folder-made", "blob.named", "blob.made-young", "clock.touched"]
)
def test_a_kill_at_any_step_leaves_whole_blobs_and_what_can_be_cleared(
    store: LocalArtifactStore, root: Path, killed: Callable[[Callable[[], None]], None], place: str
) -> None:
    store.put(b"other")

    def work() -> None:
        fault_points.arm(lambda at: os.kill(os.getpid(), signal.SIGKILL) if at == place else None)
        store.put(b"hello")
        store.put(b"other")
        store.now()

    killed(work)
    for blob in store.blobs():
        store.verify(blob.digest)
    tomorrow = store.now() + timedelta(days=1)
    store.clear_unfinished(before=tomorrow, dry_run=False)
    assert not [name for name in files_under(root) if name.startswith("incoming")]
    assert store.read(store.put(b"hello")) == b"hello"


def test_many_may_put_list_remove_and_clear_at_once(
    store: LocalArtifactStore, together: Callable[[int, Callable[[int], Any]], list[Any]]
) -> None:
    """What has gone between a listing and a look at it is no error."""

    def work(number: int) -> str:
        for step in range(40):
            digest = store.put(f"{number % 2} {step}".encode())
            list(store.blobs())
            store.remove(digest)
            store.clear_unfinished(before=datetime(2001, 1, 1, tzinfo=UTC), dry_run=False)
        return "done"

    assert together(4, work) == ["done"] * 4
    assert list(store.blobs()) == []


def test_the_clock_is_that_of_the_files(store: LocalArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file server has one of its own."""
    store.put(b"hello")
    (blob,) = store.blobs()
    assert timedelta(0) <= store.now() - blob.stored_at < timedelta(minutes=5)

    class ElsewhereDatetime(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "ElsewhereDatetime":
            return cls(1999, 1, 1, tzinfo=tz)

    monkeypatch.setattr("registry.artifacts.local_store.datetime", ElsewhereDatetime)
    assert store.now() >= blob.stored_at
