"""Chains the audit events, lets the database keep what is only ever added, and gives PostgreSQL the indexes it needs.

On PostgreSQL names and digests also come to compare by code point, as they always do on SQLite.
"""

import hashlib
import json
import secrets
from datetime import UTC
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "2026_11_23_audit_chain"
down_revision = "2026_11_23_first_schema"
branch_labels = None
depends_on = None

_KEPT = {
    "audit_events": "id = NEW.id OR hash = NEW.hash",
    "alias_moves": "id = NEW.id",
    "versions": (
        "id = NEW.id OR task_id = NEW.task_id AND number = NEW.number "
        "OR task_id = NEW.task_id AND trial_key = NEW.trial_key"
    ),
    "spec_revisions": "id = NEW.id OR task_id = NEW.task_id AND number = NEW.number",
}
"""Table -> that a row is there which a new one would replace."""

_BY_CODE_POINT = {
    "alias_moves": {"alias": 63},
    "aliases": {"name": 63},
    "audit_events": {"action": 63, "object": 160},
    "backbone_prefixes": {"prefix_digest": 64, "layer_digest": 64, "layer_blob": 64},
    "backbones": {"name": 63, "model_type": 63, "tokenizer": 64, "embeddings": 64},
    "counters": {"name": 63},
    "releases": {"manifest": 64},
    "spec_revisions": {"digest": 64},
    "tasks": {"name": 63},
    "teams": {"name": 63},
    "versions": {
        "prefix_digest": 64,
        "module": 64,
        "golden": 64,
        "dev_predictions": 64,
        "train_digest": 64,
        "dev_digest": 64,
        "trial_key": 128,
    },
}

_EVENTS = sa.table(
    "audit_events",
    sa.column("id", sa.Integer),
    sa.column("occurred_at", sa.DateTime(timezone=True)),
    sa.column("actor", sa.Text),
    sa.column("action", sa.String),
    sa.column("object", sa.String),
    sa.column("before", sa.JSON(none_as_null=True)),
    sa.column("after", sa.JSON(none_as_null=True)),
    sa.column("hash", sa.String),
)
_COUNTERS = sa.table("counters", sa.column("name", sa.String), sa.column("next_number", sa.Integer))


def upgrade() -> None:
    if _on_postgresql():
        _set_collations("C")
        op.execute("ALTER TABLE audit_events ALTER COLUMN id DROP DEFAULT")
        op.execute("DROP SEQUENCE audit_events_id_seq")
    op.add_column("audit_events", sa.Column("hash", _text(64), nullable=True))
    events = _chain_events(op.get_bind())
    with op.batch_alter_table("audit_events") as table:
        table.alter_column("hash", existing_type=_text(64), nullable=False)
        table.create_unique_constraint(op.f("uq_audit_events_hash"), ["hash"])
        table.create_check_constraint(op.f("ck_audit_events_hash_is_digest"), "length(hash) = 64")
        table.drop_index(op.f("ix_audit_events_object"))
        table.create_index("ix_audit_events_object_id", ["object", "id"], unique=False)
    registry_number = secrets.randbelow(2**31 - 1) + 1
    op.bulk_insert(
        _COUNTERS,
        [{"name": "sweep", "next_number": registry_number}, {"name": "audit_event", "next_number": events + 1}],
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("key", _text(128), nullable=False),
        sa.Column("action", _text(63), nullable=False),
        sa.Column("request", _text(64), nullable=False),
        sa.Column("result", sa.JSON(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("length(request) = 64", name=op.f("ck_idempotency_keys_request_is_digest")),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index("ix_aliases_name", "aliases", ["name"], unique=False)
    op.drop_index("ix_alias_moves_task_id_alias", table_name="alias_moves")
    op.create_index("ix_alias_moves_task_id_alias_id", "alias_moves", ["task_id", "alias", "id"], unique=False)
    for blob in ("module", "golden", "dev_predictions"):
        op.create_index(f"ix_versions_{blob}", "versions", [blob], unique=False)
    _create_triggers()


def downgrade() -> None:
    _drop_triggers()
    for blob in ("dev_predictions", "golden", "module"):
        op.drop_index(f"ix_versions_{blob}", table_name="versions")
    op.drop_index("ix_alias_moves_task_id_alias_id", table_name="alias_moves")
    op.create_index("ix_alias_moves_task_id_alias", "alias_moves", ["task_id", "alias"], unique=False)
    op.drop_index("ix_aliases_name", table_name="aliases")
    op.drop_table("idempotency_keys")
    op.execute(sa.delete(_COUNTERS).where(_COUNTERS.c.name.in_(["sweep", "audit_event"])))
    with op.batch_alter_table("audit_events") as table:
        table.drop_index("ix_audit_events_object_id")
        table.create_index(op.f("ix_audit_events_object"), ["object"], unique=False)
        table.drop_constraint(op.f("ck_audit_events_hash_is_digest"), type_="check")
        table.drop_constraint(op.f("uq_audit_events_hash"), type_="unique")
        table.drop_column("hash")
    if _on_postgresql():
        op.execute("CREATE SEQUENCE audit_events_id_seq AS integer OWNED BY audit_events.id")
        op.execute("SELECT setval('audit_events_id_seq', (SELECT max(id) FROM audit_events))")
        op.execute("ALTER TABLE audit_events ALTER COLUMN id SET DEFAULT nextval('audit_events_id_seq')")
        _set_collations("default")


def _on_postgresql() -> bool:
    return op.get_bind().dialect.name == "postgresql"


def _text(length: int) -> sa.String:
    return sa.String(length, collation="C" if _on_postgresql() else None)


def _set_collations(collation: str) -> None:
    for table, columns in _BY_CODE_POINT.items():
        changes = (
            f'ALTER COLUMN {name} TYPE varchar({length}) COLLATE "{collation}"' for name, length in columns.items()
        )
        op.execute(f"ALTER TABLE {table} {', '.join(changes)}")


def _chain_events(connection: sa.Connection) -> int:
    """Numbers the events from 1 without gaps, in the order that they have, and chains them; returns how many."""
    number, last, previous = 0, -1, "0" * 64
    following = sa.select(_EVENTS).where(_EVENTS.c.id > sa.bindparam("last")).order_by(_EVENTS.c.id).limit(500)
    while batch := connection.execute(following, {"last": last}).mappings().all():
        changes = []
        for row in batch:
            number, last = number + 1, row["id"]
            previous = _hash(row, number, previous)
            changes.append({"old": last, "number": number, "chained": previous})
        connection.execute(
            sa.update(_EVENTS)
            .where(_EVENTS.c.id == sa.bindparam("old"))
            .values(id=sa.bindparam("number"), hash=sa.bindparam("chained")),
            changes,
        )
    return number


def _hash(event: sa.RowMapping, number: int, previous: str) -> str:
    at = event["occurred_at"]
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    covered: dict[str, Any] = {
        "number": number,
        "occurred_at": at.isoformat(timespec="microseconds"),
        "previous": previous,
        **{name: event[name] for name in ("actor", "action", "object", "before", "after")},
    }
    text = json.dumps(covered, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _create_triggers() -> None:
    if _on_postgresql():
        op.execute("""CREATE OR REPLACE FUNCTION trunkline_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of % are never changed or deleted', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END
$$""")
    for table, same_key in _KEPT.items():
        if _on_postgresql():
            op.execute(
                f"CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE ON {table} "
                "FOR EACH ROW EXECUTE FUNCTION trunkline_refuse_change()"
            )
            op.execute(
                f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} "
                "FOR EACH STATEMENT EXECUTE FUNCTION trunkline_refuse_change()"
            )
        else:
            for change in ("update", "delete"):
                op.execute(
                    f"CREATE TRIGGER {table}_no_{change} BEFORE {change.upper()} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, 'rows of {table} are never changed or deleted'); END"
                )
            is_there = f"EXISTS (SELECT 1 FROM {table} WHERE {same_key})"  # noqa: S608 - both are written above
            op.execute(
                f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} WHEN {is_there} "
                f"BEGIN SELECT RAISE(ABORT, 'rows of {table} are never changed or deleted, and one has this key'); END"
            )


def _drop_triggers() -> None:
    for table in _KEPT:
        if _on_postgresql():
            op.execute(f"DROP TRIGGER {table}_no_truncate ON {table}")
            op.execute(f"DROP TRIGGER {table}_no_change ON {table}")
        else:
            op.execute(f"DROP TRIGGER {table}_no_replace")
            op.execute(f"DROP TRIGGER {table}_no_delete")
            op.execute(f"DROP TRIGGER {table}_no_update")
    if _on_postgresql():
        op.execute("DROP FUNCTION trunkline_refuse_change()")
