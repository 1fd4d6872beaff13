"""The registry against itself and against its blobs: every row, every chain, every digest. Nothing is changed."""

from collections.abc import Iterator

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry.artifacts.store import ArtifactStore
from registry.database.engine import Database
from registry.database.schema import AuditEventRow, BackboneRow, ReleaseRow, VersionRow
from registry.housekeeping.blob_findings import damaged_blobs, missing_blobs, referred_blobs
from registry.housekeeping.findings import Check, Finding
from registry.housekeeping.row_findings import ROWS_WERE_CHANGED, row_findings
from registry.progress import Report
from registry.services.audit import verify_chain


def check_registry(database: Database, store: ArtifactStore, *, read_blobs: bool, report: Report) -> Check:
    """Looks at everything there is as of one moment.

    Args:
        store: opened without a cache of earlier copies, or only the copies would be checked.
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
    findings += missing_blobs(blobs, store)
    if read_blobs:
        findings += damaged_blobs(blobs, store, report)
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
