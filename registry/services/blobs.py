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
from registry.errors import ArtifactMissing, NotAllowed, StorageError

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

    Until it ends nothing is swept; on SQLite a writer is alone anyway. A store that is nobody's becomes this
    registry's.

    Raises:
        ArtifactMissing: some of them are not in the store (any more).
        NotAllowed: the store is another registry's, which would sweep them.
    """
    number = keep_sweeps_away(session)
    if missing := sorted(store.missing(blobs)):
        raise ArtifactMissing(
            f"{len(missing)} of {len(blobs)} blobs are not in {store.location}: {', '.join(missing[:3])}; nothing was "
            "registered. They were removed meanwhile, or put elsewhere: run the same command again; if that does not "
            "help, check TRUNKLINE_ARTIFACT_ROOT and run `trunkline fsck --quick`"
        )
    owner = store.owner() or store.claim(owner_name(number))
    if owner != owner_name(number):
        raise NotAllowed(
            f"the store {store.location} is that of {owner}, which would sweep the blobs of {owner_name(number)}: "
            "give each registry a TRUNKLINE_ARTIFACT_ROOT of its own; if this one has taken the other one's place, run "
            "`trunkline gc --take-over` once"
        )


def keep_sweeps_away(session: Session) -> int:
    """Until this transaction ends, nothing is swept; returns the registry's number."""
    return _take(session, _lock().with_for_update(read=True))


def registry_number(session: Session) -> int:
    """What tells this registry from all others: drawn at random when its tables were made."""
    return _take(session, _lock())


def owner_name(number: int) -> str:
    """How a store knows the registry of this number."""
    return f"trunkline registry {number}"


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


def _lock() -> Select[int]:
    return select(CounterRow.next_number).where(CounterRow.name == SWEEP_COUNTER)


def _take(session: Session, lock: Select[int]) -> int:
    number = session.scalar(lock)
    if number is None:
        raise StorageError(
            f"the registry has lost its counter {SWEEP_COUNTER!r}, which keeps sweeping and registering apart: nothing "
            "was changed; `trunkline fsck` says what else is wrong"
        )
    return number
