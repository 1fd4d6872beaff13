import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from registry import fault_points
from registry.artifacts.store import ArtifactStore
from registry.database.engine import Database
from registry.domain.records import NewBackbone, NewVersion
from registry.errors import ArtifactMissing, NotAllowed, StorageError, UsageError
from registry.housekeeping.sweep import Sweep, sweep_blobs, take_over
from registry.progress import silent
from registry.services.blobs import refer_to, referenced_blobs
from registry.services.versions import register_version

NO_GRACE = timedelta(0)


def sweep(database: Database, store: ArtifactStore, **options: Any) -> Sweep:
    return sweep_blobs(database, store, **{"grace": NO_GRACE, "dry_run": False, "report": silent} | options)


def in_store(store: ArtifactStore) -> set[str]:
    return {blob.digest for blob in store.blobs()}


def test_only_what_no_row_refers_to_is_removed(database: Database, store: ArtifactStore, filled: NewBackbone) -> None:
    kept = in_store(store)
    orphans = {store.put(b"an orphan"), store.put(b"another")}
    swept = sweep(database, store)
    assert (swept.in_use, swept.removed, swept.removed_bytes, swept.young) == (len(kept), 2, 16, 0)
    assert in_store(store) == kept
    assert not orphans & kept
    assert sweep(database, store).removed == 0


def test_a_dry_run_removes_nothing_and_says_what_it_would(
    database: Database, store: ArtifactStore, filled: NewBackbone
) -> None:
    store.put(b"an orphan")
    there = in_store(store)
    found = sweep(database, store, dry_run=True)
    assert in_store(store) == there
    assert sweep(database, store) == found.model_copy(update={"dry_run": False})


def test_what_was_put_less_than_the_grace_time_ago_stays(database: Database, store: ArtifactStore) -> None:
    take_over(database, store)
    store.put(b"an orphan")
    swept = sweep(database, store, grace=timedelta(hours=1))
    assert (swept.removed, swept.young) == (0, 1)
    assert store.missing([store.put(b"an orphan")]) == set()


def test_a_negative_grace_time_is_refused(database: Database, store: ArtifactStore) -> None:
    with pytest.raises(UsageError, match="is negative"):
        sweep(database, store, grace=timedelta(seconds=-1))


def test_every_blob_of_every_row_counts_as_referred_to(
    database: Database, store: ArtifactStore, filled: NewBackbone
) -> None:
    with database.read() as session:
        assert referenced_blobs(session) == in_store(store)


def test_nothing_is_registered_over_a_blob_that_has_gone(
    database: Database, store: ArtifactStore, filled: NewBackbone, stored_version: Any, change: dict[str, Any]
) -> None:
    new = stored_version(filled, trial="fourth")
    sweep(database, store)
    with pytest.raises(ArtifactMissing, match="2 of 3 blobs are not in"), database.write() as session:
        refer_to(session, store, new.blobs)


def test_a_sweep_waits_for_whoever_is_registering_and_spares_what_they_registered(
    database: Database, store: ArtifactStore, filled: NewBackbone, stored_version: Any, change: dict[str, Any]
) -> None:
    new = stored_version(filled, trial="fourth")
    referring, may_commit = threading.Event(), threading.Event()

    def register() -> None:
        with database.write() as session:
            refer_to(session, store, new.blobs)
            register_version(session, new, **change)
            referring.set()
            may_commit.wait(20)

    writer = threading.Thread(target=register)
    writer.start()
    referring.wait(20)

    def let_go(stage: str, done: int, total: int) -> None:
        if stage == "removing blobs":  # marked as garbage: the sweeper is about to wait for the writer
            threading.Timer(0.2, may_commit.set).start()

    swept = sweep(database, store, report=let_go)
    writer.join()
    assert swept.removed == 0
    assert store.missing(new.blobs) == set()


def test_uploads_beside_a_sweeper_without_grace_never_leave_a_row_without_its_blob(
    database: Database,
    store: ArtifactStore,
    filled: NewBackbone,
    stored_version: Callable[..., NewVersion],
    change: dict[str, Any],
) -> None:
    done = threading.Event()
    retries = []

    def upload(worker: int) -> None:
        for number in range(6):
            while True:
                new = stored_version(filled, trial=f"worker {worker} number {number}")
                try:
                    with database.write() as session:
                        refer_to(session, store, new.blobs)
                        register_version(session, new, **change)
                    break
                except ArtifactMissing:
                    retries.append(new)

    def keep_sweeping() -> None:
        while not done.is_set():
            sweep(database, store)

    sweeper = threading.Thread(target=keep_sweeping)
    workers = [threading.Thread(target=upload, args=(worker,)) for worker in range(3)]
    for thread in (sweeper, *workers):
        thread.start()
    for worker in workers:
        worker.join()
    done.set()
    sweeper.join()
    with database.read() as session:
        assert store.missing(referenced_blobs(session)) == set()


def test_a_store_of_another_registry_is_neither_swept_nor_used_until_it_is_taken_over(
    database: Database, other_database: Database, store: ArtifactStore, filled: NewBackbone, change: dict[str, Any]
) -> None:
    orphan, there = store.put(b"an orphan"), in_store(store)
    with pytest.raises(NotAllowed, match=r"is that of trunkline registry \d+; the registry in .* removes"):
        sweep(other_database, store)
    with pytest.raises(NotAllowed, match="which would sweep the blobs"), other_database.write() as session:
        refer_to(session, store, filled.blobs)
    assert in_store(store) == there
    assert sweep(database, store).removed == 1
    take_over(other_database, store)
    with other_database.write() as session:
        refer_to(session, store, filled.blobs)
    with pytest.raises(NotAllowed):
        sweep(database, store)
    assert store.missing([orphan]) == {orphan}


def test_a_store_that_was_never_registered_over_is_not_swept(database: Database, store: ArtifactStore) -> None:
    orphan = store.put(b"an orphan")
    with pytest.raises(NotAllowed, match="is nobody's"):
        sweep(database, store)
    take_over(database, store)
    assert sweep(database, store).removed == 1
    assert store.missing([orphan]) == {orphan}


def test_a_blob_that_is_put_again_after_it_was_listed_is_spared(
    database: Database, store: ArtifactStore, filled: NewBackbone
) -> None:
    orphan = store.put(b"an orphan")
    time.sleep(0.02)

    def put_again(stage: str, done: int, total: int) -> None:
        if stage == "removing blobs":
            time.sleep(0.02)
            store.put(b"an orphan")

    assert sweep(database, store, report=put_again).removed == 0
    assert store.missing([orphan]) == set()


def test_a_sweep_that_loses_its_lock_stops(
    registry_server: Callable[[], None], database: Database, store: ArtifactStore, filled: NewBackbone
) -> None:
    orphans = [store.put(f"orphan {number}".encode()) for number in range(10)]
    fault_points.arm(lambda place: registry_server() if place == "sweep.blob-removed" else None)
    try:
        with pytest.raises(StorageError):
            sweep(database, store)
    finally:
        fault_points.arm(None)
    assert len(store.missing(orphans)) == 1, "only the one that was removed before"


def test_without_the_counter_that_is_their_lock_nothing_is_swept_or_registered(
    database: Database, store: ArtifactStore, filled: NewBackbone
) -> None:
    store.put(b"an orphan")
    with database.write() as session:
        session.execute(text("DELETE FROM counters WHERE name = 'sweep'"))
    there = in_store(store)
    with pytest.raises(StorageError, match="lost its counter 'sweep'"):
        sweep(database, store)
    with pytest.raises(StorageError, match="lost its counter 'sweep'"), database.write() as session:
        refer_to(session, store, filled.blobs)
    assert in_store(store) == there
