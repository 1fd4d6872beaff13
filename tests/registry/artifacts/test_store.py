"""What both kinds of artifact store do."""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.artifacts.local_store import LocalArtifactStore
from registry.artifacts.s3_store import S3ArtifactStore
from registry.artifacts.store import ArtifactStore, blob_key, open_store
from registry.errors import ArtifactDamaged, ArtifactMissing, InvalidInput, UsageError
from tests.registry.artifacts.conftest import Place

HELLO = hashlib.sha256(b"hello").hexdigest()
NEARLY_DIGESTS = [
    "../../../etc/passwd",
    "a" * 63,
    "a" * 65,
    "A" * 64,
    HELLO + "\n",
    "/" + HELLO[1:],
    HELLO[:62] + "..",
    "",
]

several = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def uses(store: ArtifactStore) -> list[Callable[[str], Any]]:
    """Everything that takes a digest."""
    return [store.fetch, store.read, store.verify, store.remove, lambda digest: store.missing([digest])]


@several
@given(data=st.binary(max_size=200))
def test_what_is_put_is_read_back_by_its_sha256(place: Place, data: bytes) -> None:
    store = place.store()
    digest = store.put(data)
    assert digest == sha256(data)
    assert store.read(digest) == data
    assert store.fetch(digest).read_bytes() == data
    assert store.missing([digest]) == set()


def test_a_blob_lies_in_the_documented_place_and_nothing_else_does(place: Place) -> None:
    place.store().put(b"hello")
    assert place.held() == {f"sha256/{HELLO[:2]}/{HELLO[2:]}": b"hello"}


def test_a_blob_without_a_byte_is_a_blob(place: Place) -> None:
    store = place.store()
    digest = store.put(b"")
    assert (store.read(digest), store.fetch(digest).read_bytes(), store.missing([digest])) == (b"", b"", set())
    store.verify(digest)
    assert [blob.size for blob in store.blobs()] == [0]


def test_what_is_handed_out_cannot_be_written(place: Place) -> None:
    store = place.store()
    assert store.fetch(store.put(b"hello")).stat().st_mode & 0o222 == 0


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, 2_560_001])
def test_a_file_is_put_under_the_digest_of_its_bytes(place: Place, tmp_path: Path, size: int) -> None:
    data = (bytes(range(251)) * (size // 251 + 1))[:size]
    (tmp_path / "file").write_bytes(data)
    store = place.store()
    assert store.put_file(tmp_path / "file") == sha256(data)
    assert store.put(data) == store.put_file(tmp_path / "file")
    assert place.held() == {blob_key(sha256(data)): data}


def test_a_source_that_cannot_be_read_is_blamed_and_leaves_nothing(place: Place, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"missing: cannot be read: No such file"):
        place.store().put_file(tmp_path / "missing")
    with pytest.raises(InvalidInput, match=r"cannot be read: Is a directory"):
        place.store().put_file(tmp_path)
    assert place.held() == {}


def test_a_blob_that_is_not_there_is_missing(place: Place) -> None:
    store = place.store()
    store.put(b"another")
    for use in (store.fetch, store.read, store.verify):
        with pytest.raises(ArtifactMissing, match=f"blob {HELLO} is not in .*TRUNKLINE_ARTIFACT_ROOT"):
            use(HELLO)


def test_only_the_missing_are_missing(place: Place) -> None:
    store = place.store()
    there = {store.put(bytes([number])) for number in range(20)}
    absent = {sha256(f"absent {number}".encode()) for number in range(20)}
    assert store.missing([*there, *absent, *absent]) == absent
    assert store.missing(there) == set()
    assert store.missing([]) == set()


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-1], lambda data: data + b"!", lambda data: bytes([data[0] ^ 1]) + data[1:], lambda _: b""],
    ids=["truncated", "longer", "bit flipped", "empty"],
)
def test_a_damaged_blob_is_never_handed_out_and_is_mended_by_its_source(
    place: Place, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    (tmp_path / "source").write_bytes(b"hello")
    store = place.store()
    for mend in (lambda: store.put(b"hello"), lambda: store.put_file(tmp_path / "source")):
        place.overwrite(blob_key(HELLO), damage(b"hello"))
        place.forget_copies()
        for use in (store.fetch, store.read, store.verify):
            with pytest.raises(ArtifactDamaged, match=f"blob {HELLO} in .* is damaged"):
                use(HELLO)
        mend()
        assert place.held() == {blob_key(HELLO): b"hello"}
        assert store.read(HELLO) == b"hello"
        store.verify(HELLO)


def test_a_copy_at_hand_does_not_hide_what_became_of_the_stored_blob(place: Place) -> None:
    store = place.store()
    store.fetch(store.put(b"hello"))
    place.overwrite(blob_key(HELLO), b"jello")
    with pytest.raises(ArtifactDamaged, match=HELLO):
        store.verify(HELLO)
    store.remove(HELLO)
    with pytest.raises(ArtifactMissing, match=HELLO):
        store.verify(HELLO)


@given(st.text())
def test_only_a_digest_is_ever_made_into_a_path_or_a_key(text: str) -> None:
    nowhere = open_store("s3://no-such-bucket", cache=Path("/nonexistent"), cache_bytes=1)
    for store in (LocalArtifactStore(Path("/nonexistent")), nowhere):
        for use in uses(store):
            with pytest.raises(InvalidInput, match="is not a sha256"):
                use(text)


@pytest.mark.parametrize("digest", NEARLY_DIGESTS)
def test_what_nearly_is_a_digest_is_refused(place: Place, digest: str) -> None:
    store = place.store()
    store.put(b"hello")
    for use in uses(store):
        with pytest.raises(InvalidInput, match="is not a sha256"):
            use(digest)
    assert len(place.held()) == 1


def test_every_blob_is_listed_and_strange_names_are_passed_over(place: Place) -> None:
    store = place.store()
    contents = [bytes([number]) * number for number in range(20)]
    for content in contents:
        store.put(content)
    strange = [
        "readme.txt",
        f"sha256/{HELLO}",
        f"sha256/{HELLO[:2]}/{HELLO[2:]}.bak",
        f"sha256/{HELLO[:2]}/{HELLO[2:-1]}",
        f"sha256/{HELLO[:4]}/{HELLO[4:]}",
        f"sha256/{HELLO[:2].upper()}/{HELLO[2:]}",
        f"sha256/{HELLO[:2]}/more/{HELLO[2:]}",
        f"other/{HELLO[:2]}/{HELLO[2:]}",
        "sha256/zz/für & +%20 <é>",
    ]
    for name in strange:
        place.overwrite(name, b"hello")
    assert {blob.digest: blob.size for blob in store.blobs()} == {sha256(data): len(data) for data in contents}
    assert len(list(store.blobs())) == len(contents)


def test_an_empty_store_holds_no_blob(place: Place) -> None:
    assert list(place.store().blobs()) == []
    assert place.store().clear_unfinished(before=datetime.now(UTC) + timedelta(days=1), dry_run=False) == 0


def test_a_removed_blob_has_gone_alone_and_can_be_removed_again(place: Place) -> None:
    store = place.store()
    store.put(b"hello")
    other = store.put(b"other")
    store.remove(HELLO)
    store.remove(HELLO)
    assert store.missing([HELLO, other]) == {HELLO}
    assert place.held() == {blob_key(other): b"other"}
    assert store.read(store.put(b"hello")) == b"hello"


def test_a_blob_that_is_put_again_is_young_again(place: Place, tmp_path: Path) -> None:
    """A sweep takes what is old: what was just put is about to be registered."""
    store = place.store()
    (tmp_path / "file").write_bytes(b"hello")
    store.put(b"hello")
    for again in (lambda: store.put(b"hello"), lambda: store.put_file(tmp_path / "file")):
        place.grow_old()
        (before,) = store.blobs()
        again()
        (after,) = store.blobs()
        assert after.stored_at > before.stored_at
        assert place.held() == {blob_key(HELLO): b"hello"}


def test_times_are_those_of_the_store_s_own_clock(place: Place) -> None:
    store = place.store()
    before = store.now()
    store.put(b"hello")
    (blob,) = store.blobs()
    assert blob.stored_at.utcoffset() == timedelta(0)
    assert timedelta(seconds=-1) <= blob.stored_at - before <= timedelta(minutes=5)
    assert timedelta(0) <= store.now() - before <= timedelta(minutes=5)


CONTENTS = [b"", b"a", b"hello", bytes(3000)]
DEEDS = st.lists(
    st.tuples(
        st.sampled_from(["put", "put_file", "remove", "spoil", "read", "fetch", "verify"]), st.sampled_from(CONTENTS)
    ),
    max_size=10,
)


@several
@given(deeds=DEEDS)
def test_whatever_is_done_it_holds_what_was_put_and_hands_out_nothing_else(
    new_place: Callable[[], Place], tmp_path: Path, deeds: list[tuple[str, bytes]]
) -> None:
    place = new_place()
    store = place.store()
    held: dict[str, bytes] = {}
    for deed, data in deeds:
        digest = sha256(data)
        match deed:
            case "put":
                held[digest] = data
                assert store.put(data) == digest
            case "put_file":
                held[digest] = data
                (tmp_path / "file").write_bytes(data)
                assert store.put_file(tmp_path / "file") == digest
            case "remove":
                held.pop(digest, None)
                store.remove(digest)
            case "spoil" if digest in held:
                held[digest] = data + b"!"
                place.overwrite(blob_key(digest), held[digest])
            case "read" | "fetch" | "verify" if held.get(digest) == data:
                getattr(store, deed)(digest)
            case "read" | "fetch" | "verify":
                place.forget_copies()
                with pytest.raises(ArtifactDamaged if digest in held else ArtifactMissing):
                    getattr(store, deed)(digest)
    assert store.missing(map(sha256, CONTENTS)) == set(map(sha256, CONTENTS)) - held.keys()
    assert place.held() == {blob_key(digest): data for digest, data in held.items()}
    assert {blob.digest: blob.size for blob in store.blobs()} == {digest: len(data) for digest, data in held.items()}


def test_many_processes_may_put_and_read_the_same_blobs(
    place: Place, together: Callable[[int, Callable[[int], Any]], list[Any]]
) -> None:
    contents = [bytes([number]) * 300_000 for number in range(3)]
    store = place.store()  # one store, that every process has inherited
    first = store.put(contents[0])

    def work(number: int) -> bool:
        digests = [store.put(contents[(number + step) % 3]) for step in range(3)]
        return sorted(map(store.read, [first, *digests])) == sorted([contents[0], *contents])

    assert together(6, work) == [True] * 6
    assert place.held() == {blob_key(sha256(data)): data for data in contents}


def test_many_threads_may_use_one_store(place: Place) -> None:
    store = place.store()
    contents = [bytes([number % 5]) * 10_000 for number in range(40)]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda data: store.read(store.put(data)), contents)) == contents
    assert len(place.held()) == 5


def test_the_root_decides_which_kind_of_store_is_opened(tmp_path: Path) -> None:
    folder = open_store(str(tmp_path), cache=tmp_path / "cache", cache_bytes=1)
    bucket = open_store("s3://bucket/prefix/", cache=tmp_path / "cache", cache_bytes=1)
    assert (type(folder), folder.location) == (LocalArtifactStore, str(tmp_path))
    assert (type(bucket), bucket.location) == (S3ArtifactStore, "s3://bucket/prefix")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("root", ["https://ann:secret@bucket", "file:///srv/blobs", "gs://bucket", "S3://bucket"])
def test_a_root_of_another_kind_is_refused_without_showing_what_it_holds(root: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"write a folder's path, or s3://bucket/prefix") as refused:
        open_store(root, cache=tmp_path, cache_bytes=1)
    assert "secret" not in str(refused.value)


def test_a_store_is_whose_claims_it_first_until_it_is_taken(place: Place) -> None:
    store = place.store()
    assert store.owner() is None
    assert store.claim("one") == "one"
    assert store.claim("two") == "one"
    assert place.store().owner() == "one"
    store.take("two")
    assert store.owner() == "two"
    store.put(b"hello")
    assert [blob.digest for blob in store.blobs()] == [HELLO]
