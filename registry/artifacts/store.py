"""What an artifact store is: blobs under their own sha256, in a local folder or in an S3 bucket."""

import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Protocol

from registry.errors import InvalidInput, UsageError

OWNER_KEY = "owner"
"""Where it is written whose the blobs are, below the root."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


class StoredBlob(NamedTuple):
    digest: str
    size: int
    """Bytes."""
    stored_at: datetime
    """When it was put last, by the store's own clock."""


class ArtifactStore(Protocol):
    """Blobs are immutable, verified on every read, and there whole or not at all.

    Digests are 64 lower-case hexadecimal digits; any other string is refused with InvalidInput before a path or a key
    is made of it. Every method raises StorageError when the store cannot be reached, read or written.
    """

    @property
    def location(self) -> str:
        """Where it is, for messages: a path or an s3:// URL, without credentials."""

    def put(self, data: bytes) -> str:
        """Stores the bytes and returns their digest.

        Storing them again writes nothing but makes the blob young again (`stored_at`), or mends a damaged one.
        """

    def put_file(self, path: Path) -> str:
        """`put` of a file's bytes, without holding them in memory; raises InvalidInput when it cannot be read."""

    def fetch(self, digest: str) -> Path:
        """A local path to read the blob from, after its bytes have been compared with its digest.

        Open it soon: a local copy of a remote blob makes room for others when it has not been used for some minutes.

        Raises:
            ArtifactMissing: the store does not hold it.
            ArtifactDamaged: its bytes have another digest.
        """

    def read(self, digest: str) -> bytes:
        """The blob's bytes; raises what `fetch` raises."""

    def verify(self, digest: str) -> None:
        """Reads what the store itself holds, no local copy of it; raises what `fetch` raises."""

    def missing(self, digests: Iterable[str]) -> set[str]:
        """Those that the store does not hold; nothing is read."""

    def blobs(self) -> Iterator[StoredBlob]:
        """Every blob, in no particular order; files that are no blobs are passed over."""

    def stored_at(self, digest: str) -> datetime | None:
        """When it was put last, by the store's own clock; None when the store does not hold it."""

    def remove(self, digest: str) -> None:
        """Removes a blob; one that is not there is no error."""

    def owner(self) -> str | None:
        """Whose blobs these are: what `claim` wrote; None when nobody has claimed the store yet."""

    def claim(self, owner: str) -> str:
        """Writes down whose blobs these are unless somebody else was first; returns whose they are now."""

    def take(self, owner: str) -> None:
        """Writes down whose blobs these are, in place of what was written before."""

    def now(self) -> datetime:
        """The time by the clock that `stored_at` is read from."""

    def clear_unfinished(self, *, before: datetime, dry_run: bool) -> int:
        """Removes what uploads that were killed before this moment left behind; returns how many there were."""


def is_digest(text: str) -> bool:
    return _DIGEST.fullmatch(text) is not None


def blob_key(digest: str) -> str:
    """Where a blob lies below the root: `sha256/ab/cdef…`; raises InvalidInput for what is no digest."""
    if not is_digest(digest):
        raise InvalidInput(f"digest {digest!r}", ["is not a sha256: 64 of the digits 0-9 and a-f"])
    return f"sha256/{digest[:2]}/{digest[2:]}"


def open_store(root: str, *, cache: Path, cache_bytes: int) -> ArtifactStore:
    """The store at a folder's path or at `s3://bucket/prefix`.

    Args:
        cache: folder for local copies of remote blobs.
        cache_bytes: how large the copies may grow together.
    Raises:
        UsageError: the root has another scheme, or is no S3 URL that can be used.
    """
    if root.startswith("s3://"):
        from registry.artifacts.s3_store import S3ArtifactStore  # imports boto3: only when it is used

        return S3ArtifactStore.at(root, cache=cache, cache_bytes=cache_bytes)
    if "://" in root:
        # Not the whole of it: it may hold a password.
        raise UsageError(f"artifact root {root.partition('://')[0]}://…: write a folder's path, or s3://bucket/prefix")
    from registry.artifacts.local_store import LocalArtifactStore

    return LocalArtifactStore(Path(root))
