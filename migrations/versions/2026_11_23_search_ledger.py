"""Adds depth searches and the ledger of their trials."""

import sqlalchemy as sa
from alembic import op

revision = "2026_11_23_search_ledger"
down_revision = "2026_11_23_audit_chain"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "trials",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("task_id", sa.Integer(), nullable=False),
        sa.Column("key", _text(128), nullable=False),
        sa.Column("shape", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("epochs", sa.Integer(), nullable=False),
        sa.Column("epochs_done", sa.Integer(), nullable=False),
        sa.Column("curve", sa.JSON(), nullable=False),
        sa.Column("score", sa.Float(53), nullable=True),
        sa.Column("version_number", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Float(53), nullable=False),
        sa.Column("layer_passes", sa.Float(53), nullable=False),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state IN ('waiting', 'running', 'paused', 'finished', 'failed')", name=op.f("ck_trials_state")
        ),
        sa.CheckConstraint("epochs >= 1", name=op.f("ck_trials_epochs_positive")),
        sa.CheckConstraint("epochs_done >= 0 AND epochs_done <= epochs", name=op.f("ck_trials_epochs_done_within")),
        sa.CheckConstraint("attempts >= 0", name=op.f("ck_trials_attempts_not_negative")),
        sa.CheckConstraint(
            "(state = 'finished') = (version_number IS NOT NULL)", name=op.f("ck_trials_finished_has_version")
        ),
        sa.CheckConstraint("(state = 'finished') = (score IS NOT NULL)", name=op.f("ck_trials_finished_has_score")),
        sa.CheckConstraint("state <> 'failed' OR error IS NOT NULL", name=op.f("ck_trials_failed_has_error")),
        sa.CheckConstraint("(state = 'running') = (worker IS NOT NULL)", name=op.f("ck_trials_running_has_worker")),
        sa.CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name=op.f("ck_trials_running_has_lease")),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_trials_task_id"), ondelete="RESTRICT"),
        sa.ForeignKeyConstraint(
            ["task_id", "version_number"],
            ["versions.task_id", "versions.number"],
            name="fk_trials_version_of_same_task",
            ondelete="RESTRICT",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trials")),
        sa.UniqueConstraint("task_id", "key", name=op.f("uq_trials_task_id_key")),
    )
    op.create_table(
        "searches",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("task_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("key", _text(128), nullable=False),
        sa.Column("spec_revision", sa.Integer(), nullable=False),
        sa.Column("backbone_id", sa.Integer(), nullable=False),
        sa.Column("train_digest", _text(64), nullable=False),
        sa.Column("dev_digest", _text(64), nullable=False),
        sa.Column("options", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("choice", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("exhaustive_layer_passes", sa.Float(53), nullable=False),
        sa.Column("mlflow_run", sa.Text(), nullable=True),
        sa.Column("runner", sa.Text(), nullable=True),
        sa.Column("runner_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state IN ('running', 'finished')", name=op.f("ck_searches_state")),
        sa.CheckConstraint("number >= 1", name=op.f("ck_searches_number_positive")),
        sa.CheckConstraint("(state = 'finished') = (choice IS NOT NULL)", name=op.f("ck_searches_finished_has_choice")),
        sa.CheckConstraint(
            "(state = 'finished') = (finished_at IS NOT NULL)", name=op.f("ck_searches_finished_has_time")
        ),
        sa.CheckConstraint("(runner IS NULL) = (runner_until IS NULL)", name=op.f("ck_searches_runner_has_lease")),
        sa.CheckConstraint("length(train_digest) = 64", name=op.f("ck_searches_train_digest_is_digest")),
        sa.CheckConstraint("length(dev_digest) = 64", name=op.f("ck_searches_dev_digest_is_digest")),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_searches_task_id"), ondelete="RESTRICT"),
        sa.ForeignKeyConstraint(
            ["backbone_id"], ["backbones.id"], name=op.f("fk_searches_backbone_id"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(
            ["task_id", "spec_revision"],
            ["spec_revisions.task_id", "spec_revisions.number"],
            name="fk_searches_spec_revision_of_same_task",
            ondelete="RESTRICT",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_searches")),
        sa.UniqueConstraint("task_id", "key", name=op.f("uq_searches_task_id_key")),
        sa.UniqueConstraint("task_id", "number", name=op.f("uq_searches_task_id_number")),
    )
    op.create_table(
        "search_trials",
        sa.Column("search_id", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("trial_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["search_id"], ["searches.id"], name=op.f("fk_search_trials_search_id"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(
            ["trial_id"], ["trials.id"], name=op.f("fk_search_trials_trial_id"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("search_id", "position", name=op.f("pk_search_trials")),
        sa.UniqueConstraint("search_id", "trial_id", name=op.f("uq_search_trials_search_id_trial_id")),
    )
    op.create_index(op.f("ix_search_trials_trial_id"), "search_trials", ["trial_id"], unique=False)


def downgrade() -> None:
    op.drop_table("search_trials")
    op.drop_table("searches")
    op.drop_table("trials")


def _text(length: int) -> sa.String:
    return sa.String(length, collation="C" if op.get_bind().dialect.name == "postgresql" else None)
