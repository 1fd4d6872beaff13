"""Both kinds of store, each with another way to what it holds than its own."""

import os
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest

from registry.artifacts.local_store import LocalArtifactStore
from registry.artifacts.s3_store import S3ArtifactStore, S3Limits
from registry.artifacts.store import ArtifactStore
from tests.s3_server import S3Server

SMALL_PARTS = S3Limits(part=5 << 20, page=7)
"""Parts as small as S3 allows, and several pages of a few blobs."""


class Place(Protocol):
    """Where a store's blobs are: what a user with a file manager could do there."""

    def store(self) -> ArtifactStore: ...

    def forget_copies(self) -> None:
        """As if whatever has been read until now had been read on another machine."""

    def held(self) -> dict[str, bytes]:
        """Everything below the root, by its name there."""

    def overwrite(self, name: str, data: bytes) -> None: ...

    def grow_old(self) -> None:
        """Lets so much time pass that whatever is put now is younger."""


@dataclass(frozen=True)
class Folder:
    root: Path

    def store(self) -> LocalArtifactStore:
        return LocalArtifactStore(self.root)

    def forget_copies(self) -> None:
        """There are none."""

    def held(self) -> dict[str, bytes]:
        files = (path for path in self.root.rglob("*") if path.is_file())
        return {str(path.relative_to(self.root)): path.read_bytes() for path in files}

    def overwrite(self, name: str, data: bytes) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(data)

    def grow_old(self) -> None:
        for path in self.root.rglob("*"):
            os.utime(path, (1e9, 1e9))


@dataclass(frozen=True)
class Bucket:
    client: Any
    bucket: str
    copies: Path
    prefix: str = field(default_factory=lambda: f"below/{secrets.token_hex(4)}")

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"

    def store(self, limits: S3Limits = SMALL_PARTS, *, cache_bytes: int = 10**9) -> S3ArtifactStore:
        return S3ArtifactStore.at(self.url, cache=self.copies, cache_bytes=cache_bytes, limits=limits)

    def forget_copies(self) -> None:
        shutil.rmtree(self.copies, ignore_errors=True)

    def held(self) -> dict[str, bytes]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=f"{self.prefix}/")
        keys = [found["Key"] for page in pages for found in page.get("Contents", ())]
        return {
            key.removeprefix(f"{self.prefix}/"): self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
            for key in keys
        }

    def overwrite(self, name: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=f"{self.prefix}/{name}", Body=data)

    def grow_old(self) -> None:
        time.sleep(1.01)  # the server's times are whole seconds, and nobody can set them

    def uploads(self) -> list[str]:
        """Keys of the uploads that are not complete."""
        found = self.client.list_multipart_uploads(Bucket=self.bucket).get("Uploads", ())
        return [upload["Key"] for upload in found]


@pytest.fixture
def bucket(s3: S3Server, s3_bucket: str, tmp_path: Path) -> Bucket:
    return Bucket(s3.client, s3_bucket, tmp_path / "copies")


@pytest.fixture(params=["folder", "S3"])
def new_place(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Place]:
    """Makes another empty place of the same kind at every call."""
    if request.param == "folder":
        return lambda: Folder(tmp_path / f"artifacts-{secrets.token_hex(4)}")
    server, name = request.getfixturevalue("s3"), request.getfixturevalue("s3_bucket")
    return lambda: Bucket(server.client, name, tmp_path / "copies")


@pytest.fixture
def place(new_place: Callable[[], Place]) -> Place:
    return new_place()
