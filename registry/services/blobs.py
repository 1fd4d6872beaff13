"""Which blobs the registry refers to, and the lock that keeps sweeping and referring apart.

A reference is added while the lock is shared, and only to blobs that are there; a blob is removed while the lock is
held alone, and only where nothing refers to it. So no row is ever without its blob, whatever is killed and however
long an upload took.
"""

from collections.abc import Collection

from sqlalchemy import Select, select, union
from sqlalchemy.orm import Session

from registry.artifacts.store import ArtifactStore
from registry.database.schema import (
    SWEEP_COUNTER,
    BackbonePrefixRow,
    BackboneRow,
    CounterRow,
    ReleaseRow,
    VersionRow,
)
from registry.errors import ArtifactMissing, StorageError

_COLUMNS = (
    VersionRow.module,
    VersionRow.golden,
    VersionRow.dev_predictions,
    BackboneRow.tokenizer,
    BackboneRow.embeddings,
    BackbonePrefixRow.layer_blob,
    ReleaseRow.manifest,
)
"""Every column that holds a blob's digest. A manifest names only blobs of versions and backbones."""


def refer_to(session: Session, store: ArtifactStore, blobs: Collection[str]) -> None:
    """Call this first in the transaction that adds rows which refer to these blobs.

    Until it ends nothing is swept. On SQLite a writer is alone anyway.

    Raises:
        ArtifactMissing: some of them are not in the store (any more).
    """
    _take(session, _lock().with_for_update(read=True))
    if missing := sorted(store.missing(blobs)):
        raise ArtifactMissing(
            f"{len(missing)} of {len(blobs)} blobs are not in {store.location}: {', '.join(missing[:3])}; nothing was "
            "registered. They were removed meanwhile, or put elsewhere: run the same command again"
        )


def keep_references_away(session: Session) -> None:
    """Until this transaction ends, nobody else adds a reference to a blob; asked again, it sees that this still holds.

    Raises:
        StorageError: the connection is lost, and the lock with it.
    """
    _take(session, _lock().with_for_update())


def referenced_blobs(session: Session) -> set[str]:
    """Every digest that a row refers to."""
    digests = union(*(select(column) for column in _COLUMNS))
    return {digest for digest in session.scalars(digests) if digest is not None}


def referenced_among(session: Session, blobs: Collection[str]) -> set[str]:
    """Those of the blobs that a row refers to."""
    digests = union(*(select(column).where(column.in_(blobs)) for column in _COLUMNS))
    return {digest for digest in session.scalars(digests) if digest is not None}


def _lock() -> Select[str]:
    return select(CounterRow.name).where(CounterRow.name == SWEEP_COUNTER)


def _take(session: Session, lock: Select[str]) -> None:
    if session.scalar(lock) is None:
        raise StorageError(
            f"the registry has lost its counter {SWEEP_COUNTER!r}, which keeps sweeping and registering apart: nothing "
            "was changed; `trunkline fsck` says what else is wrong"
        )
