import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from registry.artifacts.local_store import LocalArtifactStore
from registry.artifacts.store import ArtifactStore, blob_key
from registry.database.engine import Database
from registry.domain.records import NewBackbone
from registry.housekeeping.check import check_registry
from registry.housekeeping.findings import Check
from registry.progress import silent

SOON = datetime(2026, 5, 1, 9, 30, tzinfo=UTC)


def check(database: Database, store: ArtifactStore, *, read_blobs: bool = True, at: datetime = SOON) -> Check:
    return check_registry(database, store.location, read_blobs=read_blobs, at=at, report=silent)


def test_a_whole_registry_has_nothing_wrong(database: Database, store: ArtifactStore, filled: NewBackbone) -> None:
    found = check(database, store)
    assert (found.findings, found.notes) == ((), ())
    assert (found.backbones, found.versions, found.releases) == (1, 3, 1)
    assert found.events == 16
    assert found.blobs == len(list(store.blobs()))


def test_an_empty_registry_has_nothing_wrong(database: Database, store: ArtifactStore) -> None:
    assert check(database, store).findings == ()


TAMPERED = {
    "UPDATE versions SET module = golden WHERE number = 2": "release r1: its manifest describes rte/2 otherwise",
    "UPDATE aliases SET version_number = 2": r"alias rte@champion: points at version 2, but its journal leads to 1",
    "UPDATE alias_moves SET to_version = 2 WHERE id = 1": r"alias rte@champion: move 2 leaves version 1",
    "DELETE FROM aliases": r"alias rte@champion: points at version None, but its journal leads to 1",
    "DELETE FROM alias_moves WHERE id = 3": r"points at version 1, but its journal leads to 2",
    "UPDATE tasks SET next_version = 9 WHERE name = 'rte'": r"task rte: has lost version 3, 4, 5, 6, 7 and 1 more",
    "UPDATE tasks SET next_version = 2 WHERE name = 'rte'": r"task rte: has version 2, but gives 2 to the next one",
    "UPDATE counters SET next_number = 5 WHERE name = 'release'": r"the registry: has lost release 2, 3, 4",
    "UPDATE spec_revisions SET definition = (SELECT config FROM backbones)": "task rte: cannot be read",
    "UPDATE spec_revisions SET digest = (SELECT tokenizer FROM backbones)": "does not have its digest",
    "UPDATE backbone_prefixes SET layer_digest = prefix_digest WHERE depth = 2": r"tiny: P\(0\)..P\(N\) are not",
    "UPDATE backbones SET embeddings = tokenizer": "backbone tiny: its embeddings",
    "UPDATE backbones SET tokenizer = embeddings": "backbone tiny: its tokenizer",
    "UPDATE backbone_prefixes SET layer_blob = (SELECT embeddings FROM backbones) WHERE depth = 3": (
        "backbone tiny: its layer 3 does not hold the tensors"
    ),
    "UPDATE channels SET release_id = NULL": "channel staging: points at release None, but its journal leads to 1",
    "DELETE FROM placements": "channel staging: points at release 1, but its journal leads to None",
    "UPDATE placements SET actor = 'eve'": "channel staging: is not as the audit trail says: placements",
    "UPDATE channels SET takes = 'approved'": "channel staging: is not as the .*: takes was verified, and is approved",
    "DELETE FROM release_moves WHERE number = 2": "release r1: is not as the .*: state was verified, and is draft",
    "UPDATE releases SET layer_count = 9": "release r1: its manifest lists other versions, or another trunk",
    "UPDATE release_members SET version_number = 1": "release r1: its manifest lists other versions",
    "DELETE FROM release_members WHERE task_id = 2": "release r1: its manifest lists other versions",
    "UPDATE releases SET manifest = (SELECT tokenizer FROM backbones)": "release r1: its manifest cannot be read",
    "UPDATE versions SET golden = module WHERE number = 1": "its golden examples cannot be read",
    "UPDATE audit_events SET actor = 'eve' WHERE id = 4": "audit trail: event 4",
    "DELETE FROM audit_events WHERE id = 14": "audit trail: event 14",
    "DELETE FROM audit_events WHERE id = 4": "task sst: the audit trail knows nothing of it",
    "UPDATE versions SET metrics = (SELECT config FROM backbones) WHERE number = 2": "rte/2: is not as the .* metrics",
    "UPDATE versions SET created_by = 'eve' WHERE number = 2": "version rte/2: is not as the audit trail says: by",
    "UPDATE alias_moves SET actor = 'eve' WHERE id = 2": "rte@champion: is not as the audit trail says: its moves",
    "DELETE FROM aliases; DELETE FROM alias_moves": "alias rte@champion: the audit trail has it, but its rows are gone",
    "UPDATE tasks SET state = 'retired', retired_reason = 'x', retired_at = created_at": "sst: is not as .*: state",
    "UPDATE backbones SET max_length = 7": "backbone tiny: is not as the audit trail says: max_length was 20, and is 7",
    "UPDATE teams SET name = 'others'": "team nlu: the audit trail has it, but its rows are gone",
    "DELETE FROM counters WHERE name = 'release'": "the registry: has lost its counter 'release'",
    "DELETE FROM counters WHERE name = 'sweep'": "the registry: has lost its counter 'sweep'",
    "UPDATE trials SET score = 0.9 WHERE version_number = 1": (
        r"trial \w{12}… of task rte: its score is 0\.9, but that of its version 1 is 0\.75"
    ),
    "UPDATE trials SET version_number = 2 WHERE version_number = 1": "become version 2, which is of another trial",
    "UPDATE trials SET shape = (SELECT config FROM backbones)": "its frozen_depth is None, but that of its version 1",
    "UPDATE search_trials SET position = 7 WHERE position = 1": "search rte#1: its trials are not counted from 0",
    "DELETE FROM search_trials WHERE position = 0": "search rte#2: its trials are not counted from 0 without gaps",
    "UPDATE trials SET task_id = 2 WHERE state = 'paused'": "search rte#1: 1 of its trials are another task's",
    "DELETE FROM search_trials WHERE search_id = 1": "rte#1: it chose version 1, which none of its trials became",
    "UPDATE searches SET choice = (SELECT config FROM backbones) WHERE number = 1": "rte#1: it chose version None",
    "UPDATE searches SET number = 3 WHERE number = 2": "task rte: has lost search 2",
    "UPDATE searches SET exhaustive_layer_passes = 1, created_by = 'eve'": "search rte#2: is not as the .* says: by",
    "UPDATE searches SET options = (SELECT config FROM backbones)": "search rte#1: is not as the audit trail says: opt",
    "UPDATE searches SET state = 'running', choice = NULL, finished_at = NULL": "search rte#1: is not as .*: choice",
    "DELETE FROM search_trials; DELETE FROM searches": "search rte#2: the audit trail has it, but its rows are gone",
}


@pytest.mark.parametrize(("statement", "expected"), TAMPERED.items(), ids=lambda text: text[:60])
def test_every_change_behind_the_registrys_back_is_found(
    database: Database,
    store: ArtifactStore,
    filled: NewBackbone,
    statement: str,
    expected: str,
    without_triggers: Callable[[Database], None],
) -> None:
    without_triggers(database)
    with database.write() as session:
        for one in statement.split(";"):
            session.execute(text(one))
    found = check(database, store)
    lines = [f"{finding.subject}: {finding.problem}" for finding in found.findings]
    assert any(re.search(expected, line) for line in lines), lines
    assert all(finding.remedy for finding in found.findings)


def test_a_trial_of_which_nothing_was_heard_for_long_is_a_note_and_no_damage(
    database: Database, store: ArtifactStore, filled: NewBackbone
) -> None:
    assert check(database, store, read_blobs=False, at=SOON + timedelta(hours=23)).notes == ()
    later = check(database, store, read_blobs=False, at=SOON + timedelta(hours=24))
    assert later.findings == ()
    (note,) = later.notes
    assert re.fullmatch(r"trial \w{12}… of task rte", note.subject)
    assert note.problem == "is running, but nothing was heard of a:1:1 since 2026-05-01 09:02 UTC"
    assert "whoever runs the same search again" in note.remedy


def test_references_that_lead_nowhere_are_found_and_the_rest_is_checked_all_the_same(
    backend: str,
    database: Database,
    database_url: str,
    store: ArtifactStore,
    filled: NewBackbone,
    without_triggers: Callable[[Database], None],
) -> None:
    if backend == "postgresql":
        pytest.skip("PostgreSQL lets nobody make them")
    without_triggers(database)
    with closing(sqlite3.connect(database_url.removeprefix("sqlite:///"))) as connection:
        connection.executescript("DELETE FROM teams; DELETE FROM tasks WHERE name = 'sst'; DELETE FROM backbones")
    lines = [f"{found.subject}: {found.problem}" for found in check(database, store).findings]
    for expected in (
        "table tasks: row 1 refers to a row of teams",
        "task sst: the audit trail has it",
        "backbone tiny",
    ):
        assert any(line.startswith(expected) for line in lines), lines


def of_each_kind(backbone: NewBackbone, database: Database) -> dict[str, str]:
    with database.read() as session:
        module, golden, dev = session.execute(text("SELECT module, golden, dev_predictions FROM versions")).first()
        manifest = session.execute(text("SELECT manifest FROM releases")).scalar_one()
    return {
        "version rte/1: its module": module,
        "version rte/1: its golden examples": golden,
        "version rte/1: its dev predictions": dev,
        "backbone tiny: its tokenizer": backbone.tokenizer,
        "backbone tiny: its embeddings": backbone.embeddings,
        "backbone tiny: its layer 2": backbone.layers[1],
        "release r1: its manifest": manifest,
    }


def test_a_blob_that_is_gone_is_found_without_reading_any(
    database: Database, store: ArtifactStore, filled: NewBackbone
) -> None:
    blobs = of_each_kind(filled, database)
    for digest in blobs.values():
        store.remove(digest)
    found = check(database, store, read_blobs=False)
    lines = "\n".join(f"{finding.subject}: {finding.problem}" for finding in found.findings)
    assert all(f"{place} ({digest[:12]}…) is not in" in lines for place, digest in blobs.items()), lines
    assert len(check(database, store).findings) == len(found.findings), "reading finds each of them once, too"


def test_a_flipped_bit_in_any_blob_is_found(
    database: Database, store: LocalArtifactStore, filled: NewBackbone, tmp_path: Path
) -> None:
    blobs = of_each_kind(filled, database)
    for digest in blobs.values():
        path = Path(store.location) / blob_key(digest)
        path.chmod(0o644)
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    lines = "\n".join(f"{finding.subject}: {finding.problem}" for finding in check(database, store).findings)
    assert all(f"{place}: blob {digest}" in lines for place, digest in blobs.items()), lines
    assert check(database, store, read_blobs=False).findings == ()


def test_checking_changes_nothing(database: Database, store: ArtifactStore, filled: NewBackbone) -> None:
    before = sorted(store.blobs())
    first = check(database, store)
    assert sorted(store.blobs()) == before
    assert check(database, store) == first
