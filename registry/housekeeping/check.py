"""The registry against itself and against its blobs: every row, every chain, every digest. Nothing is changed."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry.artifacts.store import open_store
from registry.database.engine import Database
from registry.database.schema import AuditEventRow, BackboneRow, ReleaseRow, VersionRow
from registry.housekeeping.blob_findings import damaged_blobs, missing_blobs, referred_blobs
from registry.housekeeping.findings import Check, Finding
from registry.housekeeping.row_findings import ROWS_WERE_CHANGED, row_findings
from registry.progress import Report
from registry.services.audit import verify_chain

_COPIES_BYTES = 1  # they are removed as soon as they have been read


def check_registry(database: Database, artifact_root: str, *, read_blobs: bool, report: Report) -> Check:
    """Looks at everything there is as of one moment.

    Args:
        artifact_root: the store's; it is opened anew, because copies that were fetched earlier say nothing about it.
        read_blobs: also read every blob and compare its bytes with its digest; else only ask whether it is there.
    Raises:
        StorageError: the database or the store cannot be read.
    """
    report("checking rows", 0, 1)
    with database.read() as session:
        findings = [*_audit_findings(session), *row_findings(session)]
        blobs = referred_blobs(session)
        backbones, versions, releases, events = (
            session.scalars(select(func.count()).select_from(table)).one()
            for table in (BackboneRow, VersionRow, ReleaseRow, AuditEventRow)
        )
    report("checking rows", 1, 1)
    with tempfile.TemporaryDirectory() as copies:
        store = open_store(artifact_root, cache=Path(copies), cache_bytes=_COPIES_BYTES)
        findings += missing_blobs(blobs, store)
        if read_blobs:
            findings += damaged_blobs(blobs, store, done_with=_remover(Path(copies)), report=report)
    return Check(
        backbones=backbones,
        versions=versions,
        releases=releases,
        events=events,
        blobs=len({blob.digest for blob in blobs}),
        blobs_read=read_blobs,
        findings=tuple(findings),
    )


def _audit_findings(session: Session) -> Iterator[Finding]:
    for found in verify_chain(session):
        yield Finding(subject="audit trail", problem=str(found), remedy=ROWS_WERE_CHANGED)


def _remover(copies: Path) -> Callable[[Path], None]:
    """Removes a file if it is one of the copies: on disk there is never more than one of them."""

    def remove(path: Path) -> None:
        if path.is_relative_to(copies):
            path.unlink()

    return remove
