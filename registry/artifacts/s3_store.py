"""The content-addressed store in an S3 bucket, with local copies of what is read.

<prefix>/sha256/ab/cdef…    blobs, complete from the moment they have this key

Nobody's word is taken for what an object holds: not the server's, whose checksums not every server checks, nor that of
the connection. A blob is stored when it has been read back with its digest, and handed out when it was read with it.
"""

import hashlib
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol, Self

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from registry.artifacts.blob_cache import BlobCache
from registry.artifacts.s3_client import attempts, endpoint, s3_client
from registry.artifacts.s3_errors import error_code, translated
from registry.artifacts.s3_location import S3Location
from registry.artifacts.store import OWNER_KEY, StoredBlob, blob_key, is_digest
from registry.errors import ArtifactDamaged, ArtifactMissing, InvalidInput, StorageError
from registry.fault_points import reached

_CHUNK_BYTES = 1 << 20
_PARTS = 10_000
"""How many parts an upload may have, by S3's rules."""
_TRIES = 3
"""How often bytes are moved before other bytes at the other end are put down to the server."""
_SIDE_BY_SIDE = 8
_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 20.0
_UNSUPPORTED = frozenset({"NotImplemented", "501"})
_THERE_ALREADY = frozenset({"PreconditionFailed", "ConditionalRequestConflict", "412", "409"})
_NO_OBJECT = frozenset({"NoSuchKey", "NotFound", "404"})


@dataclass(frozen=True, slots=True)
class S3Limits:
    """Sizes in bytes and times in seconds; those of S3 itself where it has any."""

    part: int = 8 << 20
    """Larger blobs are uploaded in parts of this size, eight at once; some 20 of them may be in memory."""
    copy: int = 5 << 30
    """S3 copies no larger object in one request."""
    page: int = 1000
    """Objects in one answer to a listing."""
    connect: float = 10.0
    read: float = 60.0
    """The longest silence."""


class _Source(Protocol):
    def read(self, amount: int = -1, /) -> bytes: ...


class S3ArtifactStore:
    """An `ArtifactStore` at `location`. It connects when it is used first, and anew in a process that was forked.

    Credentials, region and endpoint are those of the AWS_* variables and ~/.aws. Reading takes s3:GetObject and
    s3:ListBucket and never writes; storing takes s3:PutObject and s3:AbortMultipartUpload; sweeping s3:DeleteObject and
    s3:ListBucketMultipartUploads.
    """

    def __init__(self, location: S3Location, cache: BlobCache, limits: S3Limits | None = None) -> None:
        self._at = location
        self._cache = cache
        self._limits = limits or S3Limits()
        self._connected: tuple[int, Any] | None = None
        self._bucket_was_there = False

    @classmethod
    def at(cls, url: str, *, cache: Path, cache_bytes: int, limits: S3Limits | None = None) -> Self:
        """The store at `s3://bucket/prefix`, with local copies in the folder `cache` up to `cache_bytes` together.

        Raises:
            UsageError: the URL is not one, or holds credentials.
        """
        return cls(S3Location.parse(url), BlobCache(cache, limit=cache_bytes), limits)

    @property
    def location(self) -> str:
        return self._at.url

    def put(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        self._keep(digest, len(data), lambda: BytesIO(data))
        return digest

    def put_file(self, path: Path) -> str:
        """The file is read twice, once for its key; raises InvalidInput when that gives different bytes."""
        with closing(_File(path)) as file:
            self._keep(file.digest, file.size, file.again)
            return file.digest

    def fetch(self, digest: str) -> Path:
        """The path of a local copy, to be opened within two minutes; later it may have made room for others."""
        return self._cache.find(digest) or self._download(digest)

    def read(self, digest: str) -> bytes:
        path = self.fetch(digest)
        try:
            return path.read_bytes()
        except OSError as error:
            raise StorageError(f"blob {digest}: cannot read its copy {path}: {error.strerror}") from error

    def verify(self, digest: str) -> None:
        for _ in range(_TRIES):
            if self._stored_digest(digest) == digest:
                return
        raise self._damaged(digest)

    def missing(self, digests: Iterable[str]) -> set[str]:
        asked = set(digests)
        for digest in asked:
            self._key(digest)  # refuses what is no digest before anybody is asked
        if not asked:
            return set()
        self._client()  # made once, before many threads want it
        with ThreadPoolExecutor(_SIDE_BY_SIDE) as threads:
            stored = threads.map(self.stored_at, asked)
            return {digest for digest, at in zip(asked, stored, strict=True) if at is None}

    def blobs(self) -> Iterator[StoredBlob]:
        for digest, found in self._listed("list_objects_v2", "Contents", needs="s3:ListBucket"):
            yield StoredBlob(digest, found["Size"], found["LastModified"].astimezone(UTC))

    def stored_at(self, digest: str) -> datetime | None:
        key = self._key(digest)
        with self._asking(f"look for blob {digest} in", needs="s3:GetObject and s3:ListBucket"):
            try:
                found = self._client().head_object(Bucket=self._at.bucket, Key=key)
            except ClientError as error:
                if error_code(error) not in _NO_OBJECT:
                    raise
                self._check_bucket()
                return None
        at: datetime = found["LastModified"]
        return at.astimezone(UTC)

    def remove(self, digest: str) -> None:
        key = self._key(digest)
        with self._asking(f"remove blob {digest} from", needs="s3:DeleteObject"):
            self._client().delete_object(Bucket=self._at.bucket, Key=key)
        reached("s3.removed")

    def owner(self) -> str | None:
        with self._asking("look whose blobs are in", needs="s3:GetObject and s3:ListBucket"):
            try:
                answer = self._client().get_object(Bucket=self._at.bucket, Key=self._at.key(OWNER_KEY))
                text: str = answer["Body"].read().decode()
            except ClientError as error:
                if error_code(error) not in _NO_OBJECT:
                    raise
                return None
        return text

    def claim(self, owner: str) -> str:
        try:
            self._write_owner(owner, IfNoneMatch="*")
        except StorageError as error:
            if not isinstance(error.__cause__, ClientError) or error_code(error.__cause__) not in _THERE_ALREADY:
                raise
        return self.owner() or owner

    def take(self, owner: str) -> None:
        self._write_owner(owner)

    def _write_owner(self, owner: str, **condition: str) -> None:
        with self._asking("write down whose blobs are in", needs="s3:PutObject"):
            key = self._at.key(OWNER_KEY)
            self._client().put_object(Bucket=self._at.bucket, Key=key, Body=owner.encode(), **condition)

    def now(self) -> datetime:
        with self._asking("read the clock of", needs="s3:ListBucket"):
            answer = self._client().list_objects_v2(Bucket=self._at.bucket, Prefix=self._at.key("sha256/"), MaxKeys=1)
        date = answer["ResponseMetadata"]["HTTPHeaders"].get("date", "")
        try:
            return parsedate_to_datetime(date).astimezone(UTC)
        except ValueError:
            raise StorageError(f"the server of {self.location} does not say what time it is: {date!r}") from None

    def clear_unfinished(self, *, before: datetime, dry_run: bool) -> int:
        """Uploads in parts; whatever is smaller is there whole or not at all.

        None on a server that cannot list them: there a rule of the bucket must clear them.
        """
        try:
            found = list(self._listed("list_multipart_uploads", "Uploads", needs="s3:ListBucketMultipartUploads"))
        except StorageError as error:
            if isinstance(error.__cause__, ClientError) and error_code(error.__cause__) in _UNSUPPORTED:
                return 0
            raise
        old = [upload for _, upload in found if upload["Initiated"] < before]
        for upload in old:
            if not dry_run:
                self._abort(upload)
        return len(old)

    def _abort(self, upload: dict[str, Any]) -> None:
        with self._asking("clear unfinished uploads in", needs="s3:AbortMultipartUpload"):
            try:
                self._client().abort_multipart_upload(
                    Bucket=self._at.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                )
            except ClientError as error:
                if error_code(error) != "NoSuchUpload":  # it has ended meanwhile
                    raise
        reached("s3.upload-aborted")

    def _keep(self, digest: str, size: int, source: Callable[[], _Source]) -> None:
        """Makes a whole object young, and uploads what is missing or damaged."""
        whole = self._is_whole(digest)
        reached("s3.compared")
        if whole and size <= self._limits.copy and self._make_young(digest):
            return
        for _ in range(_TRIES):
            self._upload(digest, size, source())
            reached("s3.uploaded")
            if self._is_whole(digest):
                reached("s3.read-back")
                return
        raise StorageError(
            f"cannot store blob {digest} in {self.location}: {_TRIES} times other bytes came back than were uploaded; "
            "check the server's disks, and any proxy before it, before you run the command again"
        )

    def _upload(self, digest: str, size: int, source: _Source) -> None:
        part = max(self._limits.part, -(-size // _PARTS))
        config = TransferConfig(
            multipart_threshold=part,
            multipart_chunksize=part,
            max_concurrency=_SIDE_BY_SIDE,
            preferred_transfer_client="classic",
        )
        with self._asking(f"store blob {digest} in", needs="s3:PutObject"):
            self._client().upload_fileobj(source, self._at.bucket, self._key(digest), Config=config)

    def _make_young(self, digest: str) -> bool:
        """Copies the object onto itself, so that no sweep takes it from under whoever has just put it.

        False if it has gone.
        """
        key = self._key(digest)
        with self._asking(f"touch blob {digest} in", needs="s3:PutObject"):
            try:
                self._client().copy_object(
                    Bucket=self._at.bucket,
                    Key=key,
                    CopySource={"Bucket": self._at.bucket, "Key": key},
                    MetadataDirective="REPLACE",  # S3 copies nothing onto itself unless something changes
                )
            except ClientError as error:
                if error_code(error) in _NO_OBJECT:
                    return False
                raise
        reached("s3.made-young")
        return True

    def _is_whole(self, digest: str) -> bool:
        try:
            return self._stored_digest(digest) == digest
        except ArtifactMissing:
            return False

    def _stored_digest(self, digest: str) -> str:
        """That of the object's bytes now, not of a copy of them."""
        found = hashlib.sha256()
        for chunk in self._chunks(digest):
            found.update(chunk)
        return found.hexdigest()

    def _check_bucket(self) -> None:
        """An answer without a body says 404 for an object and for a bucket alike."""
        if not self._bucket_was_there:
            self._client().list_objects_v2(Bucket=self._at.bucket, Prefix=self._at.key("sha256/"), MaxKeys=1)
            self._bucket_was_there = True

    def _download(self, digest: str) -> Path:
        for _ in range(_TRIES):
            with closing(self._chunks(digest)) as chunks:
                if path := self._cache.add(digest, chunks):
                    return path
        raise self._damaged(digest)

    def _chunks(self, digest: str) -> Generator[bytes, None, None]:
        """The object's bytes, read on where a connection was cut."""
        received, failures, first = 0, 0, None
        while True:
            answer = self._ask_for(digest, start=received, tag=first and first.get("ETag"))
            if answer is None:
                return  # replaced meanwhile: it ends short, and so with another digest
            first = first or answer
            began, cut = received, None
            try:
                with self._asking(f"read blob {digest} in", needs="s3:GetObject"), closing(answer["Body"]) as body:
                    while chunk := body.read(_CHUNK_BYTES):
                        received += len(chunk)
                        yield chunk
            except StorageError as error:
                cut = error
            if cut is None and received >= first.get("ContentLength", 0):
                return
            # One who gets on by so much may fail as often as he likes: it comes to an end.
            failures = 1 if received - began >= _CHUNK_BYTES else failures + 1
            if failures >= attempts(self._client()):
                raise cut or StorageError(
                    f"cannot read blob {digest} in {self.location}: it ends before its end, {failures} times; check "
                    "the server, and any proxy before it, then run the command again"
                )
            if not first.get("ETag"):
                return  # nothing says that the rest would be of the same object: it ends short, and is tried anew
            time.sleep(min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2**failures))

    def _ask_for(self, digest: str, *, start: int, tag: str | None) -> Any | None:
        """The answer to a request for an object, or for the rest of it; None if it is not that one any more."""
        rest = {"Range": f"bytes={start}-", "IfMatch": tag} if tag and start else {}
        key = self._key(digest)
        with self._asking(f"read blob {digest} in", needs="s3:GetObject and s3:ListBucket"):
            try:
                return self._client().get_object(Bucket=self._at.bucket, Key=key, **rest)
            except ClientError as error:
                if error_code(error) in _NO_OBJECT:
                    raise ArtifactMissing(
                        f"blob {digest} is not in {self.location}: bring it back from a copy (`trunkline release "
                        "pull`), or check that TRUNKLINE_ARTIFACT_ROOT is the right one"
                    ) from None
                if error_code(error) == "PreconditionFailed":
                    return None
                raise

    def _listed(self, operation: str, part: str, *, needs: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """What a listing has under the keys of blobs, with their digests; another store may lie below this one."""
        base = self._at.key("sha256/")
        with self._asking("list", needs=needs):
            paginator = self._client().get_paginator(operation)
            size = {"PageSize": self._limits.page}
            for page in paginator.paginate(Bucket=self._at.bucket, Prefix=base, PaginationConfig=size):
                for found in page.get(part, ()):
                    digest = found["Key"].removeprefix(base).replace("/", "")
                    if is_digest(digest) and found["Key"] == self._key(digest):
                        yield digest, found

    def _damaged(self, digest: str) -> ArtifactDamaged:
        return ArtifactDamaged(
            f"blob {digest} in {self.location} is damaged (its bytes have another digest): "
            "restore it from a copy, or store its source again, which replaces it"
        )

    def _asking(self, action: str, *, needs: str) -> AbstractContextManager[None]:
        return translated(f"{action} {self.location}", needs=needs, endpoint=endpoint(self._client()))

    def _key(self, digest: str) -> str:
        return self._at.key(blob_key(digest))

    def _client(self) -> Any:
        process = os.getpid()
        if self._connected is None or self._connected[0] != process:
            client = s3_client(connect_seconds=self._limits.connect, read_seconds=self._limits.read)
            self._connected = (process, client)
        return self._connected[1]


class _File:
    """A file to be read twice: once for its digest, and `again` to be uploaded."""

    def __init__(self, path: Path) -> None:
        """Raises InvalidInput when it cannot be read."""
        self._path = path
        self._seen = hashlib.sha256()
        try:
            with ExitStack() as opened:
                self._file = opened.enter_context(path.open("rb"))
                self.digest = hashlib.file_digest(self._file, "sha256").hexdigest()
                self.size = self._file.tell()
                opened.pop_all()
        except OSError as error:
            raise self._unreadable(error) from error

    def again(self) -> Self:
        self._seen = hashlib.sha256()
        try:
            self._file.seek(0)
        except OSError as error:
            raise self._unreadable(error) from error
        return self

    def read(self, amount: int = -1) -> bytes:
        """Raises InvalidInput at the end of the file if its bytes are others than before, so no upload completes."""
        try:
            data = self._file.read(amount)
        except OSError as error:
            raise self._unreadable(error) from error
        self._seen.update(data)
        if (amount < 0 or len(data) < amount) and self._seen.hexdigest() != self.digest:
            raise InvalidInput(
                str(self._path), ["changed while it was read; nothing was stored: wait until it is done"]
            )
        return data

    def close(self) -> None:
        self._file.close()

    def _unreadable(self, error: OSError) -> InvalidInput:
        return InvalidInput(str(self._path), [f"cannot be read: {error.strerror}"])
