"""The invariants, shown to be kept by the database itself: rows are written past every service."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import UniqueConstraint, delete, func, inspect, select, text, update
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from registry.database.columns import json_text
from registry.database.engine import Database
from registry.database.schema import AuditEventRow, IdempotencyKeyRow, Schema, SearchTrialRow, TrialRow
from registry.domain.records import VersionKind
from registry.domain.references import VersionReference
from registry.domain.searches import NewSearch, SearchChoice, TrialProgress
from registry.services.aliases import promote
from registry.services.channels import create_channel, promote_release
from registry.services.releases import register_release
from registry.services.searches import begin_search, finish_search
from registry.services.trials import ask_for, finish_trial
from registry.services.versions import get_version, register_version

TABLES = Schema.metadata.tables

FRESH: dict[str, dict[str, Any]] = {
    "counters": {"name": "fresh"},
    "teams": {"id": 100, "name": "fresh"},
    "backbones": {"id": 100, "name": "fresh"},
    "backbone_prefixes": {"depth": 5},
    "tasks": {"id": 100, "name": "fresh"},
    "spec_revisions": {"id": 100, "number": 50},
    "versions": {"id": 100, "number": 50, "trial_key": "fresh"},
    "aliases": {"name": "fresh"},
    "alias_moves": {"id": 100},
    "releases": {"id": 100, "number": 50, "manifest": "f" * 64},
    "release_members": {"task_id": 2},
    "release_moves": {"id": 100, "number": 3, "previous_number": 2, "from_state": "verified", "to_state": "approved"},
    "channels": {"id": 100, "name": "fresh"},
    "placements": {"id": 100},
    "audit_events": {"id": 100, "hash": "f" * 64},
    "idempotency_keys": {"key": "fresh"},
    "trials": {"id": 100, "key": "fresh"},
    "searches": {"id": 100, "number": 50, "key": "fresh"},
    "search_trials": {"position": 50, "trial_id": 1},
}
"""What turns a copy of each table's last row into another row that is allowed."""

SHORT = "f" * 63
WAITING = {"state": "waiting", "version_number": None, "score": None}
RUNNING = WAITING | {"state": "running", "worker": "a:1:1", "lease_until": "2026-05-01"}
RETIRED = {"state": "retired", "retired_at": "2026-05-01", "retired_reason": "merged"}

REFUSED: dict[str, dict[str, Any]] = {
    "counters.ck_counters_next_number_positive": {"next_number": 0},
    "counters.pk_counters": {"name": "release"},
    "teams.uq_teams_name": {"name": "nlu"},
    "backbones.uq_backbones_name": {"name": "tiny"},
    "backbones.ck_backbones_layer_count_positive": {"layer_count": 0},
    "backbones.ck_backbones_hidden_size_positive": {"hidden_size": 0},
    "backbones.ck_backbones_max_length_holds_a_token": {"max_length": 2},
    "backbones.ck_backbones_tokenizer_is_digest": {"tokenizer": SHORT},
    "backbones.ck_backbones_embeddings_is_digest": {"embeddings": SHORT},
    "backbone_prefixes.pk_backbone_prefixes": {"depth": 4, "prefix_digest": "f" * 64},
    "backbone_prefixes.fk_backbone_prefixes_backbone_id": {"backbone_id": 9},
    "backbone_prefixes.ck_backbone_prefixes_depth_not_negative": {"depth": -1},
    "backbone_prefixes.ck_backbone_prefixes_layer_digest_from_depth_1": {"layer_digest": None},
    "backbone_prefixes.ck_backbone_prefixes_layer_blob_from_depth_1": {"layer_blob": None},
    "backbone_prefixes.ck_backbone_prefixes_prefix_digest_is_digest": {"prefix_digest": SHORT},
    "backbone_prefixes.ck_backbone_prefixes_layer_digest_is_digest": {"layer_digest": SHORT},
    "backbone_prefixes.ck_backbone_prefixes_layer_blob_is_digest": {"layer_blob": SHORT},
    "tasks.uq_tasks_name": {"name": "rte"},
    "tasks.fk_tasks_team_id": {"team_id": 9},
    "tasks.fk_tasks_superseded_by_id": {**RETIRED, "superseded_by_id": 9},
    "tasks.ck_tasks_state": {"state": "paused"},
    "tasks.ck_tasks_retired_has_time": {**RETIRED, "retired_at": None},
    "tasks.ck_tasks_retired_has_reason": {**RETIRED, "retired_reason": None},
    "tasks.ck_tasks_only_retired_is_superseded": {"superseded_by_id": 1},
    "tasks.ck_tasks_not_superseded_by_itself": {**RETIRED, "superseded_by_id": 100},
    "tasks.ck_tasks_next_version_positive": {"next_version": 0},
    "tasks.ck_tasks_next_spec_revision_positive": {"next_spec_revision": 0},
    "spec_revisions.uq_spec_revisions_task_id_number": {"number": 1},
    "spec_revisions.fk_spec_revisions_task_id": {"task_id": 9},
    "spec_revisions.ck_spec_revisions_number_positive": {"number": 0},
    "spec_revisions.ck_spec_revisions_digest_is_digest": {"digest": SHORT},
    "versions.uq_versions_task_id_number": {"number": 2},
    "versions.uq_versions_task_id_trial_key": {"trial_key": "trial of rte"},
    "versions.fk_versions_task_id": {"task_id": 9},
    "versions.fk_versions_backbone_id": {"backbone_id": 9},
    "versions.fk_versions_spec_revision_of_same_task": {"spec_revision": 2},
    "versions.fk_versions_prefix_of_backbone": {"prefix_digest": "f" * 64},
    "versions.fk_versions_top_layer_within_backbone": {"task_layers": 3, "top_layer": 5},
    "versions.fk_versions_teacher_of_same_task": {"task_id": 2, "teacher_number": 3},
    "versions.ck_versions_kind": {"kind": "pupil", "teacher_number": None},
    "versions.ck_versions_number_positive": {"number": 0, "kind": "teacher", "teacher_number": None},
    "versions.ck_versions_frozen_depth_not_negative": {"frozen_depth": -1, "top_layer": 1},
    "versions.ck_versions_task_layers_positive": {"task_layers": 0, "top_layer": 2},
    "versions.ck_versions_top_layer_is_sum": {"top_layer": 3},
    "versions.ck_versions_student_has_teacher": {"teacher_number": None},
    "versions.ck_versions_teacher_is_older": {"teacher_number": 50},
    "versions.ck_versions_prefix_digest_is_digest": {"prefix_digest": SHORT},
    "versions.ck_versions_module_is_digest": {"module": SHORT},
    "versions.ck_versions_golden_is_digest": {"golden": SHORT},
    "versions.ck_versions_dev_predictions_is_digest": {"dev_predictions": SHORT},
    "versions.ck_versions_train_digest_is_digest": {"train_digest": SHORT},
    "versions.ck_versions_dev_digest_is_digest": {"dev_digest": SHORT},
    "aliases.pk_aliases": {"name": "champion"},
    "aliases.fk_aliases_task_id": {"task_id": 9},
    "aliases.fk_aliases_version_of_same_task": {"task_id": 2, "version_number": 3},
    "aliases.ck_aliases_name_is_not_latest": {"name": "latest"},
    "alias_moves.fk_alias_moves_task_id": {"task_id": 9},
    "alias_moves.fk_alias_moves_from_version_of_same_task": {"from_version": 9},
    "alias_moves.fk_alias_moves_to_version_of_same_task": {"to_version": 9},
    "alias_moves.ck_alias_moves_kind": {"kind": "demote"},
    "alias_moves.ck_alias_moves_moves": {"from_version": 2, "to_version": 2},
    "alias_moves.ck_alias_moves_rollback_leaves_a_version": {"kind": "rollback", "from_version": None},
    "releases.uq_releases_number": {"number": 1},
    "releases.uq_releases_manifest": {"manifest": "a" * 64},
    "releases.fk_releases_backbone_id": {"backbone_id": 9},
    "releases.fk_releases_trunk_within_backbone": {"trunk_depth": 5, "layer_count": 6},
    "releases.ck_releases_number_positive": {"number": 0},
    "releases.ck_releases_layer_count_above_trunk": {"layer_count": 2},
    "releases.ck_releases_manifest_is_digest": {"manifest": SHORT},
    "release_members.pk_release_members": {"task_id": 1},
    "release_members.fk_release_members_release_id": {"release_id": 9},
    "release_members.fk_release_members_task_id": {"task_id": 9},
    "release_members.fk_release_members_version_of_same_task": {"version_number": 3},
    "release_moves.uq_release_moves_release_id_number": {
        "number": 2,
        "previous_number": 1,
        "from_state": "draft",
        "to_state": "retired",
        "reason": "x",
    },
    "release_moves.fk_release_moves_release_id": {
        "release_id": 9,
        "number": 1,
        "previous_number": None,
        "from_state": None,
        "to_state": "draft",
    },
    "release_moves.fk_release_moves_from_the_state_before": {"from_state": "draft", "to_state": "verified"},
    "release_moves.ck_release_moves_number_positive": {"number": 0, "previous_number": -1},
    "release_moves.ck_release_moves_first_has_none_before": {
        "previous_number": None,
        "from_state": None,
        "to_state": "draft",
    },
    "release_moves.ck_release_moves_previous_is_the_one_before": {"number": 4},
    "release_moves.ck_release_moves_state_before_is_known": {"from_state": None, "to_state": "draft"},
    "release_moves.ck_release_moves_is_legal": {"to_state": "draft"},
    "release_moves.ck_release_moves_first_is_draft": {
        "release_id": 2,
        "number": 1,
        "previous_number": None,
        "from_state": None,
        "to_state": "approved",
    },
    "release_moves.ck_release_moves_from_state": {"from_state": "lost", "to_state": "lost"},
    "release_moves.ck_release_moves_verified_has_report": {
        "release_id": 9,
        "number": 2,
        "previous_number": 1,
        "from_state": "draft",
        "to_state": "verified",
        "report": None,
    },
    "release_moves.ck_release_moves_retired_has_reason": {"to_state": "retired", "reason": None},
    "channels.uq_channels_name": {"name": "production"},
    "channels.fk_channels_release_id": {"release_id": 9},
    "channels.ck_channels_takes": {"takes": "draft"},
    "placements.fk_placements_channel_id": {"channel_id": 9},
    "placements.fk_placements_from_release_id": {"from_release_id": 9},
    "placements.fk_placements_to_release_id": {"to_release_id": 9, "from_release_id": 1},
    "placements.ck_placements_kind": {"kind": "swap"},
    "placements.ck_placements_moves": {"from_release_id": 1, "to_release_id": 1},
    "placements.ck_placements_revert_leaves_a_release": {"kind": "revert", "from_release_id": None},
    "audit_events.uq_audit_events_hash": {"hash": "e" * 64},
    "audit_events.ck_audit_events_actor_not_empty": {"actor": ""},
    "audit_events.ck_audit_events_hash_is_digest": {"hash": SHORT},
    "idempotency_keys.pk_idempotency_keys": {"key": "used"},
    "idempotency_keys.ck_idempotency_keys_request_is_digest": {"request": SHORT},
    "trials.uq_trials_task_id_key": {"key": "trial of rte"},
    "trials.fk_trials_task_id": {**WAITING, "task_id": 9},
    "trials.fk_trials_version_of_same_task": {"task_id": 2, "version_number": 3},
    "trials.ck_trials_state": {**WAITING, "state": "asleep"},
    "trials.ck_trials_epochs_positive": {"epochs": 0, "epochs_done": 0},
    "trials.ck_trials_epochs_done_within": {"epochs_done": 6},
    "trials.ck_trials_attempts_not_negative": {"attempts": -1},
    "trials.ck_trials_finished_has_version": {"version_number": None},
    "trials.ck_trials_finished_has_score": {"score": None},
    "trials.ck_trials_failed_has_error": {**WAITING, "state": "failed"},
    "trials.ck_trials_running_has_worker": {**RUNNING, "worker": None},
    "trials.ck_trials_running_has_lease": {**RUNNING, "lease_until": None},
    "searches.uq_searches_task_id_number": {"number": 1},
    "searches.uq_searches_task_id_key": {"key": "search of rte"},
    "searches.fk_searches_task_id": {"task_id": 9},
    "searches.fk_searches_backbone_id": {"backbone_id": 9},
    "searches.fk_searches_spec_revision_of_same_task": {"spec_revision": 2},
    "searches.ck_searches_state": {"state": "lost", "choice": None, "finished_at": None},
    "searches.ck_searches_number_positive": {"number": 0},
    "searches.ck_searches_finished_has_choice": {"choice": None},
    "searches.ck_searches_finished_has_time": {"finished_at": None},
    "searches.ck_searches_runner_has_lease": {"runner": "a:1:1"},
    "searches.ck_searches_train_digest_is_digest": {"train_digest": SHORT},
    "searches.ck_searches_dev_digest_is_digest": {"dev_digest": SHORT},
    "search_trials.pk_search_trials": {"position": 0},
    "search_trials.uq_search_trials_search_id_trial_id": {"trial_id": 2},
    "search_trials.fk_search_trials_search_id": {"search_id": 9},
    "search_trials.fk_search_trials_trial_id": {"trial_id": 9},
}
"""Constraint -> what of a fresh row it refuses."""

NEVER_ALONE = {
    # Keys of one number, or a key made only to be pointed at: whatever breaks it breaks the primary key as well.
    "teams.pk_teams",
    "backbones.pk_backbones",
    "tasks.pk_tasks",
    "spec_revisions.pk_spec_revisions",
    "versions.pk_versions",
    "alias_moves.pk_alias_moves",
    "releases.pk_releases",
    "audit_events.pk_audit_events",
    "release_moves.pk_release_moves",
    "release_moves.uq_release_moves_release_id_number_to_state",
    # The legal moves name the states too.
    "release_moves.ck_release_moves_to_state",
    "channels.pk_channels",
    "placements.pk_placements",
    "trials.pk_trials",
    "searches.pk_searches",
    "backbone_prefixes.uq_backbone_prefixes_backbone_id_depth_prefix_digest",
}


@pytest.fixture(scope="module")
def filled(
    backend: str,
    copied: Any,
    tmp_path_factory: pytest.TempPathFactory,
    new_version: Any,
    new_release: Any,
    new_search: Any,
    planned_trial: Any,
    change: dict[str, Any],
) -> Iterator[Database]:
    """rte has versions 1, 2 and the student 3; sst has 1 and 2; rte@champion went from 1 to 2; r1 holds rte/1 and is
    live on production.

    rte#1 is a finished search that asked for trial 2, which became rte/2; trial 1 was asked for by nobody.
    """
    with copied(backend, "populated", tmp_path_factory.mktemp("filled")) as url:
        database = Database.open(url)
        with database.write() as session:
            for task, trial in (("rte", "one"), ("rte", "two"), ("sst", "one"), ("sst", "two")):
                register_version(session, new_version(task, trial=trial), **change)
            student = {"kind": VersionKind.STUDENT, "teacher": 1, "trial_key": "trial of rte"}
            register_version(session, new_version("rte", **student), **change)
            for number in (1, 2):
                promote(session, VersionReference(task="rte", number=number), "champion", expect=None, **change)
            register_release(session, new_release(manifest="a" * 64), **change)
            create_channel(session, "production", takes="verified", **change)
            promote_release(session, "r1", "production", expect="none", **change)
            used = {"key": "used", "action": "team.create", "request": "b" * 64, "result": {}}
            session.add(IdempotencyKeyRow(**used, actor="ann", created_at=change["at"]))
            event = {"id": 99, "actor": "ann", "action": "x", "object": "y", "hash": "e" * 64}
            session.add(AuditEventRow(**event, occurred_at=change["at"]))
            session.flush()
            add_search(session, new_search(key="search of rte"), planned_trial, change)
        yield database
        database.close()


def add_search(session: Session, new: NewSearch, planned_trial: Any, change: dict[str, Any]) -> None:
    at = change["at"]
    search = begin_search(session, new, runner="a:1:1", until=at, is_gone=lambda _: False, **change)
    trials = planned_trial("nobody's"), planned_trial("two")
    ask_for(session, search, trials)
    version = get_version(session, VersionReference(task="rte", number=2))
    progress = TrialProgress(epochs_done=5, curve={5: 0.75}, seconds=1.0, layer_passes=1.0)
    finish_trial(session, "rte", trials[1].key, version=version, score=0.75, progress=progress)
    session.execute(delete(SearchTrialRow).where(SearchTrialRow.position == 0))
    session.execute(update(SearchTrialRow).values(position=0))
    session.execute(update(TrialRow).where(TrialRow.version_number.is_(None)).values(key="trial of rte"))
    finish_search(session, search, SearchChoice(layers=2, learning_rate=1e-4, teacher=2, statistic="one run"), **change)


@pytest.fixture
def connection(filled: Database) -> Iterator[Connection]:
    """A transaction for writing that is undone at the end."""
    with filled.write() as session:
        yield session.connection()
        session.rollback()


def fresh_row(connection: Connection, table: str) -> dict[str, Any]:
    order = [column.desc() for column in TABLES[table].primary_key]
    row = connection.execute(select(TABLES[table]).order_by(*order).limit(1)).one()._asdict()
    return row | FRESH[table]


def write(connection: Connection, table: str, row: dict[str, Any]) -> None:
    """Writes the row with its values as they are, so that even what the column types would refuse arrives."""
    values = {name: json_text(value) if isinstance(value, dict) else value for name, value in row.items()}
    on_sqlite = connection.dialect.name == "sqlite"
    values |= {name: str(value) for name, value in row.items() if on_sqlite and isinstance(value, date)}
    places = ", ".join(f":{name}" for name in row)
    connection.execute(text(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({places})"), values)  # noqa: S608


def broken(connection: Connection, table: str, error: IntegrityError, row: dict[str, Any]) -> set[str]:
    """The names of the constraints that refused the row."""
    if connection.dialect.name == "postgresql":
        return broken_on_postgresql(connection, table, error, row)
    message = str(error.orig)
    if message.startswith("CHECK constraint failed: "):
        return {message.removeprefix("CHECK constraint failed: ")}
    inspector = inspect(connection)
    primary = inspector.get_pk_constraint(table)
    keys = [(key["name"], key["column_names"]) for key in inspector.get_unique_constraints(table)]
    keys.append((primary["name"], primary["constrained_columns"]))
    if message == f"rows of {table} are never changed or deleted, and one has this key":
        return {str(name) for name, of in keys if is_taken(connection, table, {column: row[column] for column in of})}
    if message.startswith("UNIQUE constraint failed: "):
        columns = [part.split(".")[1] for part in message.removeprefix("UNIQUE constraint failed: ").split(", ")]
        return {str(name) for name, of in keys if of == columns}
    assert message == "FOREIGN KEY constraint failed"
    connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")  # SQLite then says which ones
    write(connection, table, row)
    dangling = {found[3] for found in connection.exec_driver_sql(f"PRAGMA foreign_key_check({table})")}
    columns_of: dict[int, list[str]] = {}
    for part in connection.exec_driver_sql(f"PRAGMA foreign_key_list({table})"):
        columns_of.setdefault(part[0], []).append(part[3])
    names = {tuple(key["constrained_columns"]): str(key["name"]) for key in inspector.get_foreign_keys(table)}
    return {names[tuple(columns_of[number])] for number in dangling}


def is_taken(connection: Connection, table: str, key: dict[str, Any]) -> bool:
    same = [TABLES[table].c[column] == value for column, value in key.items()]
    return connection.scalar(select(func.count()).select_from(TABLES[table]).where(*same)) == 1


def broken_on_postgresql(
    connection: Connection, table: str, error: IntegrityError | None, row: dict[str, Any]
) -> set[str]:
    """PostgreSQL names one constraint at a time: that one is dropped, and the row written again."""
    names = set()
    while error is not None:
        name = error.orig.diag.constraint_name  # type: ignore[union-attr]
        names.add(name)
        connection.execute(text(f"ALTER TABLE {table} DROP CONSTRAINT {name} CASCADE"))
        try:
            with connection.begin_nested():
                write(connection, table, row)
            error = None
        except IntegrityError as another:
            error = another
    return names


@pytest.mark.parametrize("table", FRESH)
def test_the_row_that_the_refused_ones_spoil_is_allowed(connection: Connection, table: str) -> None:
    write(connection, table, fresh_row(connection, table))


@pytest.mark.parametrize("constraint", REFUSED)
def test_a_row_that_breaks_an_invariant_is_refused_by_its_named_constraint(
    connection: Connection, constraint: str
) -> None:
    table, name = constraint.split(".")
    row = fresh_row(connection, table) | REFUSED[constraint]
    with pytest.raises(IntegrityError) as refused, connection.begin_nested():
        write(connection, table, row)
    assert name in broken(connection, table, refused.value, row)


def test_every_constraint_is_shown_to_refuse_something(connection: Connection) -> None:
    inspector = inspect(connection)
    names = set()
    for table in FRESH:
        constraints = [
            inspector.get_pk_constraint(table),
            *inspector.get_unique_constraints(table),
            *inspector.get_foreign_keys(table),
            *inspector.get_check_constraints(table),
        ]
        names |= {f"{table}.{constraint['name']}" for constraint in constraints}
    assert names == REFUSED.keys() | NEVER_ALONE
    assert FRESH.keys() == TABLES.keys()


REFERRED_TO = ["teams", "backbones", "backbone_prefixes", "tasks", "releases", "channels", "trials", "searches"]
KEPT = ["audit_events", "alias_moves", "versions", "spec_revisions", "release_moves", "placements"]
_DANGLING = "FOREIGN KEY constraint failed|violates (RESTRICT setting of )?foreign key constraint"


@pytest.mark.parametrize("table", REFERRED_TO)
def test_nothing_is_deleted_while_anything_refers_to_it(connection: Connection, table: str) -> None:
    with pytest.raises(IntegrityError, match=_DANGLING):
        connection.execute(delete(TABLES[table]))


def test_a_prefix_cannot_change_under_its_versions(connection: Connection) -> None:
    prefixes = TABLES["backbone_prefixes"]
    with pytest.raises(IntegrityError, match=_DANGLING):
        connection.execute(update(prefixes).where(prefixes.c.depth == 2).values(prefix_digest="f" * 64))


@pytest.mark.parametrize("table", KEPT)
def test_what_is_only_ever_added_is_neither_changed_nor_deleted(connection: Connection, table: str) -> None:
    last = select(func.max(TABLES[table].c.id)).scalar_subquery()
    statements: list[Any] = [delete(TABLES[table]), delete(TABLES[table]).where(TABLES[table].c.id == last)]
    statements += [update(TABLES[table]).values({column.name: column}) for column in TABLES[table].columns]
    if connection.dialect.name == "postgresql":
        statements.append(text(f"TRUNCATE {table} CASCADE"))
    else:
        statements.append(text(f"INSERT OR REPLACE INTO {table} SELECT * FROM {table}"))  # noqa: S608
        statements.append(text(f"UPDATE OR REPLACE {table} SET id = 1"))  # noqa: S608
    for statement in statements:
        with (
            pytest.raises(IntegrityError, match=f"rows of {table} are never changed or deleted"),
            connection.begin_nested(),
        ):
            connection.execute(statement)


@pytest.mark.parametrize("table", KEPT)
def test_nothing_of_it_is_replaced_through_a_connection_that_is_not_ours(
    backend: str, filled: Database, tmp_path: Path, table: str
) -> None:
    """SQLite asks no trigger when it deletes a row to replace it, unless the connection wants that."""
    if backend == "postgresql":  # which knows ON CONFLICT DO UPDATE alone: an update
        return
    connection = sqlite3.connect(tmp_path / "copy.db", isolation_level=None)
    with closing(sqlite3.connect(filled.location)) as original:
        original.backup(connection)
    keys = [[column.name for column in TABLES[table].primary_key]]
    keys += [[c.name for c in one.columns] for one in TABLES[table].constraints if isinstance(one, UniqueConstraint)]
    for key in keys:
        same = ", ".join(
            column.name if column.name in key else "NULL" if column.name == "id" else f"{column.name} || 'x'"
            for column in TABLES[table].columns
        )
        with pytest.raises(sqlite3.IntegrityError, match=f"rows of {table} are never changed or deleted, and one has"):
            connection.execute(f"REPLACE INTO {table} SELECT {same} FROM {table} WHERE id = 1")  # noqa: S608
    connection.close()


def test_only_what_may_be_unknown_may_be_null(connection: Connection) -> None:
    columns = {table: inspect(connection).get_columns(table) for table in TABLES}
    nullable = {f"{table}.{column['name']}" for table in TABLES for column in columns[table] if column["nullable"]}
    assert nullable == {
        "backbone_prefixes.layer_digest",
        "backbone_prefixes.layer_blob",
        "tasks.retired_at",
        "tasks.retired_reason",
        "tasks.sunset_on",
        "tasks.superseded_by_id",
        "versions.teacher_number",
        "versions.mlflow_run",
        "alias_moves.from_version",
        "release_moves.previous_number",
        "release_moves.from_state",
        "release_moves.report",
        "release_moves.reason",
        "channels.release_id",
        "placements.from_release_id",
        "audit_events.before",
        "audit_events.after",
        "trials.score",
        "trials.version_number",
        "trials.error",
        "trials.worker",
        "trials.lease_until",
        "searches.choice",
        "searches.mlflow_run",
        "searches.runner",
        "searches.runner_until",
        "searches.finished_at",
    }
