"""Rows kept by the digest of their input: found again, computed once, mended, and never above the limit."""

import errno
import hashlib
import logging
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from pipelines.training import cache_rows
from pipelines.training.cache_room import SPARE_BYTES, UNFINISHED, CacheRoom, Outlook, cannot_write
from pipelines.training.cache_rows import RowCache
from pipelines.training.cache_segments import RowGroup, digest_rows, segment_bytes
from registry import fault_points


def value(text: str, width: int = 3, dtype=torch.float32, depth: int = 0):
    """What a text comes to, of a length that the text decides."""
    seed = hashlib.sha256(f"{depth} {text}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(seed[:6]))
    return torch.randn(length(text), width, generator=generator).to(dtype)


def length(text: str) -> int:
    return len(text) % 7


def group(depth: int = 0, width: int = 3, dtype=torch.float32, kind: str = "activations") -> RowGroup:
    return RowGroup(kind, {"depth": str(depth)}, width, dtype)


def size(*texts: str) -> int:
    return segment_bytes(rows=len(texts), total=sum(map(length, texts)), width=3, dtype=torch.float32)


@dataclass
class Cache:
    """A cache that counts what it computes: (depth, text)."""

    folder: Path
    limit: int | None = None
    computed: list[tuple[int, str]] = field(default_factory=list)
    on_the_fly: list[str] = field(default_factory=list)

    def rows(self, texts, *groups: RowGroup):
        groups = groups or (group(),)

        def compute(numbers, wanted):
            for number in reversed(numbers):  # in any order
                for one in wanted:
                    self.computed.append((int(one.fields["depth"]), texts[number]))
                yield (
                    [number],
                    [[value(texts[number], one.width, one.dtype, int(one.fields["depth"]))] for one in wanted],
                )

        def on_the_fly(numbers):
            self.on_the_fly += [texts[number] for number in numbers]
            of = groups[0]
            return [value(texts[number], of.width, of.dtype, int(of.fields["depth"])) for number in numbers]

        return RowCache(CacheRoom(self.folder, self.limit)).rows(
            groups,
            digest_rows([hashlib.sha256(text.encode()).hexdigest() for text in texts]),
            [length(text) for text in texts],
            compute=compute,
            on_the_fly=on_the_fly,
            stage=lambda _: "computing",
        )

    @property
    def segments(self) -> list[Path]:
        return sorted(self.folder.glob("*/*/*.safetensors"), key=lambda path: path.stat().st_mtime_ns)

    @property
    def held(self) -> int:
        sizes = 0
        for path in self.folder.glob("*/*/*"):
            with suppress(FileNotFoundError):  # another process makes room
                sizes += path.stat().st_size
        return sizes


@pytest.fixture
def cache(tmp_path) -> Cache:
    return Cache(tmp_path / "cache")


def check(rows, texts, of: RowGroup | None = None) -> None:
    of = of or group()
    expected = [value(text, of.width, of.dtype, int(of.fields["depth"])) for text in texts]
    answers = rows.rows(range(len(texts)))
    assert len(rows) == len(texts) == len(answers)
    for answer, row in zip(answers, expected, strict=True):
        assert answer.dtype == row.dtype
        assert torch.equal(answer, row)


texts_of = st.lists(st.text("abc", min_size=1, max_size=9), min_size=1, max_size=12)


@settings(max_examples=60)
@given(
    data_sets=st.lists(texts_of, min_size=1, max_size=5),
    width=st.integers(1, 5),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_any_sequence_of_data_sets_gives_every_row_and_computes_each_text_once(
    tmp_path_factory, data_sets, width, dtype
):
    cache, of = Cache(tmp_path_factory.mktemp("cache")), group(width=width, dtype=dtype)
    for texts in data_sets:
        check(cache.rows(texts, of), texts, of)
    seen = {text for texts in data_sets for text in texts}
    assert sorted(text for _, text in cache.computed) == sorted(seen)
    assert not cache.on_the_fly


def test_other_groups_are_kept_in_the_same_pass_as_far_as_they_lack_rows(cache):
    cache.rows(["a"], group(2))
    cache.computed.clear()
    texts = ["a", "bb", "ccc"]
    check(cache.rows(texts, group(1), group(2), group(3)), texts, group(1))
    assert sorted(cache.computed) == [
        (1, "a"), (1, "bb"), (1, "ccc"), (2, "a"), (2, "bb"), (2, "ccc"), (3, "a"), (3, "bb"), (3, "ccc")
    ]  # fmt: skip
    cache.computed.clear()
    for depth in (1, 2, 3):
        check(cache.rows(texts, group(depth)), texts, group(depth))
    assert not cache.computed
    assert len(cache.segments) == 4


def test_a_segment_is_plain_safetensors_named_by_its_digest_and_memory_mapped(cache):
    texts = ["one", "three"]
    rows = cache.rows(texts)
    (path,) = cache.segments
    with safe_open(path, framework="pt") as file:
        assert torch.equal(file.get_tensor("values"), torch.cat([value(text) for text in texts]))
        assert file.get_tensor("offsets").tolist() == [0, 3, 8]
        assert bytes(file.get_tensor("digests")[1].tolist()) == hashlib.sha256(b"three").digest()
        assert file.metadata()["depth"] == "0"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == path.stem
    assert path.stat().st_size == size(*texts)
    (mapped,) = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))]
    assert " r--" in mapped, "pages that may be written to have to fit into memory and swap"
    check(rows, texts)


def test_rows_that_take_much_are_kept_in_several_segments(cache, monkeypatch):
    monkeypatch.setattr(cache_rows, "_SEGMENT_BYTES", 3 * 3 * 4)  # three places of width 3
    monkeypatch.setattr(cache_rows, "_MOST_SEGMENTS", 2)
    monkeypatch.setattr(cache_rows, "_KEPT_SEGMENTS", 1)
    texts = ["a" * count for count in (1, 2, 1, 5, 7, 1, 6)]
    for groups in ((group(0), group(1)), (group(1),)):
        check(cache.rows(texts, *groups), texts, groups[0])
    assert len(list((cache.folder / group(0).path).iterdir())) > 2
    assert len(cache.computed) == 2 * len({*texts}), "the segments were taken for many small ones"
    assert not cache.on_the_fly
    for path in cache.segments:
        assert path.stat().st_size <= size("a" * 3) + size("a" * 6)
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.stem


def test_of_many_small_segments_no_more_is_given_up_than_must_be_when_there_is_no_room_to_gather_them(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(cache_rows, "_MOST_SEGMENTS", 3)
    monkeypatch.setattr(cache_rows, "_KEPT_SEGMENTS", 1)
    texts = ["a", "b", "c", "d"]
    cache = Cache(tmp_path / "cache")
    for text in texts:
        check(cache.rows([text]), [text])
    cache.limit = size("a")
    cache.computed.clear()
    rows = cache.rows(texts)
    check(rows, texts)
    assert not cache.computed
    assert len(cache.on_the_fly) == 1, "three of four lie on the disk and are read"
    opened = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "safetensors" in line}
    assert len(opened & set(map(str, cache.segments))) == 3


def test_of_several_segments_all_have_room_or_none_is_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_rows, "_SEGMENT_BYTES", 30)
    texts = ["a" * 3, "b" * 3, "c" * 3]
    cache = Cache(tmp_path / "cache", limit=3 * size("a" * 3) - 1)
    check(cache.rows(texts), texts)
    assert cache.on_the_fly == texts
    assert not [path for path in cache.folder.rglob("*") if path.is_file()]


def flip(at: int):
    def damage(content: bytearray) -> bytes:
        content[at] ^= 1
        return content

    return damage


DAMAGES = {
    "a value": flip(-1),
    "a digest": flip(1024 + 5),
    "an offset": flip(1024 + 64 + 9),
    "the header": flip(200),
    "the header's length": flip(0),
    "cut short": lambda content: content[:-4],
    "cut within the index": lambda content: content[:1050],
    "empty": lambda content: b"",
    "too long": lambda content: content + b"\0",
    "something else": lambda content: b"no tensors at all" * 100,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_segment_is_said_removed_and_its_rows_computed_again(cache, caplog, damage):
    cache.rows(["one", "three"])
    (path,) = cache.segments
    cache.rows(["one", "three", "eleven"])
    path.write_bytes(DAMAGES[damage](bytearray(path.read_bytes())))
    cache.computed.clear()
    with caplog.at_level(logging.WARNING):
        check(cache.rows(["one", "three", "eleven"]), ["one", "three", "eleven"])
    assert f"{path} is damaged" in caplog.text
    assert sorted(text for _, text in cache.computed) == ["one", "three"]
    caplog.clear()
    check(cache.rows(["one", "three", "eleven"]), ["one", "three", "eleven"])
    assert not caplog.text
    assert not cache.on_the_fly


def test_a_computation_that_fails_leaves_nothing(cache):
    def fail(numbers, wanted):
        yield [0], [[value("one")]]
        raise RuntimeError("out of luck")

    digests = digest_rows([hashlib.sha256(text.encode()).hexdigest() for text in ("one", "two")])
    with pytest.raises(RuntimeError, match="out of luck"):
        RowCache(CacheRoom(cache.folder, None)).rows(
            [group()], digests, [3, 3], compute=fail, on_the_fly=lambda _: [], stage=lambda _: "computing"
        )
    assert not [path for path in cache.folder.rglob("*") if path.is_file()]


def test_whoever_is_stopped_loses_no_segment_that_was_finished(cache, monkeypatch):
    monkeypatch.setattr(cache_rows, "_SEGMENT_BYTES", 2 * 5 * 3 * 4)  # two texts of five places
    texts = [f"text{number}" for number in range(6)]
    digests = digest_rows([hashlib.sha256(text.encode()).hexdigest() for text in texts])
    told: list[tuple[str, int, int]] = []

    def until_the_fourth(numbers, _):
        for number in numbers:
            if number == 4:
                raise KeyboardInterrupt
            yield [number], [[value(texts[number])]]

    with pytest.raises(KeyboardInterrupt):
        RowCache(CacheRoom(cache.folder, None), lambda *said: told.append(said)).rows(
            [group()],
            digests,
            [length(text) for text in texts],
            compute=until_the_fourth,
            on_the_fly=lambda _: [],
            stage=lambda _: "computing",
        )
    assert told == [("computing", done, 6) for done in range(1, 5)]
    check(cache.rows(texts), texts)
    assert {text for _, text in cache.computed} <= set(texts[3:])
    assert not list(cache.folder.rglob(f"{UNFINISHED}*"))


WORKERS, KEYS = 4, 10


def test_the_same_rows_wanted_by_several_at_once_are_computed_once(cache):
    together = threading.Barrier(WORKERS, timeout=60)

    def work(number: int) -> None:
        for key in range(KEYS):
            together.wait()
            texts = [f"{'a' * key} {shared}" for shared in range(number, number + 5)]
            groups = [group(depth) for depth in ((0, 1) if number % 2 else (1, 0))]
            check(cache.rows(texts, *groups), texts, groups[0])

    with ThreadPoolExecutor(WORKERS) as workers:
        list(workers.map(work, range(WORKERS)))
    assert len(cache.computed) == len(set(cache.computed)) == 2 * KEYS * (WORKERS + 4)
    for path in cache.segments:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.stem


def test_whoever_waits_for_the_rows_of_another_is_heard_of(cache):
    computing, heard = threading.Event(), threading.Event()
    digests = digest_rows([hashlib.sha256(b"one").hexdigest()])
    stages: list[tuple[str, int, int]] = []

    def compute(numbers, wanted):
        computing.set()
        assert heard.wait(60), "the one that waits said nothing"
        yield [0], [[value("one")]]

    def report(*said):
        stages.append(said)
        heard.set()

    def rows(**named):
        found = RowCache(CacheRoom(cache.folder, None), **named).rows(
            [group()], digests, [3], compute=compute, on_the_fly=lambda _: [], stage=lambda _: "computing"
        )
        check(found, ["one"])

    with ThreadPoolExecutor(1) as workers:
        first = workers.submit(rows)
        assert computing.wait(60)
        rows(report=report)
        first.result()
    assert set(stages) == {("waiting for another process's activations", 0, 1)}


def test_what_was_used_longest_ago_makes_room_whatever_its_group(tmp_path):
    one, two, three, four = ("a" * 6, "b" * 6, "c" * 6, "d" * 6)
    cache = Cache(tmp_path / "cache", limit=3 * size(one))
    for number, text in enumerate((one, two, three)):
        cache.rows([text], group(number))
        os.utime(cache.segments[-1], (number, number))
    cache.rows([one], group(0))  # used, and so the youngest again
    cache.computed.clear()
    cache.rows([four], group(3))
    for number, text in ((0, one), (2, three), (3, four)):
        cache.rows([text], group(number))
    assert cache.computed == [(3, four)]
    assert len(list((cache.folder / "activations").iterdir())) == 3, "an empty folder was left behind"


@settings(max_examples=40)
@given(
    data_sets=st.lists(texts_of, min_size=1, max_size=6), limit=st.integers(0, 6000), kept=st.sets(st.integers(0, 5))
)
def test_the_limit_holds_whatever_is_asked_and_whatever_is_in_use(tmp_path_factory, data_sets, limit, kept):
    cache = Cache(tmp_path_factory.mktemp("cache"), limit=limit)
    in_use = []
    for number, texts in enumerate(data_sets):
        rows = cache.rows(texts, group(number % 2), group(2))
        check(rows, texts, group(number % 2))
        if number in kept:
            in_use.append((rows, texts, group(number % 2)))
        assert cache.held <= limit
    cache.on_the_fly.clear()
    for rows, texts, of in in_use:
        check(rows, texts, of)


def test_what_is_in_use_is_not_dropped_and_what_does_not_fit_is_computed_on_the_fly(tmp_path, caplog):
    cache = Cache(tmp_path / "cache", limit=size("a" * 6) + 100)
    used = cache.rows(["a" * 6])
    with caplog.at_level(logging.WARNING):
        rows = cache.rows(["b" * 6, "a" * 6])
    assert "no room for" in caplog.text
    assert "in use" in caplog.text
    assert "TRUNKLINE_ACTIVATION_CACHE_GB" in caplog.text
    assert "1 of 2 rows of activations are computed again" in caplog.text
    check(rows, ["b" * 6, "a" * 6])
    assert cache.on_the_fly == ["b" * 6], "the row that is there was computed too"
    check(used, ["a" * 6])
    del used, rows
    check(cache.rows(["b" * 6]), ["b" * 6])
    assert len(cache.segments) == 1
    assert cache.on_the_fly == ["b" * 6]


def test_rows_in_very_many_segments_are_gathered_into_few(cache):
    texts = [f"{'a' * (number % 7)} {number}" for number in range(200)]
    cache.rows(texts[:100])
    for text in texts[100:]:
        cache.rows([text])
    cache.computed.clear()
    check(cache.rows(texts), texts)
    assert 80 <= len(cache.computed) <= 100
    assert not {text for _, text in cache.computed} & {*texts[:100]}
    cache.computed.clear()
    check(cache.rows(texts), texts)
    assert not cache.computed
    assert not cache.on_the_fly


def test_a_segment_that_cannot_be_opened_is_not_taken_for_damaged(cache, monkeypatch, caplog):
    cache.rows(["a"])
    (path,) = cache.segments
    really = os.open

    def refuse(name, *arguments, **named):
        if Path(name) == path:
            raise OSError(24, "Too many open files")
        return really(name, *arguments, **named)

    monkeypatch.setattr(os, "open", refuse)
    check(cache.rows(["bb", "a"]), ["bb", "a"])
    assert "cannot be read (Too many open files)" in caplog.text
    assert path.exists()


def test_a_file_that_may_not_be_read_or_removed_is_taken_to_be_in_use(tmp_path, monkeypatch):
    cache = Cache(tmp_path / "cache", limit=2 * size("a" * 6))
    cache.rows(["a" * 6], group(1))
    (theirs,) = cache.segments
    old = cache.folder / "activations" / "old.safetensors"
    old.write_bytes(b"x")
    really_open, really_unlink = os.open, Path.unlink

    def refuse(name, *arguments, **named):
        if Path(name) == theirs:
            raise PermissionError(errno.EACCES, "Permission denied")
        return really_open(name, *arguments, **named)

    def keep(path, **named):
        if path in (theirs, old):
            raise PermissionError(errno.EACCES, "Permission denied")
        really_unlink(path, **named)

    monkeypatch.setattr(Path, "unlink", keep)
    with monkeypatch.context() as changed:
        changed.setattr(os, "open", refuse)
        assert CacheRoom(cache.folder, None).outlook().in_use == size("a" * 6)
        for text in ("b" * 6, "c" * 6):
            check(cache.rows([text]), [text])
    check(cache.rows(["d" * 6, "e" * 6]), ["d" * 6, "e" * 6])
    assert theirs.exists()
    assert cache.on_the_fly == ["d" * 6, "e" * 6]


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free some space there"),
        (errno.EACCES, "make it writable for this user"),
        (errno.EIO, "see what is wrong with it"),
    ],
)
def test_what_to_do_about_a_cache_that_cannot_be_written_follows_from_the_reason(tmp_path, number, advice):
    said = str(cannot_write(tmp_path, OSError(number, os.strerror(number))))
    assert said.startswith(f"cannot write the cache {tmp_path}: {os.strerror(number)}; {advice}")


def test_nothing_is_dropped_for_what_cannot_fit(tmp_path):
    cache = Cache(tmp_path / "cache", limit=2 * size("a" * 6))
    cache.rows(["a" * 6])
    cache.rows([letter * 6 for letter in "bcdefghijklmnopqrstuvwxyz"])
    cache.computed.clear()
    cache.rows(["a" * 6])
    assert not cache.computed


def test_of_several_groups_those_are_kept_that_fit(tmp_path):
    cache = Cache(tmp_path / "cache", limit=2 * size("a" * 6))
    check(cache.rows(["a" * 6], group(1), group(2), group(3)), ["a" * 6], group(1))
    assert cache.computed == [(1, "a" * 6), (2, "a" * 6)]
    assert not cache.on_the_fly


def test_a_disk_with_too_little_room_is_not_filled(cache, monkeypatch, caplog):
    free = SPARE_BYTES + size("a") - 1
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(total=10**12, free=free))
    with caplog.at_level(logging.WARNING):
        check(cache.rows(["a"]), ["a"])
    assert "no room for" in caplog.text
    assert not cache.computed
    assert cache.on_the_fly == ["a"]


def test_what_cannot_be_written_at_all_is_computed_on_the_fly(tmp_path, caplog):
    (tmp_path / "cache").write_text("a file where the folder should be")
    cache = Cache(tmp_path / "cache")
    with caplog.at_level(logging.WARNING):
        check(cache.rows(["a"]), ["a"])
    assert "cannot write the cache" in caplog.text


def test_files_of_the_former_layout_and_what_a_kill_left_are_removed(cache):
    old = cache.folder / "activations"
    left = old / "0123" / UNFINISHED
    left.parent.mkdir(parents=True)
    for path in (old / "a.safetensors", old / "a.json", old / "a.lock", old / ".packing-a.safetensors", left):
        path.write_bytes(b"x" * 100)
    cache.rows(["a"])
    assert cache.held == size("a")
    assert not left.parent.exists()


def test_the_outlook_counts_what_could_be_dropped_as_room(tmp_path):
    cache = Cache(tmp_path / "cache", limit=10_000)
    used = cache.rows(["a" * 6])
    cache.rows(["b" * 6])
    outlook = CacheRoom(cache.folder, 10_000).outlook()
    assert (outlook.held, outlook.in_use) == (2 * size("a" * 6), size("a" * 6))
    assert outlook.room == 10_000 - size("a" * 6)
    assert Outlook(None, 50, 20, 100).room == 130
    assert "limit 50 GB, 71 GB free" in str(Outlook(50 * 10**9, 0, 0, 71 * 10**9))
    del used


FULL_DISK = """
import hashlib, logging, resource, signal, sys, torch
from pathlib import Path
from pipelines.training import cache_room
from pipelines.training.cache_rows import RowCache
from pipelines.training.cache_segments import RowGroup, digest_rows
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
if sys.argv[2] == "while writing":  # as on a file system that cannot set space aside
    cache_room._allocated = lambda path, size: (
        cache_room.os.open(path, cache_room.os.O_RDWR | cache_room.os.O_CREAT, 0o600)
    )
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
logging.basicConfig(format="warning: %(message)s")
rows = RowCache(cache_room.CacheRoom(Path(sys.argv[1]), None)).rows(
    [RowGroup("activations", {}, 3, torch.float32)], digest_rows([hashlib.sha256(b"").hexdigest()]), [5000],
    compute=lambda numbers, groups: [([0], [[torch.zeros(5000, 3)]])],
    on_the_fly=lambda numbers: [torch.ones(5000, 3)] * len(numbers), stage=lambda groups: "computing",
)
assert rows.rows([0])[0].sum() == 15000
"""


@pytest.mark.parametrize("when", ["setting space aside", "while writing"])
def test_a_full_disk_is_said_leaves_nothing_and_the_rows_are_computed_on_the_fly(tmp_path, when):
    done = subprocess.run(
        [sys.executable, "-P", "-c", FULL_DISK, tmp_path, when], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("warning: cannot write the cache")
    assert "1 of 1 rows of activations are computed again" in done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def killed_at(place: str, work) -> int:
    """The signal that ended a child process which was killed at a place of this work."""
    child = os.fork()
    if child == 0:
        fault_points.arm(lambda reached: os.kill(os.getpid(), signal.SIGKILL) if reached == place else None)
        try:
            work()
        finally:
            os._exit(1)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("place", ["cache.rows-written", "cache.rows-named", "cache.segment-dropped"])
def test_a_kill_at_any_step_leaves_whole_segments_and_keeps_the_limit(tmp_path, place):
    cache = Cache(tmp_path / "cache", limit=2 * size("a" * 6))
    cache.rows(["a" * 6], group(0))
    cache.rows(["b" * 6], group(0))
    assert killed_at(place, lambda: cache.rows(["c" * 6], group(1))) == signal.SIGKILL
    check(cache.rows(["c" * 6], group(1)), ["c" * 6], group(1))
    assert not cache.on_the_fly
    assert cache.held <= cache.limit
    assert {path.suffix for path in cache.folder.rglob("*") if path.is_file()} == {".safetensors"}
    for path in cache.segments:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.stem


MANY = """
import random, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.pipelines.test_cache_rows import Cache, check, group, size
cache, draw = Cache(Path(sys.argv[2]), limit=6 * size("aaaaaa")), random.Random(sys.argv[3])
for _ in range(60):
    texts = [draw.choice("abcdefgh") * 6 for _ in range(3)]
    of = group(draw.randrange(3))
    check(cache.rows(texts, of, group(3)), texts, of)
    assert cache.held <= cache.limit
"""


def test_processes_that_read_write_and_make_room_at_once_keep_the_limit_and_the_rows(tmp_path):
    root = Path(__file__).parents[2]
    processes = [
        subprocess.Popen(
            [sys.executable, "-P", "-c", MANY, root, tmp_path, str(seed)], stderr=subprocess.PIPE, text=True
        )
        for seed in range(3)
    ]
    ends = [(process.communicate()[1], process.returncode) for process in processes]
    assert [code for _, code in ends] == [0, 0, 0], ends


def test_digests_are_kept_as_bytes():
    digests = ["ab" * 32, "01" * 32]
    assert np.array_equal(digest_rows(digests), [[0xAB] * 32, [1] * 32])
