"""The registry against itself and against its blobs: every row, every chain, every digest. Nothing is changed."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path

from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from registry.artifacts.store import open_store
from registry.database.engine import Database
from registry.database.schema import AuditEventRow, BackboneRow, ReleaseRow, VersionRow
from registry.housekeeping.blob_findings import ReferredBlob, damaged_blobs, missing_blobs, referred_blobs
from registry.housekeeping.findings import Check, Finding
from registry.housekeeping.row_findings import ROWS_WERE_CHANGED, row_findings
from registry.housekeeping.search_findings import search_findings, search_notes
from registry.housekeeping.trail_findings import trail_findings
from registry.progress import Report
from registry.services.audit import verify_chain

_COPIES_BYTES = 1  # they are removed as soon as they have been read


def check_registry(database: Database, artifact_root: str, *, read_blobs: bool, at: datetime, report: Report) -> Check:
    """Looks at everything there is as of one moment.

    Args:
        artifact_root: the store's; it is opened anew, because copies that were fetched earlier say nothing about it.
        read_blobs: also read every blob and compare its bytes with its digest; else only ask whether it is there.
        at: now; what has been silent for long is told by it.
    Raises:
        StorageError: the database or the store cannot be read.
    """
    findings: list[Finding] = []
    with database.read() as session:
        for done, (what, find) in enumerate(_STAGES.items()):
            report("checking rows", done, len(_STAGES))
            findings += _guarded(what, find, session)
        blobs: list[ReferredBlob] = []
        findings += _guarded("rows", partial(_collected, blobs), session)
        notes = _guarded("leases", partial(search_notes, at=at), session)
        backbones, versions, releases, events = (
            session.scalars(select(func.count()).select_from(table)).one()
            for table in (BackboneRow, VersionRow, ReleaseRow, AuditEventRow)
        )
    report("checking rows", len(_STAGES), len(_STAGES))
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
        notes=tuple(notes),
    )


def _collected(blobs: list[ReferredBlob], session: Session) -> Iterable[Finding]:
    blobs += referred_blobs(session)
    return ()


def _chain_findings(session: Session) -> Iterator[Finding]:
    for found in verify_chain(session):
        yield Finding(subject="audit trail", problem=str(found), remedy=ROWS_WERE_CHANGED)


def _reference_findings(session: Session) -> Iterator[Finding]:
    """References that lead nowhere: SQLite lets whoever does not ask for foreign keys make them."""
    if session.get_bind().dialect.name == "sqlite":
        for table, row, target, _ in session.execute(text("PRAGMA foreign_key_check")):
            problem = f"row {row} refers to a row of {target} that is not there"
            yield Finding(subject=f"table {table}", problem=problem, remedy=ROWS_WERE_CHANGED)


_STAGES: Mapping[str, Callable[[Session], Iterable[Finding]]] = {
    "audit trail": _chain_findings,
    "references": _reference_findings,
    "rows": row_findings,
    "searches": search_findings,
    "rows against the audit trail": trail_findings,
}


def _guarded(what: str, find: Callable[[Session], Iterable[Finding]], session: Session) -> list[Finding]:
    """What is found, and as one more finding what keeps the rest from being looked at."""
    findings: list[Finding] = []
    try:
        findings.extend(find(session))
    except DBAPIError:
        raise
    except Exception as error:  # noqa: BLE001 - rows that were tampered with come out as exceptions of every class
        problem = f"cannot be checked to the end: {type(error).__name__}: {error}"
        findings.append(Finding(subject=what, problem=problem, remedy=ROWS_WERE_CHANGED))
    return findings


def _remover(copies: Path) -> Callable[[Path], None]:
    """Removes a file if it is one of the copies: on disk there is never more than one of them."""

    def remove(path: Path) -> None:
        if path.is_relative_to(copies):
            path.unlink()

    return remove
