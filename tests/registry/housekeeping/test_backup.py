import io
import json
import os
import signal
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from registry import fault_points
from registry.artifacts.local_store import LocalArtifactStore
from registry.artifacts.store import ArtifactStore
from registry.database.engine import Database
from registry.domain.records import NewBackbone, NewVersion, Retirement
from registry.errors import ArtifactMissing, Conflict, InvalidInput, NotAllowed, StorageError
from registry.housekeeping.backup import BackupSummary, restore_backup, restore_blobs, write_backup
from registry.housekeeping.check import check_registry
from registry.progress import silent
from registry.services.audit import list_events
from registry.services.searches import begin_search
from registry.services.tasks import get_task, list_tasks, retire_task
from registry.services.trials import ask_for
from registry.services.versions import register_version

AT = datetime(2026, 6, 1, 12, 30, 15, 123456, tzinfo=UTC)


@pytest.fixture
def other_store(tmp_path: Path) -> LocalArtifactStore:
    return LocalArtifactStore(tmp_path / "other-artifacts")


@pytest.fixture
def backup_file(
    database: Database, store: ArtifactStore, filled: NewBackbone, tmp_path: Path, change: dict[str, Any]
) -> Path:
    with database.write() as session:
        retire_task(session, "rte", Retirement(reason="ümlaut → ok", superseded_by="sst"), **change)
    write(database, store, tmp_path / "backup.tar")
    return tmp_path / "backup.tar"


def write(database: Database, store: ArtifactStore, path: Path, *, blobs: bool = True) -> BackupSummary:
    return write_backup(database, store, path, blobs=blobs, at=AT, report=silent)


def restore(database: Database, store: ArtifactStore, path: Path) -> BackupSummary:
    return restore_backup(database, store, path, actor="bob", at=AT, report=silent)


def test_a_backup_restored_onto_any_database_is_the_same_registry(
    database: Database, other_database: Database, other_store: ArtifactStore, backup_file: Path, tmp_path: Path
) -> None:
    restore(other_database, other_store, backup_file)
    first = json.loads(member(backup_file, "backup.json"))["tables"]
    assert {table for table, summary in first.items() if not summary["rows"]} == {"idempotency_keys"}
    second = write(other_database, other_store, tmp_path / "again.tar").model_dump(mode="json")["tables"]
    differing = {table for table in first if first[table] != second[table]}
    assert differing == {"audit_events", "counters"}, "only the restoring itself has been added"
    with other_database.read() as session:
        events = list_events(session)
    assert (events[0].action, events[0].actor, events[0].after["blobs"]) == ("registry.restore", "bob", 13)
    with database.read() as session:
        assert [event.model_dump() for event in events[1:]] == [e.model_dump() for e in list_events(session)]
    assert check_registry(other_database, other_store.location, read_blobs=True, at=AT, report=silent).findings == ()


def test_a_restored_registry_goes_on_counting_where_it_was(
    other_database: Database,
    other_store: ArtifactStore,
    backup_file: Path,
    stored_version: Callable[..., NewVersion],
    filled: NewBackbone,
    change: dict[str, Any],
    spec: Any,
    new_search: Any,
    planned_trial: Any,
) -> None:
    from registry.services.tasks import register_task

    restore(other_database, other_store, backup_file)
    with other_database.write() as session:
        assert register_version(session, stored_version(filled, "sst", trial="next"), **change).number == 2
        register_task(session, spec("new"), team="nlu", **change)
        lease = {"runner": "b:2:2", "until": AT, "is_gone": lambda _: True}
        search = begin_search(session, new_search("sst"), **lease, **change)
        ask_for(session, search, [planned_trial("another", task="sst")])
    with other_database.read() as session:
        assert [task.name for task in list_tasks(session)] == ["new", "rte", "sst"]
        retirement = get_task(session, "rte").retirement
        assert retirement is not None
        assert (retirement.reason, retirement.superseded_by) == ("ümlaut → ok", "sst")


def test_a_registry_that_is_not_empty_is_not_restored_over(
    database: Database, store: ArtifactStore, backup_file: Path
) -> None:
    with pytest.raises(NotAllowed, match=r"not empty \(rows in .*versions"):
        restore(database, store, backup_file)


def test_rows_alone_are_restored_where_the_store_has_the_blobs(
    database: Database,
    store: ArtifactStore,
    filled: NewBackbone,
    other_database: Database,
    other_store: ArtifactStore,
    tmp_path: Path,
) -> None:
    write(database, store, tmp_path / "rows.tar", blobs=False)
    with pytest.raises(ArtifactMissing, match="13 of 13 blobs"):
        restore(other_database, other_store, tmp_path / "rows.tar")
    with other_database.read() as session:
        assert list_tasks(session) == []
    restore(other_database, store, tmp_path / "rows.tar")
    with other_database.read() as session:
        assert len(list_tasks(session)) == 2


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_changed_byte_is_refused_or_harmless_and_never_half_restored(
    other_database: Database, other_store: ArtifactStore, backup_file: Path, tmp_path: Path, place: float, flip: int
) -> None:
    data = bytearray(backup_file.read_bytes())
    data[int(place * len(data))] ^= flip
    (tmp_path / "changed.tar").write_bytes(data)
    try:
        with tarfile.open(tmp_path / "changed.tar") as changed, tarfile.open(backup_file) as whole:
            names = [[m.name for m in archive] for archive in (whole, changed)]
            same = names[0] == names[1] and all(content(whole, name) == content(changed, name) for name in names[0])
    except tarfile.TarError:
        same = False
    if not same:  # else the byte was padding, or of a field that nobody reads
        with pytest.raises((InvalidInput, ArtifactMissing)):
            restore(other_database, other_store, tmp_path / "changed.tar")
        with other_database.read() as session:
            assert list_tasks(session) == []
            assert list_events(session) == []


@pytest.mark.parametrize("kept", [0, 100, 1000, -5000, -100, -1])
def test_a_backup_that_was_cut_off_is_refused(
    other_database: Database, other_store: ArtifactStore, backup_file: Path, tmp_path: Path, kept: int
) -> None:
    with tarfile.open(backup_file) as archive:
        last = archive.getmembers()[-1]
    content_end = last.offset_data + last.size  # what follows is the padding of the format
    (tmp_path / "cut.tar").write_bytes(backup_file.read_bytes()[: kept if kept >= 0 else content_end + kept])
    with pytest.raises(InvalidInput, match=r"cut\.tar"):
        restore(other_database, other_store, tmp_path / "cut.tar")
    with other_database.read() as session:
        assert list_tasks(session) == []


def test_something_else_is_no_backup(
    other_database: Database, other_store: ArtifactStore, backup_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("hello")
    with pytest.raises(InvalidInput, match="no whole backup"):
        restore(other_database, other_store, tmp_path / "text")
    with tarfile.open(tmp_path / "foreign.tar", "w") as archive:
        archive.add(tmp_path / "text", "text")
    with pytest.raises(InvalidInput, match=r"its first member is not backup\.json"):
        restore(other_database, other_store, tmp_path / "foreign.tar")
    with pytest.raises(StorageError, match="No such file"):
        restore(other_database, other_store, tmp_path / "missing.tar")


def test_a_backup_of_another_schema_says_how_to_restore_it(
    other_database: Database, other_store: ArtifactStore, backup_file: Path, tmp_path: Path
) -> None:
    summary = BackupSummary.parse(member(backup_file, "backup.json"))
    older = summary.model_copy(update={"schema_revision": "2020_01_01"}).to_bytes()
    with tarfile.open(tmp_path / "older.tar", "w") as archive:
        archive.addfile(described("backup.json", older), io.BytesIO(older))
    with pytest.raises(InvalidInput, match="restore it with the trunkline that wrote it, then run `trunkline db upg"):
        restore(other_database, other_store, tmp_path / "older.tar")


def test_a_backup_names_nobody_and_no_machine(backup_file: Path) -> None:
    with tarfile.open(backup_file) as archive:
        assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in archive} == {(0, 0, "", "", 0)}


def test_the_same_registry_gives_the_same_backup_byte_for_byte(
    database: Database, store: ArtifactStore, filled: NewBackbone, tmp_path: Path
) -> None:
    for name in ("one.tar", "two.tar"):
        write(database, store, tmp_path / name)
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()


def test_what_is_lost_does_not_keep_the_rest_from_being_saved_and_restored(
    database: Database,
    other_database: Database,
    store: ArtifactStore,
    other_store: ArtifactStore,
    filled: NewBackbone,
    without_triggers: Callable[[Database], None],
    tmp_path: Path,
) -> None:
    store.remove(filled.tokenizer)
    without_triggers(database)
    with database.write() as session:
        session.execute(text("UPDATE audit_events SET actor = 'eve' WHERE id = 4"))
    for blobs in (True, False):
        summary = write(database, store, tmp_path / "backup.tar", blobs=blobs)
        assert summary.missing_blobs == (filled.tokenizer,)
        assert len(summary.audit_problems) == 1
        assert not summary.is_whole
    restore(other_database, store, tmp_path / "backup.tar")
    findings = check_registry(other_database, store.location, read_blobs=True, at=AT, report=silent).findings
    assert sorted(finding.subject for finding in findings) == ["audit trail", "backbone tiny"]


def test_the_blobs_of_a_backup_mend_a_store(
    database: Database, store: ArtifactStore, filled: NewBackbone, backup_file: Path
) -> None:
    store.remove(filled.tokenizer)
    restore_blobs(store, backup_file, report=silent)
    assert check_registry(database, store.location, read_blobs=True, at=AT, report=silent).findings == ()


def test_a_blob_that_is_a_link_is_backed_up_as_what_it_leads_to(
    database: Database, store: LocalArtifactStore, filled: NewBackbone, other_store: ArtifactStore, tmp_path: Path
) -> None:
    path = store.fetch(filled.tokenizer)
    path.replace(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    write(database, store, tmp_path / "backup.tar")
    restore_blobs(other_store, tmp_path / "backup.tar", report=silent)
    assert other_store.read(filled.tokenizer) == store.read(filled.tokenizer)


def test_two_processes_do_not_write_one_backup(
    database: Database, store: ArtifactStore, filled: NewBackbone, backup_file: Path
) -> None:
    before = backup_file.read_bytes()

    def write_again(stage: str, done: int, total: int) -> None:
        if (stage, done) == ("writing blobs", 1):
            with pytest.raises(Conflict, match="another process is writing"):
                write(database, store, backup_file)

    write_backup(database, store, backup_file, blobs=True, at=AT, report=write_again)
    assert backup_file.read_bytes() == before


@pytest.mark.parametrize("place", ["backup.table-written", "backup.blob-added", "backup.written"])
def test_a_backup_that_is_killed_leaves_the_earlier_one_and_the_next_one_clears_up(
    database_url: str,
    database: Database,
    store: ArtifactStore,
    backup_file: Path,
    place: str,
    killed: Callable[[Callable[[], None]], None],
) -> None:
    before = backup_file.read_bytes()

    def run() -> None:
        fault_points.arm(lambda reached: os.kill(os.getpid(), signal.SIGKILL) if reached == place else None)
        write(Database.open(database_url), store, backup_file)

    killed(run)
    assert backup_file.read_bytes() == before
    write(database, store, backup_file)
    assert [path.name for path in backup_file.parent.iterdir() if path.name.startswith(".")] == []


RESTORING = ("restore.blob-stored", "restore.table-written")


@pytest.mark.parametrize(("place", "arrival"), [(place, at) for place in RESTORING for at in (1, 5, 12)])
def test_restoring_that_is_killed_leaves_an_empty_registry_and_runs_again(
    other_database: Database,
    other_database_url: str,
    other_store: ArtifactStore,
    backup_file: Path,
    place: str,
    arrival: int,
    killed: Callable[[Callable[[], None]], None],
) -> None:
    arrivals = []

    def kill(reached: str) -> None:
        if reached == place:
            arrivals.append(reached)
        if len(arrivals) == arrival:
            os.kill(os.getpid(), signal.SIGKILL)

    def run() -> None:
        fault_points.arm(kill)
        own = Database.open(other_database_url)  # a connection is not shared with the process that one forks from
        restore(own, other_store, backup_file)

    killed(run)
    with other_database.read() as session:
        assert list_tasks(session) == []
    restore(other_database, other_store, backup_file)
    assert check_registry(other_database, other_store.location, read_blobs=True, at=AT, report=silent).findings == ()


def member(backup: Path, name: str) -> bytes:
    with tarfile.open(backup) as archive:
        return content(archive, name)


def described(name: str, data: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info


def content(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None
    return file.read()
