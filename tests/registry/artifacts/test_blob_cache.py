import hashlib
import os
import resource
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from registry import fault_points
from registry.artifacts.blob_cache import BlobCache
from registry.artifacts.store import blob_key
from registry.errors import StorageError

HOUR = 3600.0


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "copies"


@pytest.fixture
def cache(folder: Path) -> BlobCache:
    return BlobCache(folder, limit=1000)


def files_under(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def last_used(path: Path | None, *, hours_ago: float) -> None:
    assert path is not None
    when = path.stat().st_mtime - hours_ago * HOUR
    os.utime(path, (when, when))


def test_a_copy_is_found_by_its_digest_and_cannot_be_written(cache: BlobCache, folder: Path) -> None:
    digest = sha256(b"hello")
    assert cache.find(digest) is None
    assert not folder.exists()
    path = cache.add(digest, [b"he", b"llo"])
    assert path == cache.find(digest) == folder / blob_key(digest)
    assert path.read_bytes() == b"hello"
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert files_under(folder) == [path]


@pytest.mark.parametrize("data", [b"hellp", b"hell", b"", b"hello!"])
def test_other_bytes_are_neither_kept_nor_found(cache: BlobCache, folder: Path, data: bytes) -> None:
    digest = sha256(b"hello")
    assert cache.add(digest, [data]) is None
    assert files_under(folder) == []
    path = cache.add(digest, [b"hello"])
    assert path is not None
    path.chmod(0o644)
    path.write_bytes(data)
    assert cache.find(digest) is None
    assert cache.add(digest, [b"hello"]) == cache.find(digest) == path


def test_what_was_used_longest_ago_makes_room(cache: BlobCache) -> None:
    contents = [bytes([number]) * 300 for number in range(4)]
    digests = [sha256(data) for data in contents]
    for hours, digest, data in zip((9, 7, 8), digests, contents, strict=False):
        last_used(cache.add(digest, [data]), hours_ago=hours)
    assert cache.find(digests[0]) is not None, "used now"
    cache.add(digests[3], [contents[3]])
    assert [cache.find(digest) is not None for digest in digests] == [True, True, False, True]


def test_what_may_be_in_use_stays_however_large(cache: BlobCache, folder: Path) -> None:
    contents = [bytes([number]) * 900 for number in range(3)]
    for data in contents:
        cache.add(sha256(data), [data])
    assert len(files_under(folder)) == 3
    for path in files_under(folder):
        last_used(path, hours_ago=1)
    cache.add(sha256(b"more"), [b"more"])
    assert sum(path.stat().st_size for path in files_under(folder)) == 904, "and no more goes than must"


def test_a_blob_larger_than_the_limit_is_kept_while_it_is_used(cache: BlobCache) -> None:
    data = b"x" * 5000
    path = cache.add(sha256(data), [data])
    assert cache.find(sha256(data)) == path
    last_used(path, hours_ago=1)
    cache.add(sha256(b"more"), [b"more"])
    assert cache.find(sha256(data)) is None


def test_a_copy_that_is_open_stays_readable_when_it_makes_room(cache: BlobCache) -> None:
    data = b"x" * 900
    path = cache.add(sha256(data), [data])
    assert path is not None
    with path.open("rb") as file:
        last_used(path, hours_ago=1)
        cache.add(sha256(b"y" * 900), [b"y" * 900])
        assert not path.exists()
        assert file.read() == data


def test_a_clock_that_was_set_back_makes_no_copy_immortal(cache: BlobCache) -> None:
    data = b"x" * 900
    last_used(cache.add(sha256(data), [data]), hours_ago=-24)
    cache.add(sha256(b"y" * 900), [b"y" * 900])
    assert cache.find(sha256(data)) is None


def test_what_a_killed_download_left_goes_after_an_hour(
    cache: BlobCache, folder: Path, killed: Callable[[Callable[[], None]], None]
) -> None:
    def die() -> Iterator[bytes]:
        yield b"hel" * 10_000
        os.kill(os.getpid(), 9)

    killed(lambda: cache.add(sha256(b"hello"), die()))
    (left,) = files_under(folder)
    assert left.parent.name == "incoming"
    assert cache.find(sha256(b"hello")) is None
    cache.add(sha256(b"one"), [b"one"])
    assert left.exists(), "it may be another process at work"
    last_used(left, hours_ago=1.01)
    cache.add(sha256(b"two"), [b"two"])
    assert not left.exists()


@pytest.mark.parametrize("place", ["cache.written", "cache.named", "cache.dropped"])
def test_a_kill_at_any_step_leaves_whole_copies(
    cache: BlobCache, killed: Callable[[Callable[[], None]], None], place: str
) -> None:
    last_used(cache.add(sha256(b"x" * 900), [b"x" * 900]), hours_ago=1)

    def work() -> None:
        fault_points.arm(lambda at: os.kill(os.getpid(), 9) if at == place else None)
        cache.add(sha256(b"y" * 900), [b"y" * 900])

    killed(work)
    path = cache.find(sha256(b"y" * 900)) or cache.add(sha256(b"y" * 900), [b"y" * 900])
    assert path is not None
    assert path.read_bytes() == b"y" * 900


def test_many_processes_may_add_find_and_make_room_at_once(
    folder: Path, together: Callable[[int, Callable[[int], Any]], list[Any]]
) -> None:
    contents = [bytes([number]) * 300 for number in range(6)]
    small, large = BlobCache(folder, limit=500), BlobCache(folder, limit=10**6)
    for number in range(100):
        data = b"old" * number
        last_used(large.add(sha256(data), [data]), hours_ago=1)

    def work(number: int) -> str:
        for step in range(30):
            data = contents[(number + step) % 6]
            path = small.find(sha256(data)) or small.add(sha256(data), [data])
            assert path is not None
            assert path.read_bytes() == data
        return "done"

    assert together(4, work) == ["done"] * 4
    assert {path.read_bytes() for path in files_under(folder)} == set(contents)


def says_where(error: pytest.ExceptionInfo[StorageError], folder: Path) -> bool:
    words = (str(folder), "TRUNKLINE_HOME", "TRUNKLINE_BLOB_CACHE_GB")
    return all(word in str(error.value) for word in words)


def test_a_full_disk_is_an_error_that_says_where_and_leaves_nothing(cache: BlobCache, folder: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_500_000, before[1]))
    try:
        with pytest.raises(StorageError, match="cannot write the local copies") as error:
            cache.add(sha256(b"x" * 5_000_000), [b"x" * 1_000_000] * 5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert says_where(error, folder)
    assert files_under(folder) == []
    assert cache.add(sha256(b"x" * 5_000_000), [b"x" * 1_000_000] * 5) is not None


def test_a_place_that_is_no_folder_is_an_error_that_says_where(cache: BlobCache, folder: Path) -> None:
    folder.write_text("a file")
    with pytest.raises(StorageError, match="cannot read the local copies") as error:
        cache.find(sha256(b"hello"))
    assert says_where(error, folder)
    with pytest.raises(StorageError, match="cannot write the local copies") as error:
        cache.add(sha256(b"hello"), [b"hello"])
    assert says_where(error, folder)


def test_a_folder_that_can_only_be_read_serves_what_it_has(cache: BlobCache, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cache.add(sha256(b"hello"), [b"hello"])

    def read_only(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "utime", read_only)
    monkeypatch.setattr(os, "open", read_only)
    assert cache.find(sha256(b"hello")) == path
    with pytest.raises(StorageError, match="Permission denied"):
        cache.add(sha256(b"other"), [b"other"])
