import hashlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.artifacts.local_store import LocalArtifactStore
from registry.errors import ArtifactDamaged, ArtifactMissing, InvalidInput, StorageError

HELLO = hashlib.sha256(b"hello").hexdigest()


def files_under(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(data=st.binary(max_size=200))
def test_what_is_put_is_read_back_by_its_sha256(store: LocalArtifactStore, data: bytes) -> None:
    digest = store.put(data)
    assert digest == hashlib.sha256(data).hexdigest()
    assert store.read(digest) == data


def test_a_blob_lies_in_the_documented_place(store: LocalArtifactStore, tmp_path: Path) -> None:
    store.put(b"hello")
    assert files_under(tmp_path / "artifacts") == [f"sha256/{HELLO[:2]}/{HELLO[2:]}"]
    assert store.fetch(HELLO) == tmp_path / "artifacts" / "sha256" / HELLO[:2] / HELLO[2:]


def test_putting_a_blob_again_does_not_write_it_again(store: LocalArtifactStore) -> None:
    first = store.fetch(store.put(b"hello")).stat()
    second = store.fetch(store.put(b"hello")).stat()
    assert second.st_ino == first.st_ino
    assert second.st_mtime_ns > first.st_mtime_ns, "a sweep takes old blobs: one that was just put is young"


def test_a_blob_is_read_only(store: LocalArtifactStore) -> None:
    assert store.fetch(store.put(b"hello")).stat().st_mode & 0o222 == 0


def test_a_file_is_put_under_the_digest_of_its_bytes(store: LocalArtifactStore, tmp_path: Path) -> None:
    data = bytes(range(256)) * 10_000  # more than one chunk
    (tmp_path / "file").write_bytes(data)
    assert store.read(store.put_file(tmp_path / "file")) == data
    assert store.put(data) == store.put_file(tmp_path / "file")
    assert len(files_under(tmp_path / "artifacts")) == 1


def test_a_source_that_cannot_be_read_is_blamed_and_leaves_nothing(store: LocalArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"missing: cannot be read: No such file"):
        store.put_file(tmp_path / "missing")
    assert files_under(tmp_path / "artifacts") == []


def test_a_blob_that_is_not_there_is_missing(store: LocalArtifactStore) -> None:
    with pytest.raises(ArtifactMissing, match=HELLO):
        store.fetch(HELLO)
    with pytest.raises(ArtifactMissing, match=HELLO):
        store.read(HELLO)


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-1], lambda data: data + b"!", lambda data: bytes([data[0] ^ 1]) + data[1:], lambda _: b""],
    ids=["truncated", "longer", "bit flipped", "empty"],
)
def test_a_damaged_blob_is_never_handed_out_and_is_mended_by_its_source(
    store: LocalArtifactStore, damage: Callable[[bytes], bytes]
) -> None:
    path = store.fetch(store.put(b"hello"))
    path.chmod(0o644)
    path.write_bytes(damage(b"hello"))
    with pytest.raises(ArtifactDamaged, match=HELLO):
        store.fetch(HELLO)
    with pytest.raises(ArtifactDamaged, match=HELLO):
        store.read(HELLO)
    store.put(b"hello")
    assert store.read(HELLO) == b"hello"


@given(st.text())
def test_only_a_digest_is_ever_made_into_a_path(text: str) -> None:
    store = LocalArtifactStore(Path("/nonexistent"))
    for use in (store.fetch, store.read):
        with pytest.raises(InvalidInput, match="is not a sha256"):
            use(text)


@pytest.mark.parametrize(
    "digest", ["../../../etc/passwd", "a" * 63, "a" * 65, "A" * 64, HELLO + "\n", "/" + HELLO[1:], HELLO[:62] + ".."]
)
def test_what_nearly_is_a_digest_is_refused(store: LocalArtifactStore, digest: str) -> None:
    with pytest.raises(InvalidInput, match="is not a sha256"):
        store.fetch(digest)


def test_a_root_that_is_no_folder_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "artifacts").write_text("a file")
    store = LocalArtifactStore(tmp_path / "artifacts")
    with pytest.raises(StorageError, match="cannot"):
        store.put(b"hello")
    with pytest.raises(StorageError, match="cannot"):
        store.fetch(HELLO)


def test_a_place_that_is_no_file_is_a_storage_error(store: LocalArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "artifacts" / "sha256" / HELLO[:2] / HELLO[2:]).mkdir(parents=True)
    with pytest.raises(StorageError, match=f"blob {HELLO}: cannot read"):
        store.read(HELLO)
    with pytest.raises(StorageError, match=f"blob {HELLO}: cannot read"):
        store.put(b"hello")


def test_a_full_disk_leaves_nothing_half_written(store: LocalArtifactStore, tmp_path: Path) -> None:
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
    assert files_under(tmp_path / "artifacts") == []
    assert store.read(store.put(b"x" * 5_000_000)) == b"x" * 5_000_000


PUT_A_PIPE = """
import sys
from pathlib import Path
from registry.artifacts.local_store import LocalArtifactStore
LocalArtifactStore(Path(sys.argv[1])).put_file(Path(sys.argv[2]))
"""


def test_a_put_that_is_killed_leaves_no_blob(store: LocalArtifactStore, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    root = tmp_path / "artifacts"
    process = subprocess.Popen([sys.executable, "-P", "-c", PUT_A_PIPE, str(root), str(pipe)])
    with pipe.open("wb", buffering=0) as source:
        source.write(b"h" * 3_000_000)  # more than the pipe holds: the process has written a part of it
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL
    left = files_under(root)
    assert len(left) == 1
    assert left[0].startswith("incoming/")
    assert (root / left[0]).stat().st_size > 0
    assert store.read(store.put(b"h" * 3_000_000)) == b"h" * 3_000_000
