"""Adds the states of releases, and channels with what was placed on them; a release's gates move into its journal."""

import sqlalchemy as sa
from alembic import op

revision = "2026_11_23_release_life"
down_revision = "2026_11_23_search_ledger"
branch_labels = None
depends_on = None

_KEPT = {
    "release_moves": (
        "id = NEW.id OR release_id = NEW.release_id AND number = NEW.number "
        "OR release_id = NEW.release_id AND number = NEW.number AND to_state = NEW.to_state"
    ),
    "placements": "id = NEW.id",
}
"""Table -> that a row is there which a new one would replace."""

_STATES = "('draft', 'verified', 'approved', 'retired')"


def upgrade() -> None:
    op.create_table(
        "release_moves",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("release_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("previous_number", sa.Integer(), nullable=True),
        sa.Column("from_state", sa.String(length=32), nullable=True),
        sa.Column("to_state", sa.String(length=32), nullable=False),
        sa.Column("report", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("moved_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("number >= 1", name=op.f("ck_release_moves_number_positive")),
        sa.CheckConstraint(
            "(number = 1) = (previous_number IS NULL)", name=op.f("ck_release_moves_first_has_none_before")
        ),
        sa.CheckConstraint("previous_number = number - 1", name=op.f("ck_release_moves_previous_is_the_one_before")),
        sa.CheckConstraint(
            "(previous_number IS NULL) = (from_state IS NULL)", name=op.f("ck_release_moves_state_before_is_known")
        ),
        sa.CheckConstraint(
            "from_state IS NULL"
            " OR from_state = 'draft' AND to_state IN ('verified', 'retired')"
            " OR from_state = 'verified' AND to_state IN ('approved', 'retired')"
            " OR from_state = 'approved' AND to_state = 'retired'"
            " OR from_state = to_state AND from_state <> 'retired' AND report IS NOT NULL",
            name=op.f("ck_release_moves_is_legal"),
        ),
        sa.CheckConstraint(
            "from_state IS NOT NULL OR to_state = 'draft'", name=op.f("ck_release_moves_first_is_draft")
        ),
        sa.CheckConstraint(
            "to_state <> 'verified' OR report IS NOT NULL", name=op.f("ck_release_moves_verified_has_report")
        ),
        sa.CheckConstraint(
            "to_state <> 'retired' OR reason IS NOT NULL", name=op.f("ck_release_moves_retired_has_reason")
        ),
        sa.CheckConstraint(f"from_state IN {_STATES}", name=op.f("ck_release_moves_from_state")),
        sa.CheckConstraint(f"to_state IN {_STATES}", name=op.f("ck_release_moves_to_state")),
        sa.ForeignKeyConstraint(
            ["release_id"], ["releases.id"], name=op.f("fk_release_moves_release_id"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(
            ["release_id", "previous_number", "from_state"],
            ["release_moves.release_id", "release_moves.number", "release_moves.to_state"],
            name="fk_release_moves_from_the_state_before",
            ondelete="RESTRICT",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_release_moves")),
        sa.UniqueConstraint("release_id", "number", name=op.f("uq_release_moves_release_id_number")),
        sa.UniqueConstraint(
            "release_id", "number", "to_state", name=op.f("uq_release_moves_release_id_number_to_state")
        ),
    )
    op.create_table(
        "channels",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", _text(63), nullable=False),
        sa.Column("takes", _text(63), nullable=False),
        sa.Column("release_id", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.CheckConstraint("takes IN ('verified', 'approved')", name=op.f("ck_channels_takes")),
        sa.ForeignKeyConstraint(
            ["release_id"], ["releases.id"], name=op.f("fk_channels_release_id"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_channels")),
        sa.UniqueConstraint("name", name=op.f("uq_channels_name")),
    )
    op.create_table(
        "placements",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("channel_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("from_release_id", sa.Integer(), nullable=True),
        sa.Column("to_release_id", sa.Integer(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("placed_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("kind IN ('promote', 'revert')", name=op.f("ck_placements_kind")),
        sa.CheckConstraint("from_release_id <> to_release_id", name=op.f("ck_placements_moves")),
        sa.CheckConstraint(
            "kind <> 'revert' OR from_release_id IS NOT NULL", name=op.f("ck_placements_revert_leaves_a_release")
        ),
        sa.ForeignKeyConstraint(
            ["channel_id"], ["channels.id"], name=op.f("fk_placements_channel_id"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(
            ["from_release_id"], ["releases.id"], name=op.f("fk_placements_from_release_id"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(
            ["to_release_id"], ["releases.id"], name=op.f("fk_placements_to_release_id"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_placements")),
    )
    op.create_index("ix_placements_channel_id_id", "placements", ["channel_id", "id"], unique=False)
    # A release that there is passed the gates when it was assembled, or it would not be there.
    op.execute(
        "INSERT INTO release_moves (release_id, number, to_state, actor, moved_at) "
        "SELECT id, 1, 'draft', created_by, created_at FROM releases"
    )
    op.execute(
        "INSERT INTO release_moves "
        "(release_id, number, previous_number, from_state, to_state, report, actor, moved_at) "
        "SELECT id, 2, 1, 'draft', 'verified', gates, created_by, created_at FROM releases"
    )
    op.drop_column("releases", "gates")
    _create_triggers()


def downgrade() -> None:
    """What is live on channels is lost; approved releases become verified ones."""
    last = "SELECT MAX(number) FROM release_moves AS later WHERE later.release_id = release_moves.release_id"
    unusable = op.get_bind().scalar(
        sa.text(
            f"SELECT COUNT(*) FROM release_moves WHERE number = ({last}) AND to_state IN ('draft', 'retired')"  # noqa: S608
        )
    )
    if unusable:
        raise RuntimeError(f"{unusable} releases are drafts or retired: the older program would take them for verified")
    op.add_column("releases", sa.Column("gates", sa.JSON(), nullable=False, server_default="{}"))
    op.execute(
        "UPDATE releases SET gates = (SELECT report FROM release_moves WHERE release_id = releases.id "
        "AND report IS NOT NULL ORDER BY number DESC LIMIT 1)"
    )
    _drop_triggers()
    op.drop_table("placements")
    op.drop_table("channels")
    op.drop_table("release_moves")


def _create_triggers() -> None:
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


def _on_postgresql() -> bool:
    return op.get_bind().dialect.name == "postgresql"


def _text(length: int) -> sa.String:
    return sa.String(length, collation="C" if _on_postgresql() else None)
