"""What is particular to a store in S3: parts, requests, prefixes, copies, settings. test_store.py has what both do."""

import hashlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from registry import fault_points
from registry.artifacts.s3_store import S3ArtifactStore, S3Limits
from registry.artifacts.store import blob_key
from registry.errors import ArtifactMissing, InvalidInput, StorageError
from tests.registry.artifacts.conftest import SMALL_PARTS, Bucket
from tests.s3_server import ACCESS_KEY, SECRET_KEY, SESSION_TOKEN, Exchange, FaultyProxy, Request, answers, silence

HELLO = hashlib.sha256(b"hello").hexdigest()
PART = SMALL_PARTS.part


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def uses(store: S3ArtifactStore) -> list[Callable[[], object]]:
    return [
        lambda: store.put(b"hello"),
        lambda: store.fetch(HELLO),
        lambda: store.read(HELLO),
        lambda: store.verify(HELLO),
        lambda: store.missing([HELLO]),
        lambda: list(store.blobs()),
        lambda: store.remove(HELLO),
        lambda: store.now(),
        lambda: store.clear_unfinished(before=datetime.now(UTC), dry_run=False),
    ]


# Parts and requests


@pytest.mark.parametrize("size", [PART - 1, PART, 2 * PART + 1])
def test_a_large_blob_goes_up_in_parts_and_comes_back_whole(bucket: Bucket, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(data)
    for put in (lambda: bucket.store().put(data), lambda: bucket.store().put_file(tmp_path / "file")):
        digest = put()
        assert bucket.held() == {blob_key(digest): data}
        stored = bucket.client.head_object(Bucket=bucket.bucket, Key=f"{bucket.prefix}/{blob_key(digest)}")
        parts = -(-size // PART)
        assert stored["ETag"].strip('"').endswith(f"-{parts}") == (size >= PART)
        assert bucket.store().read(digest) == data
        bucket.store().remove(digest)
    assert bucket.uploads() == []


def test_a_blob_is_uploaded_once_and_read_back(bucket: Bucket, s3_proxy: FaultyProxy, tmp_path: Path) -> None:
    data = b"hello" * 1000
    (tmp_path / "file").write_bytes(data)
    store = bucket.store()
    store.put(data)
    assert s3_proxy.sizes() == [("GET", 0), ("PUT", len(data)), ("GET", 0)]
    for again in (lambda: store.put(data), lambda: store.put_file(tmp_path / "file"), lambda: bucket.store().put(data)):
        again()
        assert s3_proxy.sizes() == [("GET", 0), ("PUT", 0)], "compared, and copied onto itself by the server"


def test_what_s3_cannot_copy_in_one_request_is_uploaded_again(bucket: Bucket, s3_proxy: FaultyProxy) -> None:
    store = bucket.store(S3Limits(copy=4))
    store.put(b"hello")
    s3_proxy.sizes()
    store.put(b"hello")
    assert s3_proxy.sizes() == [("GET", 0), ("PUT", 5), ("GET", 0)]
    assert store.read(HELLO) == b"hello"


def test_a_blob_that_goes_while_it_is_put_again_is_uploaded(bucket: Bucket, s3_proxy: FaultyProxy) -> None:
    """Another machine sweeps between the comparison and the copy."""
    store = bucket.store()
    store.put(b"hello")

    def sweep(request: Request) -> None:
        if request.method == "PUT" and request.size == 0:
            bucket.client.delete_object(Bucket=bucket.bucket, Key=f"{bucket.prefix}/{blob_key(HELLO)}")

    s3_proxy.on_request = sweep
    store.put(b"hello")
    assert bucket.held() == {blob_key(HELLO): b"hello"}


def test_looking_for_blobs_reads_none(bucket: Bucket, s3_proxy: FaultyProxy) -> None:
    store = bucket.store()
    digests = {store.put(bytes([number]) * 1000) for number in range(5)}
    s3_proxy.sizes()
    assert store.missing(digests) == set()
    assert s3_proxy.sizes() == [("HEAD", 0)] * 5


@pytest.mark.parametrize("size", [1000, 2 * PART])
@pytest.mark.parametrize("change", [lambda data: data + b"!", lambda data: data[:-1], lambda data: b"!" + data[1:]])
def test_a_file_that_changes_while_it_is_read_is_not_stored(
    bucket: Bucket, s3_proxy: FaultyProxy, tmp_path: Path, size: int, change: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "file"
    data = bytes(size)
    path.write_bytes(data)

    def change_once(request: Request) -> None:
        if path.read_bytes() == data:  # and its digest is known
            path.write_bytes(change(data))

    s3_proxy.on_request = change_once
    with pytest.raises(InvalidInput, match="file: changed while it was read; nothing was stored"):
        bucket.store().put_file(path)
    assert bucket.held() == {}
    assert bucket.uploads() == []


def test_a_file_that_cannot_be_read_twice_is_refused(bucket: Bucket, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = subprocess.Popen(["sh", "-c", f"echo hello > {tmp_path / 'pipe'}"])
    with pytest.raises(InvalidInput, match="pipe: cannot be read"):
        bucket.store().put_file(tmp_path / "pipe")
    assert writer.wait() == 0
    assert bucket.held() == {}


# What others do in the same bucket


def test_stores_in_one_bucket_do_not_see_each_other(bucket: Bucket) -> None:
    prefixes = ["", "a", "ab", "a/b", "sha256", "a/sha256"]
    places = [Bucket(bucket.client, bucket.bucket, bucket.copies / str(n), p) for n, p in enumerate(prefixes)]
    roots = [f"s3://{bucket.bucket}/{prefix}".removesuffix("/") for prefix in prefixes]
    stores = [
        S3ArtifactStore.at(root, cache=place.copies, cache_bytes=10**6, limits=SMALL_PARTS)
        for root, place in zip(roots, places, strict=True)
    ]
    digests = [store.put(root.encode()) for root, store in zip(roots, stores, strict=True)]
    for root, prefix in zip(roots, prefixes, strict=True):
        key = "/".join(part for part in (prefix, blob_key(HELLO)) if part)
        bucket.client.create_multipart_upload(Bucket=bucket.bucket, Key=key)
        assert root.endswith(prefix)
    for store, digest in zip(stores, digests, strict=True):
        assert [blob.digest for blob in store.blobs()] == [digest]
        assert store.missing(digests) == set(digests) - {digest}
        for other in set(digests) - {digest}:
            store.remove(other)
            with pytest.raises(ArtifactMissing):
                store.fetch(other)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    assert [store.clear_unfinished(before=tomorrow, dry_run=False) for store in stores] == [1] * len(stores)
    assert bucket.uploads() == []
    assert [store.missing([digest]) for store, digest in zip(stores, digests, strict=True)] == [set()] * len(stores)


def test_listing_goes_on_over_all_pages(bucket: Bucket, s3_proxy: FaultyProxy) -> None:
    contents = [bytes([number]) for number in range(22)]
    for data in contents:
        bucket.overwrite(blob_key(sha256(data)), data)
    assert {blob.digest for blob in bucket.store().blobs()} == set(map(sha256, contents))
    assert len(s3_proxy.sizes()) == 4, f"{len(contents)} blobs by {SMALL_PARTS.page}"


# Kills


PUT_TWO_PARTS = """
import sys
from pathlib import Path
from registry.artifacts.s3_store import S3ArtifactStore, S3Limits
S3ArtifactStore.at(sys.argv[1], cache=Path("/nonexistent"), cache_bytes=1, limits=S3Limits(part=5 << 20)).put(
    bytes(11_000_000)
)
"""


def test_an_upload_that_is_killed_leaves_no_blob_and_what_it_leaves_is_cleared(
    bucket: Bucket, s3_proxy: FaultyProxy
) -> None:
    data = bytes(11_000_000)
    s3_proxy.fail(silence, suffers=lambda request: "partNumber=2" in request.target)
    process = subprocess.Popen([sys.executable, "-P", "-c", PUT_TWO_PARTS, bucket.url])
    while not any("partNumber=2" in request.target for request in s3_proxy.requests):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    s3_proxy.mend()
    store = bucket.store()
    assert bucket.held() == {}
    assert store.missing([sha256(data)]) == {sha256(data)}
    assert len(bucket.uploads()) == 1
    # The server says of every upload that it began in 2010.
    assert store.clear_unfinished(before=datetime(2010, 1, 1, tzinfo=UTC), dry_run=False) == 0
    for dry_run in (True, False):
        assert store.clear_unfinished(before=store.now(), dry_run=dry_run) == 1
    assert bucket.uploads() == []
    assert store.clear_unfinished(before=store.now(), dry_run=False) == 0
    assert store.read(store.put(data)) == data


@pytest.mark.parametrize(
    "place", ["s3.compared", "s3.uploaded", "s3.read-back", "s3.made-young", "s3.removed", "cache.written"]
)
def test_a_kill_at_any_step_leaves_whole_blobs(
    bucket: Bucket, killed: Callable[[Callable[[], None]], None], place: str
) -> None:
    store = bucket.store()

    def work() -> None:
        fault_points.arm(lambda at: os.kill(os.getpid(), signal.SIGKILL) if at == place else None)
        store.put(b"hello")
        store.put(b"hello")
        store.fetch(HELLO)
        store.remove(HELLO)

    killed(work)
    assert bucket.held() in ({}, {blob_key(HELLO): b"hello"})
    assert store.read(store.put(b"hello")) == b"hello"


def test_a_store_that_processes_inherit_shares_no_connection(
    bucket: Bucket,
    s3_proxy: FaultyProxy,
    monkeypatch: pytest.MonkeyPatch,
    together: Callable[[int, Callable[[int], object]], list[object]],
) -> None:
    """Answers would reach the wrong one of them. The proxy, unlike the server, keeps connections open."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    store = bucket.store()
    contents = {store.put(bytes([number]) * 1000): number for number in range(4)}

    def work(number: int) -> str:
        for digest in list(contents) * 5:
            store.verify(digest)
        return "done"

    assert together(4, work) == ["done"] * 4


# Local copies


def test_what_was_read_is_not_read_again_over_the_network(bucket: Bucket, s3_proxy: FaultyProxy) -> None:
    store = bucket.store()
    store.put(b"hello")
    s3_proxy.sizes()
    path = store.fetch(HELLO)
    assert s3_proxy.sizes() == [("GET", 0)]
    assert (store.fetch(HELLO), store.read(HELLO), bucket.store().fetch(HELLO)) == (path, b"hello", path)
    assert s3_proxy.sizes() == []
    path.chmod(0o644)
    path.write_bytes(b"jello")
    assert store.fetch(HELLO).read_bytes() == b"hello"
    assert s3_proxy.sizes() == [("GET", 0)]


def test_copies_stay_within_their_limit(bucket: Bucket) -> None:
    store = bucket.store(cache_bytes=2500)
    for number in range(5):
        path = store.fetch(store.put(bytes([number]) * 1000))
        os.utime(path, (1e9, 1e9))
    store.fetch(store.put(b"last"))
    assert sum(path.stat().st_size for path in bucket.copies.rglob("*") if path.is_file()) == 2004


def test_a_place_for_copies_that_cannot_be_written_is_named(bucket: Bucket) -> None:
    store = bucket.store()
    store.put(b"hello")
    bucket.copies.write_text("a file")
    for read in (store.fetch, store.read):
        with pytest.raises(StorageError, match=f"{bucket.copies}: Not a directory.*TRUNKLINE_HOME"):
            read(HELLO)
    store.verify(HELLO)
    assert store.missing([HELLO]) == set()


# What the account may do


def test_reading_never_writes_and_takes_no_right_to(bucket: Bucket, s3_proxy: FaultyProxy) -> None:
    bucket.store().put(b"hello")
    s3_proxy.sizes()
    store = bucket.store()
    s3_proxy.fail(answers(403, "AccessDenied"), suffers=lambda request: request.method not in ("GET", "HEAD"))
    assert store.read(HELLO) == store.fetch(HELLO).read_bytes() == b"hello"
    store.verify(HELLO)
    assert store.missing([HELLO]) == set()
    assert len(list(store.blobs())) == 1
    assert store.now() > datetime(2020, 1, 1, tzinfo=UTC)
    assert {method for method, _ in s3_proxy.sizes()} == {"GET", "HEAD"}
    for write, permission in (
        (lambda: store.put(b"hello"), "s3:PutObject"),
        (lambda: store.put(b"other"), "s3:PutObject"),
        (lambda: store.remove(HELLO), "s3:DeleteObject"),
    ):
        with pytest.raises(StorageError, match=rf"access denied \(403 AccessDenied\); give the account {permission}"):
            write()
    assert bucket.held() == {blob_key(HELLO): b"hello"}


def test_a_bucket_that_is_not_there_is_named_and_no_blob_is_called_missing(bucket: Bucket) -> None:
    store = S3ArtifactStore.at("s3://no-such-bucket/x", cache=bucket.copies, cache_bytes=1)
    for use in uses(store):
        with pytest.raises(StorageError, match=r"s3://no-such-bucket/x: there is no such bucket; .*ARTIFACT_ROOT"):
            use()


def test_a_server_that_cannot_be_reached_is_named(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
        store = bucket.store()
        for use in uses(store):
            with pytest.raises(StorageError, match=f"in {bucket.url}|{bucket.url}") as error:
                use()
            assert f"{address} cannot be reached; check the network" in str(error.value)


def test_without_credentials_it_says_where_they_come_from(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    store = bucket.store()
    for use in uses(store):
        with pytest.raises(StorageError, match="no credentials that can be used; set AWS_ACCESS_KEY_ID and"):
            use()


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (403, "AccessDenied", "access denied (403 AccessDenied); give the account s3:"),
        (401, "Unauthorized", "access denied (401 Unauthorized); give the account s3:"),
        (403, "InvalidAccessKeyId", "the credentials are refused; check AWS_ACCESS_KEY_ID"),
        (403, "SignatureDoesNotMatch", "the credentials are refused; check AWS_ACCESS_KEY_ID"),
        (400, "ExpiredToken", "the credentials have expired; renew them"),
        (403, "RequestTimeTooSkewed", "this machine's clock is wrong"),
        (301, "PermanentRedirect", "the server sends the request elsewhere; set AWS_DEFAULT_REGION"),
        (400, "AuthorizationHeaderMalformed", "the server sends the request elsewhere; set AWS_DEFAULT_REGION"),
        (400, "IllegalLocationConstraintException", "the server sends the request elsewhere"),
        (404, "NoSuchBucket", "there is no such bucket; create it, or correct TRUNKLINE_ARTIFACT_ROOT"),
        (403, "InvalidObjectState", "the object is in an archive"),
        (501, "NotImplemented", "the server cannot do this"),
        (507, "XMinioStorageFull", "the server has no space left"),
        (500, "InternalError", "the server answered 500 InternalError, 2 times; it is down, overloaded"),
        (503, "ServiceUnavailable", "the server answered 503 ServiceUnavailable, 2 times; it is down"),
        (418, "Teapot<b>", "the server answered 418 Teapot; check that TRUNKLINE_ARTIFACT_ROOT"),
    ],
)
def test_an_error_of_the_server_says_what_to_do(
    bucket: Bucket, s3_proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch, status: int, code: str, said: str
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    store = bucket.store()
    s3_proxy.fail(answers(status, code))
    with pytest.raises(StorageError, match=f"cannot read blob {HELLO} in {bucket.url}: ") as error:
        store.fetch(HELLO)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (400, "the request is refused (400); check AWS_ACCESS_KEY_ID"),
        (403, "access denied (403); give the account s3:GetObject and s3:ListBucket"),
        (301, "the server sends the request elsewhere"),
        (500, "the server answered 500, 2 times"),
    ],
)
def test_an_error_without_words_is_explained_by_its_status(
    bucket: Bucket, s3_proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch, status: int, said: str
) -> None:
    """The answer to HEAD has no body."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    store = bucket.store()
    s3_proxy.fail(answers(status, "Unseen"))
    with pytest.raises(StorageError, match=f"cannot look for blob {HELLO} in {bucket.url}: ") as error:
        store.missing([HELLO])
    assert said in str(error.value)


def test_a_server_of_another_kind_is_recognised(
    bucket: Bucket, s3_proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    s3_proxy.fail(lambda exchange: exchange.say(200, "<!doctype html><title>Welcome</title><br>"))
    store = bucket.store()
    for use in (lambda: list(store.blobs()), lambda: store.now(), lambda: store.put(b"hello")):
        with pytest.raises(StorageError, match=r"or no S3: .*check AWS_ENDPOINT_URL"):
            use()


def test_a_server_that_does_not_say_what_time_it_is_cannot_be_swept(bucket: Bucket, s3_proxy: FaultyProxy) -> None:
    def without_date(exchange: Exchange) -> None:
        answer = exchange.forward()
        headers = {name: value for name, value in answer.headers.items() if name.lower() != "date"}
        exchange.send(answer._replace(headers=headers))

    s3_proxy.fail(without_date)
    with pytest.raises(StorageError, match=f"the server of {bucket.url} does not say what time it is"):
        bucket.store().now()


# Settings


def test_a_request_is_tried_five_times_unless_the_user_says_otherwise(
    bucket: Bucket, s3_proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def tries() -> int:
        s3_proxy.fail(answers(500, "InternalError"))
        with pytest.raises(StorageError, match="500 InternalError"):
            bucket.store().fetch(HELLO)
        return len(s3_proxy.sizes())

    assert tries() == 5
    profile = tmp_path / "config"
    profile.write_text("[profile slow]\nmax_attempts = 3\nretry_mode = legacy\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(profile))
    monkeypatch.setenv("AWS_PROFILE", "slow")
    assert tries() == 3
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    assert tries() == 1


def test_a_server_with_a_name_is_asked_for_the_bucket_by_path(
    bucket: Bucket, s3_proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_proxy.url.replace("127.0.0.1", "localhost"))
    bucket.store().put(b"hello")
    assert {request.target.split("?")[0] for request in s3_proxy.requests} == {
        f"/{bucket.bucket}/{bucket.prefix}/{blob_key(HELLO)}"
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_ENDPOINT_URL", "nonsense with hidden"),
        ("AWS_ENDPOINT_URL", "http://ann:hidden@127.0.0.1:9"),
        ("AWS_MAX_ATTEMPTS", "hidden"),
        ("AWS_PROFILE", "hidden"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_and_not_shown(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(StorageError, match=name) as error:
        bucket.store().fetch(HELLO)
    assert "hidden" not in "".join(traceback.format_exception(error.value))


def test_no_secret_is_ever_shown(
    bucket: Bucket, s3_proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not in errors and what lies behind them, in logs at the level of everything, or in the store's own form."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    shown = []
    with caplog.at_level(logging.DEBUG):
        store = bucket.store()
        for fault in (None, answers(403, "SignatureDoesNotMatch"), answers(500, "InternalError"), "unreachable"):
            if fault == "unreachable":
                monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
                store = bucket.store()
            elif fault is not None:
                s3_proxy.fail(fault)
            for use in uses(store):
                bucket.forget_copies()
                try:
                    use()
                except (StorageError, ArtifactMissing) as error:
                    shown += ["".join(traceback.format_exception(error))]
            shown += [repr(store), str(store), store.location, repr(vars(store))]
    assert len(shown) > 40
    everything = "".join(shown) + caplog.text
    for secret in (ACCESS_KEY, SECRET_KEY, SESSION_TOKEN, "Signature=", "AWS4-HMAC"):
        assert secret not in everything


def test_a_server_that_cannot_list_uploads_has_none_to_clear(
    bucket: Bucket, s3_proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    store = bucket.store()
    s3_proxy.fail(answers(501, "NotImplemented"))
    assert store.clear_unfinished(before=datetime.now(UTC), dry_run=False) == 0
    s3_proxy.fail(answers(403, "AccessDenied"))
    with pytest.raises(StorageError, match="s3:ListBucketMultipartUploads"):
        store.clear_unfinished(before=datetime.now(UTC), dry_run=False)
