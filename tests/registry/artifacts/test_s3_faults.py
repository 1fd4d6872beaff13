"""A server and a network that fail: a few faults go unnoticed, many are one error, and nothing wrong is ever seen."""

import dataclasses
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from registry.artifacts.s3_store import S3ArtifactStore
from registry.artifacts.store import blob_key
from registry.errors import ArtifactDamaged, StorageError
from tests.registry.artifacts.conftest import SMALL_PARTS, Bucket
from tests.s3_server import (
    Exchange,
    Fault,
    FaultyProxy,
    Request,
    answers,
    cut_before_the_answer,
    cut_before_the_request,
    cut_in_the_answer,
    silence,
    wrong_bytes,
)

IMPATIENT = dataclasses.replace(SMALL_PARTS, read=0.25)
FAULTS: dict[str, Fault] = {
    "500": answers(500, "InternalError"),
    "503": answers(503, "ServiceUnavailable"),
    "cut before the request": cut_before_the_request,
    "cut before the answer": cut_before_the_answer,
    "cut in the answer": cut_in_the_answer,
    "silence": silence,
}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


THERE = b"there" * 100
OTHER = b"other" * 100
LARGE = bytes(range(256)) * (11 << 12)  # three parts


class Deed(NamedTuple):
    do: Callable[[S3ArtifactStore, Path], object]
    gives: object
    leaves: set[bytes]
    """What the bucket holds afterwards; before, it holds THERE."""


def clear(store: S3ArtifactStore, _: Path) -> None:
    store.clear_unfinished(before=store.now(), dry_run=False)


DEEDS: dict[str, Deed] = {
    "put": Deed(lambda store, _: store.put(OTHER), sha256(OTHER), {THERE, OTHER}),
    "put again": Deed(lambda store, _: store.put(THERE), sha256(THERE), {THERE}),
    "put a file": Deed(lambda store, file: store.put_file(file), sha256(OTHER), {THERE, OTHER}),
    "put in parts": Deed(lambda store, _: store.put(LARGE), sha256(LARGE), {THERE, LARGE}),
    "fetch": Deed(lambda store, _: store.fetch(sha256(THERE)).read_bytes(), THERE, {THERE}),
    "read": Deed(lambda store, _: store.read(sha256(THERE)), THERE, {THERE}),
    "verify": Deed(lambda store, _: store.verify(sha256(THERE)), None, {THERE}),
    "missing": Deed(lambda store, _: store.missing([sha256(THERE), sha256(OTHER)]), {sha256(OTHER)}, {THERE}),
    "list": Deed(lambda store, _: [blob.digest for blob in store.blobs()], [sha256(THERE)], {THERE}),
    "remove": Deed(lambda store, _: store.remove(sha256(THERE)), None, set()),
    "clear": Deed(clear, None, {THERE}),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(OTHER)
    return tmp_path / "file"


@pytest.fixture
def ready(bucket: Bucket) -> Callable[[], None]:
    """Puts the bucket back to holding THERE alone."""

    def again() -> None:
        for name in bucket.held():
            bucket.client.delete_object(Bucket=bucket.bucket, Key=f"{bucket.prefix}/{name}")
        bucket.overwrite(blob_key(sha256(THERE)), THERE)
        bucket.forget_copies()

    again()
    return again


def held_whole(bucket: Bucket) -> set[bytes]:
    """What the bucket holds, all of it under its own digest."""
    held = bucket.held()
    assert all(name == blob_key(sha256(data)) for name, data in held.items())
    return set(held.values())


@pytest.mark.slow
@pytest.mark.parametrize("fault", [name for name in FAULTS if name != "silence"])
def test_a_fault_or_two_go_unnoticed(
    bucket: Bucket, s3_proxy: FaultyProxy, ready: Callable[[], None], file: Path, fault: str
) -> None:
    store = bucket.store()
    for name, deed in DEEDS.items():
        ready()
        s3_proxy.fail(FAULTS[fault], times=2)
        assert deed.do(store, file) == deed.gives, name
        assert held_whole(bucket) == deed.leaves, name
    assert bucket.uploads() == []


@pytest.mark.parametrize("name", ["put", "read", "list"])
def test_silence_is_not_waited_for_without_end(
    bucket: Bucket, s3_proxy: FaultyProxy, ready: Callable[[], None], file: Path, name: str
) -> None:
    s3_proxy.fail(silence, times=1)
    store = bucket.store(dataclasses.replace(SMALL_PARTS, read=1.0))
    assert DEEDS[name].do(store, file) == DEEDS[name].gives


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_lasts_is_one_error_and_what_it_stopped_works_when_it_ends(
    bucket: Bucket,
    s3_proxy: FaultyProxy,
    monkeypatch: pytest.MonkeyPatch,
    ready: Callable[[], None],
    file: Path,
    fault: str,
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    failing, store = bucket.store(IMPATIENT), bucket.store()
    for name, deed in DEEDS.items():
        if fault == "cut in the answer" and name in ("missing", "remove"):
            continue  # their answers have nothing in which they could be cut
        ready()
        s3_proxy.sizes()
        s3_proxy.fail(FAULTS[fault])
        with pytest.raises(StorageError, match=f"cannot .*{bucket.url}: "):
            deed.do(failing, file)
        assert len(s3_proxy.sizes()) <= 4, name
        s3_proxy.mend()
        assert held_whole(bucket) in ({THERE}, deed.leaves), name
        assert deed.do(store, file) == deed.gives, name
        assert held_whole(bucket) == deed.leaves, name


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_stops_all_writing_leaves_whole_blobs(
    bucket: Bucket,
    s3_proxy: FaultyProxy,
    monkeypatch: pytest.MonkeyPatch,
    ready: Callable[[], None],
    file: Path,
    fault: str,
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    failing, store = bucket.store(IMPATIENT), bucket.store()
    for name in ("put", "put again", "put a file", "put in parts", "remove"):
        ready()
        s3_proxy.fail(FAULTS[fault], suffers=lambda request: request.method not in ("GET", "HEAD"))
        try:
            DEEDS[name].do(failing, file)
        except StorageError as error:
            assert bucket.url in str(error)  # noqa: PT017 - an answer without a body cannot be cut in it
        else:
            assert fault == "cut in the answer"
        assert held_whole(bucket) in ({THERE}, DEEDS[name].leaves), name
        s3_proxy.mend()
        assert DEEDS[name].do(store, file) == DEEDS[name].gives, name
        assert held_whole(bucket) == DEEDS[name].leaves, name
    DEEDS["clear"].do(store, file)
    assert bucket.uploads() == []


@pytest.mark.parametrize(
    "broken",
    [
        lambda request: request.method == "PUT",
        lambda request: "partNumber=2" in request.target,
        lambda request: request.method == "POST" and "uploadId" in request.target,
    ],
    ids=["every part", "one part", "the last step"],
)
def test_an_upload_that_fails_halfway_is_taken_back(
    bucket: Bucket, s3_proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch, broken: Callable[[Request], bool]
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    store = bucket.store()
    s3_proxy.fail(FAULTS["500"], suffers=broken)
    with pytest.raises(StorageError, match=f"cannot store blob {sha256(LARGE)} in {bucket.url}: the server answered"):
        store.put(LARGE)
    assert bucket.held() == {}
    assert bucket.uploads() == []
    s3_proxy.mend()
    assert store.read(store.put(LARGE)) == LARGE


def test_a_blob_whose_upload_was_only_not_confirmed_is_whole(
    bucket: Bucket, s3_proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    store = bucket.store()
    s3_proxy.fail(cut_before_the_answer, suffers=lambda request: request.method == "PUT")
    with pytest.raises(StorageError, match="cannot store"):
        store.put(OTHER)
    assert held_whole(bucket) == {OTHER}


def test_a_server_that_asks_to_slow_down_is_given_time(bucket: Bucket, s3_proxy: FaultyProxy) -> None:
    store = bucket.store()
    s3_proxy.fail(answers(503, "SlowDown"), times=1)
    assert store.read(store.put(OTHER)) == OTHER


def is_read(request: Request) -> bool:
    return request.method == "GET" and "?" not in request.target


@pytest.mark.parametrize("times", [1, 2])
def test_bytes_that_change_on_the_way_are_asked_for_again(
    bucket: Bucket, s3_proxy: FaultyProxy, ready: Callable[[], None], times: int
) -> None:
    store = bucket.store()
    for name in ("fetch", "read", "verify"):
        bucket.forget_copies()
        s3_proxy.fail(wrong_bytes, times=times, suffers=is_read)
        assert DEEDS[name].do(store, Path()) == DEEDS[name].gives
    s3_proxy.fail(wrong_bytes, times=times, suffers=is_read)
    assert store.put(THERE) == sha256(THERE)
    assert held_whole(bucket) == {THERE}


def test_bytes_that_always_change_are_never_handed_out(
    bucket: Bucket, s3_proxy: FaultyProxy, ready: Callable[[], None]
) -> None:
    store = bucket.store()
    s3_proxy.fail(wrong_bytes, suffers=is_read)
    for use in (store.fetch, store.read, store.verify):
        s3_proxy.sizes()
        with pytest.raises(ArtifactDamaged, match=sha256(THERE)):
            use(sha256(THERE))
        assert len(s3_proxy.sizes()) == 3
    for data in (THERE, OTHER):
        with pytest.raises(StorageError, match="3 times other bytes came back than were uploaded"):
            store.put(data)
    assert held_whole(bucket) == {THERE, OTHER}
    s3_proxy.mend()
    assert store.read(sha256(THERE)) == THERE


def test_bytes_that_change_on_the_way_up_are_not_stored(bucket: Bucket, s3_proxy: FaultyProxy) -> None:
    """This server believes any checksum: only what is read back says what it holds."""
    store = bucket.store()
    s3_proxy.fail(lambda exchange: exchange.send(exchange.forward(b"!" * 500)), times=2, suffers=is_put)
    assert store.put(OTHER) == sha256(OTHER)
    assert held_whole(bucket) == {OTHER}
    store.remove(sha256(OTHER))
    s3_proxy.fail(lambda exchange: exchange.send(exchange.forward(b"!" * 500)), suffers=is_put)
    with pytest.raises(StorageError, match="other bytes came back than were uploaded; check the server's disks"):
        store.put(OTHER)
    s3_proxy.mend()
    with pytest.raises(ArtifactDamaged):
        store.fetch(sha256(OTHER))
    assert store.read(store.put(OTHER)) == OTHER


def is_put(request: Request) -> bool:
    return request.method == "PUT" and request.size > 0


def test_a_download_that_is_cut_goes_on_where_it_was(bucket: Bucket, s3_proxy: FaultyProxy) -> None:
    data = os.urandom(6 << 20)
    bucket.overwrite(blob_key(sha256(data)), data)
    sent = []

    def cut_after_a_third(exchange: Exchange) -> None:
        answer = exchange.forward()
        sent.append(len(answer.body))
        exchange.send(answer, only=len(data) // 3)
        exchange.cut()

    s3_proxy.fail(cut_after_a_third, times=2, suffers=is_read)
    assert bucket.store().read(sha256(data)) == data
    assert sent == [6 << 20, 4 << 20]
    assert len(s3_proxy.sizes()) == 3


def test_a_download_gets_through_however_often_it_is_cut_while_it_gets_on(
    bucket: Bucket, s3_proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    data = os.urandom(6 << 20)
    bucket.overwrite(blob_key(sha256(data)), data)

    def cut_after_a_little(exchange: Exchange) -> None:
        exchange.send(exchange.forward(), only=(1 << 20) + 100)
        exchange.cut()

    s3_proxy.fail(cut_after_a_little, suffers=is_read)
    assert bucket.store().read(sha256(data)) == data
    assert len(s3_proxy.sizes()) == 6


def test_a_blob_that_is_replaced_while_it_is_read_is_read_anew(bucket: Bucket, s3_proxy: FaultyProxy) -> None:
    """Somebody mends a damaged one: the rest of the new does not belong to the beginning of the old."""
    data = os.urandom(1 << 20)
    bucket.overwrite(blob_key(sha256(data)), bytes(3 << 20))

    def cut_and_mend(exchange: Exchange) -> None:
        exchange.send(exchange.forward(), only=2 << 20)
        bucket.overwrite(blob_key(sha256(data)), data)
        exchange.cut()

    s3_proxy.fail(cut_and_mend, times=1, suffers=is_read)
    assert bucket.store().read(sha256(data)) == data


def test_an_answer_that_ends_without_the_rest_is_asked_for_a_few_times_only(
    bucket: Bucket, s3_proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    store = bucket.store()
    digest = store.put(LARGE)
    answers_in_turn = iter([cut_in_the_answer])
    s3_proxy.fail(
        lambda exchange: next(answers_in_turn, lambda cut_off: cut_off.say(206, ""))(exchange),
        suffers=lambda request: request.method == "GET",
    )
    with pytest.raises(StorageError, match="it ends before its end, 3 times"):
        store.fetch(digest)
    s3_proxy.mend()
    assert store.read(digest) == LARGE
