"""Mark and sweep over the artifact store: what no row refers to goes, once it has been left alone for long enough.

Safe beside anything that runs: a blob is removed only while nobody can add a reference (see `registry.services.blobs`),
and an upload whose blob went before it was registered is told so. Killed anywhere, it has removed only garbage.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from registry.artifacts.store import ArtifactStore, StoredBlob
from registry.database.engine import Database
from registry.domain.plain_data import Plain
from registry.errors import NotAllowed, UsageError
from registry.fault_points import reached
from registry.progress import Report
from registry.services.blobs import (
    keep_references_away,
    owner_name,
    referenced_among,
    referenced_blobs,
    registry_number,
)

DEFAULT_GRACE = timedelta(hours=24)
"""Longer than any upload: what is younger may belong to a command that is about to register it."""

_LONGEST_UPLOAD = timedelta(hours=24)
"""An unfinished upload cannot be told from a running one, so none is cleared that began later than that."""

_BATCH = 50
"""Blobs removed in one transaction: while it lasts, whoever registers something waits."""


class Sweep(Plain):
    """What was found, and what was removed of it (of a dry run: what would have been)."""

    dry_run: bool
    in_use: int
    """Blobs that rows refer to."""
    young: int
    """Blobs that nothing refers to, put less than the grace time ago."""
    removed: int
    removed_bytes: int
    unfinished: int
    """Uploads that were killed, longer ago than the grace time and a day."""


def take_over(database: Database, store: ArtifactStore) -> None:
    """Makes the store this registry's, whosever it was: from now on the other one sweeps there no more."""
    with database.read() as session:
        store.take(owner_name(registry_number(session)))


def sweep_blobs(database: Database, store: ArtifactStore, *, grace: timedelta, dry_run: bool, report: Report) -> Sweep:
    """Removes every blob that no row refers to and that was put longer ago than `grace`.

    Raises:
        UsageError: the grace time is negative.
        NotAllowed: the store is another registry's.
        StorageError: the store or the database cannot be used; what was removed until then was garbage.
    """
    if grace < timedelta(0):
        raise UsageError(f"a grace time of {grace} is negative: how long must a blob have been left alone?")
    now = store.now()
    before = now - grace
    report("listing blobs", 0, 1)
    found = list(store.blobs())
    with database.read() as session:
        _refuse_foreign_store(session, database, store)
        referenced = referenced_blobs(session)
    report("listing blobs", 1, 1)
    reached("sweep.marked")
    unused = [blob for blob in found if blob.digest not in referenced]
    old = [blob for blob in unused if blob.stored_at <= before]
    removed = old if dry_run else _remove(database, store, old, before, report)
    return Sweep(
        dry_run=dry_run,
        in_use=len(found) - len(unused),
        young=len(unused) - len(old),
        removed=len(removed),
        removed_bytes=sum(blob.size for blob in removed),
        unfinished=store.clear_unfinished(before=now - max(grace, _LONGEST_UPLOAD), dry_run=dry_run),
    )


def _refuse_foreign_store(session: Session, database: Database, store: ArtifactStore) -> None:
    ours, owner = owner_name(registry_number(session)), store.owner()
    if owner != ours:
        whose = "nobody's yet: the next registration writes down whose it is" if owner is None else f"that of {owner}"
        raise NotAllowed(
            f"the store {store.location} is {whose}; the registry in {database.location} is {ours}, and removes "
            "nothing there. Check TRUNKLINE_HOME, TRUNKLINE_DATABASE_URL and TRUNKLINE_ARTIFACT_ROOT; if they are "
            "right, and no other registry uses this store any more, run `trunkline gc --take-over` once"
        )


def _remove(
    database: Database, store: ArtifactStore, blobs: Sequence[StoredBlob], before: datetime, report: Report
) -> list[StoredBlob]:
    removed: list[StoredBlob] = []
    for done, batch in _batches(blobs):
        report("removing blobs", done, len(blobs))
        with database.write() as session:
            keep_references_away(session)
            registered = referenced_among(session, [blob.digest for blob in batch])  # since they were marked
            for blob in batch:
                at = store.stored_at(blob.digest)
                if blob.digest in registered or at is None or at > before:  # put again since they were listed
                    continue
                keep_references_away(session)  # a lock that was lost with its connection is noticed here
                store.remove(blob.digest)
                removed.append(blob)
                reached("sweep.blob-removed")
    report("removing blobs", len(blobs), len(blobs))
    return removed


def _batches(blobs: Sequence[StoredBlob]) -> Iterator[tuple[int, Sequence[StoredBlob]]]:
    for start in range(0, len(blobs), _BATCH):
        yield start, blobs[start : start + _BATCH]
