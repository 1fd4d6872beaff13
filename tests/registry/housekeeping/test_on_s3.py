"""What the housekeeping does over HTTP: the same as over a folder."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from registry.artifacts.local_store import LocalArtifactStore
from registry.artifacts.s3_store import S3ArtifactStore
from registry.artifacts.store import blob_key
from registry.database.engine import Database
from registry.domain.records import NewBackbone
from registry.housekeeping.backup import restore_backup, write_backup
from registry.housekeeping.check import check_registry
from registry.housekeeping.sweep import sweep_blobs
from registry.progress import silent

AT = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.fixture
def store(s3_bucket: str, tmp_path: Path) -> S3ArtifactStore:
    return S3ArtifactStore.at(f"s3://{s3_bucket}/registry", cache=tmp_path / "cache", cache_bytes=10**9)


def problems(database: Database, store: S3ArtifactStore | LocalArtifactStore) -> list[str]:
    found = check_registry(database, store.location, read_blobs=True, at=AT, report=silent)
    return [f"{finding.subject}: {finding.problem}" for finding in found.findings]


def test_a_sweep_removes_objects_that_nothing_refers_to(
    database: Database, store: S3ArtifactStore, filled: NewBackbone
) -> None:
    orphan = store.put(b"an orphan")
    swept = sweep_blobs(database, store, grace=timedelta(0), dry_run=False, report=silent)
    assert (swept.removed, swept.in_use) == (1, 13)
    assert store.missing([orphan]) == {orphan}
    assert problems(database, store) == []


def test_a_check_looks_at_the_bucket_and_not_at_the_copies(
    database: Database, store: S3ArtifactStore, filled: NewBackbone, s3: Any, s3_bucket: str, tmp_path: Path
) -> None:
    store.read(filled.embeddings)  # a whole copy of what is damaged now
    s3.client.put_object(Bucket=s3_bucket, Key=f"registry/{blob_key(filled.embeddings)}", Body=b"damaged")
    (found,) = problems(database, store)
    assert found.startswith("backbone tiny: its embeddings: blob ")
    assert store.put(store.read(filled.embeddings)) == filled.embeddings, "what the remedy does"
    assert problems(database, store) == []


def test_a_backup_goes_from_s3_to_the_other_database_and_a_folder(
    database: Database,
    other_database: Database,
    store: S3ArtifactStore,
    filled: NewBackbone,
    s3_bucket: str,
    tmp_path: Path,
    change: dict[str, Any],
) -> None:
    write_backup(database, store, tmp_path / "one.tar", blobs=True, at=AT, report=silent)
    folder = LocalArtifactStore(tmp_path / "folder")
    restore_backup(other_database, folder, tmp_path / "one.tar", actor="bob", at=AT, report=silent)
    assert problems(other_database, folder) == []
    assert {blob.digest for blob in folder.blobs()} == {blob.digest for blob in store.blobs()}
