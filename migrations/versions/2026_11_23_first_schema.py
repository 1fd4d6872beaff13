"""The first schema: teams, backbones, tasks, versions, aliases, releases, and who changed what."""

import sqlalchemy as sa
from alembic import op

revision = "2026_11_23_first_schema"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit_events",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.String(length=63), nullable=False),
        sa.Column("object", sa.String(length=160), nullable=False),
        sa.Column("before", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("after", sa.JSON(none_as_null=True), nullable=True),
        sa.CheckConstraint("actor <> ''", name=op.f("ck_audit_events_actor_not_empty")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_events")),
    )
    op.create_index(op.f("ix_audit_events_object"), "audit_events", ["object"], unique=False)
    op.create_table(
        "backbones",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("model_type", sa.String(length=63), nullable=False),
        sa.Column("layer_count", sa.Integer(), nullable=False),
        sa.Column("hidden_size", sa.Integer(), nullable=False),
        sa.Column("max_length", sa.Integer(), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("prefix_root", sa.JSON(), nullable=False),
        sa.Column("tokenizer", sa.String(length=64), nullable=False),
        sa.Column("embeddings", sa.String(length=64), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("hidden_size >= 1", name=op.f("ck_backbones_hidden_size_positive")),
        sa.CheckConstraint("layer_count >= 1", name=op.f("ck_backbones_layer_count_positive")),
        sa.CheckConstraint("length(embeddings) = 64", name=op.f("ck_backbones_embeddings_is_digest")),
        sa.CheckConstraint("length(tokenizer) = 64", name=op.f("ck_backbones_tokenizer_is_digest")),
        sa.CheckConstraint("max_length >= 3", name=op.f("ck_backbones_max_length_holds_a_token")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_backbones")),
        sa.UniqueConstraint("name", name=op.f("uq_backbones_name")),
    )
    op.create_table(
        "counters",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("next_number", sa.Integer(), nullable=False),
        sa.CheckConstraint("next_number >= 1", name=op.f("ck_counters_next_number_positive")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_counters")),
    )
    op.create_table(
        "teams",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_teams")),
        sa.UniqueConstraint("name", name=op.f("uq_teams_name")),
    )
    op.create_table(
        "backbone_prefixes",
        sa.Column("backbone_id", sa.Integer(), nullable=False),
        sa.Column("depth", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("prefix_digest", sa.String(length=64), nullable=False),
        sa.Column("layer_digest", sa.String(length=64), nullable=True),
        sa.Column("layer_blob", sa.String(length=64), nullable=True),
        sa.CheckConstraint(
            "(depth = 0) = (layer_blob IS NULL)", name=op.f("ck_backbone_prefixes_layer_blob_from_depth_1")
        ),
        sa.CheckConstraint(
            "(depth = 0) = (layer_digest IS NULL)", name=op.f("ck_backbone_prefixes_layer_digest_from_depth_1")
        ),
        sa.CheckConstraint("depth >= 0", name=op.f("ck_backbone_prefixes_depth_not_negative")),
        sa.CheckConstraint("length(layer_blob) = 64", name=op.f("ck_backbone_prefixes_layer_blob_is_digest")),
        sa.CheckConstraint("length(layer_digest) = 64", name=op.f("ck_backbone_prefixes_layer_digest_is_digest")),
        sa.CheckConstraint("length(prefix_digest) = 64", name=op.f("ck_backbone_prefixes_prefix_digest_is_digest")),
        sa.ForeignKeyConstraint(
            ["backbone_id"], ["backbones.id"], name=op.f("fk_backbone_prefixes_backbone_id"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("backbone_id", "depth", name=op.f("pk_backbone_prefixes")),
        sa.UniqueConstraint(
            "backbone_id", "depth", "prefix_digest", name=op.f("uq_backbone_prefixes_backbone_id_depth_prefix_digest")
        ),
    )
    op.create_table(
        "tasks",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("team_id", sa.Integer(), nullable=False),
        sa.Column(
            "state",
            sa.Enum("active", "retired", name="state", native_enum=False, create_constraint=True, length=32),
            nullable=False,
        ),
        sa.Column("retired_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("retired_reason", sa.Text(), nullable=True),
        sa.Column("sunset_on", sa.Date(), nullable=True),
        sa.Column("superseded_by_id", sa.Integer(), nullable=True),
        sa.Column("next_version", sa.Integer(), nullable=False),
        sa.Column("next_spec_revision", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("(state = 'retired') = (retired_at IS NOT NULL)", name=op.f("ck_tasks_retired_has_time")),
        sa.CheckConstraint(
            "(state = 'retired') = (retired_reason IS NOT NULL)", name=op.f("ck_tasks_retired_has_reason")
        ),
        sa.CheckConstraint(
            "state = 'retired' OR (sunset_on IS NULL AND superseded_by_id IS NULL)",
            name=op.f("ck_tasks_only_retired_is_superseded"),
        ),
        sa.CheckConstraint("next_spec_revision >= 1", name=op.f("ck_tasks_next_spec_revision_positive")),
        sa.CheckConstraint("next_version >= 1", name=op.f("ck_tasks_next_version_positive")),
        sa.CheckConstraint("superseded_by_id <> id", name=op.f("ck_tasks_not_superseded_by_itself")),
        sa.ForeignKeyConstraint(
            ["superseded_by_id"], ["tasks.id"], name=op.f("fk_tasks_superseded_by_id"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_tasks_team_id"), ondelete="RESTRICT"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tasks")),
        sa.UniqueConstraint("name", name=op.f("uq_tasks_name")),
    )
    op.create_index(op.f("ix_tasks_team_id"), "tasks", ["team_id"], unique=False)
    op.create_table(
        "releases",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("manifest", sa.String(length=64), nullable=False),
        sa.Column("backbone_id", sa.Integer(), nullable=False),
        sa.Column("trunk_depth", sa.Integer(), nullable=False),
        sa.Column("layer_count", sa.Integer(), nullable=False),
        sa.Column("gates", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.CheckConstraint("layer_count > trunk_depth", name=op.f("ck_releases_layer_count_above_trunk")),
        sa.CheckConstraint("length(manifest) = 64", name=op.f("ck_releases_manifest_is_digest")),
        sa.CheckConstraint("number >= 1", name=op.f("ck_releases_number_positive")),
        sa.ForeignKeyConstraint(
            ["backbone_id", "trunk_depth"],
            ["backbone_prefixes.backbone_id", "backbone_prefixes.depth"],
            name="fk_releases_trunk_within_backbone",
            ondelete="RESTRICT",
        ),
        sa.ForeignKeyConstraint(
            ["backbone_id"], ["backbones.id"], name=op.f("fk_releases_backbone_id"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_releases")),
        sa.UniqueConstraint("manifest", name=op.f("uq_releases_manifest")),
        sa.UniqueConstraint("number", name=op.f("uq_releases_number")),
    )
    op.create_table(
        "spec_revisions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("task_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("definition", sa.JSON(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("length(digest) = 64", name=op.f("ck_spec_revisions_digest_is_digest")),
        sa.CheckConstraint("number >= 1", name=op.f("ck_spec_revisions_number_positive")),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_spec_revisions_task_id"), ondelete="RESTRICT"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_spec_revisions")),
        sa.UniqueConstraint("task_id", "number", name=op.f("uq_spec_revisions_task_id_number")),
    )
    op.create_table(
        "versions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("task_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("spec_revision", sa.Integer(), nullable=False),
        sa.Column("backbone_id", sa.Integer(), nullable=False),
        sa.Column(
            "kind",
            sa.Enum("teacher", "student", name="kind", native_enum=False, create_constraint=True, length=32),
            nullable=False,
        ),
        sa.Column("frozen_depth", sa.Integer(), nullable=False),
        sa.Column("task_layers", sa.Integer(), nullable=False),
        sa.Column("top_layer", sa.Integer(), nullable=False),
        sa.Column("prefix_digest", sa.String(length=64), nullable=False),
        sa.Column("teacher_number", sa.Integer(), nullable=True),
        sa.Column("head", sa.JSON(), nullable=False),
        sa.Column("module", sa.String(length=64), nullable=False),
        sa.Column("golden", sa.String(length=64), nullable=False),
        sa.Column("dev_predictions", sa.String(length=64), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("statistic", sa.Text(), nullable=False),
        sa.Column("train_digest", sa.String(length=64), nullable=False),
        sa.Column("dev_digest", sa.String(length=64), nullable=False),
        sa.Column("recipe", sa.JSON(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("environment", sa.JSON(), nullable=False),
        sa.Column("trial_key", sa.String(length=128), nullable=False),
        sa.Column("mlflow_run", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "(kind = 'student') = (teacher_number IS NOT NULL)", name=op.f("ck_versions_student_has_teacher")
        ),
        sa.CheckConstraint("frozen_depth >= 0", name=op.f("ck_versions_frozen_depth_not_negative")),
        sa.CheckConstraint("length(dev_digest) = 64", name=op.f("ck_versions_dev_digest_is_digest")),
        sa.CheckConstraint("length(dev_predictions) = 64", name=op.f("ck_versions_dev_predictions_is_digest")),
        sa.CheckConstraint("length(golden) = 64", name=op.f("ck_versions_golden_is_digest")),
        sa.CheckConstraint("length(module) = 64", name=op.f("ck_versions_module_is_digest")),
        sa.CheckConstraint("length(prefix_digest) = 64", name=op.f("ck_versions_prefix_digest_is_digest")),
        sa.CheckConstraint("length(train_digest) = 64", name=op.f("ck_versions_train_digest_is_digest")),
        sa.CheckConstraint("number >= 1", name=op.f("ck_versions_number_positive")),
        sa.CheckConstraint("task_layers >= 1", name=op.f("ck_versions_task_layers_positive")),
        sa.CheckConstraint("teacher_number < number", name=op.f("ck_versions_teacher_is_older")),
        sa.CheckConstraint("top_layer = frozen_depth + task_layers", name=op.f("ck_versions_top_layer_is_sum")),
        sa.ForeignKeyConstraint(
            ["backbone_id", "frozen_depth", "prefix_digest"],
            ["backbone_prefixes.backbone_id", "backbone_prefixes.depth", "backbone_prefixes.prefix_digest"],
            name="fk_versions_prefix_of_backbone",
            ondelete="RESTRICT",
        ),
        sa.ForeignKeyConstraint(
            ["backbone_id", "top_layer"],
            ["backbone_prefixes.backbone_id", "backbone_prefixes.depth"],
            name="fk_versions_top_layer_within_backbone",
            ondelete="RESTRICT",
        ),
        sa.ForeignKeyConstraint(
            ["backbone_id"], ["backbones.id"], name=op.f("fk_versions_backbone_id"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(
            ["task_id", "spec_revision"],
            ["spec_revisions.task_id", "spec_revisions.number"],
            name="fk_versions_spec_revision_of_same_task",
            ondelete="RESTRICT",
        ),
        sa.ForeignKeyConstraint(
            ["task_id", "teacher_number"],
            ["versions.task_id", "versions.number"],
            name="fk_versions_teacher_of_same_task",
            ondelete="RESTRICT",
        ),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_versions_task_id"), ondelete="RESTRICT"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_versions")),
        sa.UniqueConstraint("task_id", "number", name=op.f("uq_versions_task_id_number")),
        sa.UniqueConstraint("task_id", "trial_key", name=op.f("uq_versions_task_id_trial_key")),
    )
    op.create_index("ix_versions_backbone_id_frozen_depth", "versions", ["backbone_id", "frozen_depth"], unique=False)
    op.create_table(
        "alias_moves",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("task_id", sa.Integer(), nullable=False),
        sa.Column("alias", sa.String(length=63), nullable=False),
        sa.Column(
            "kind",
            sa.Enum("promote", "rollback", name="kind", native_enum=False, create_constraint=True, length=32),
            nullable=False,
        ),
        sa.Column("from_version", sa.Integer(), nullable=True),
        sa.Column("to_version", sa.Integer(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("moved_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "kind <> 'rollback' OR from_version IS NOT NULL", name=op.f("ck_alias_moves_rollback_leaves_a_version")
        ),
        sa.CheckConstraint("from_version <> to_version", name=op.f("ck_alias_moves_moves")),
        sa.ForeignKeyConstraint(
            ["task_id", "from_version"],
            ["versions.task_id", "versions.number"],
            name="fk_alias_moves_from_version_of_same_task",
            ondelete="RESTRICT",
        ),
        sa.ForeignKeyConstraint(
            ["task_id", "to_version"],
            ["versions.task_id", "versions.number"],
            name="fk_alias_moves_to_version_of_same_task",
            ondelete="RESTRICT",
        ),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_alias_moves_task_id"), ondelete="RESTRICT"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alias_moves")),
    )
    op.create_index("ix_alias_moves_task_id_alias", "alias_moves", ["task_id", "alias"], unique=False)
    op.create_table(
        "aliases",
        sa.Column("task_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("version_number", sa.Integer(), nullable=False),
        sa.CheckConstraint("name <> 'latest'", name=op.f("ck_aliases_name_is_not_latest")),
        sa.ForeignKeyConstraint(
            ["task_id", "version_number"],
            ["versions.task_id", "versions.number"],
            name="fk_aliases_version_of_same_task",
            ondelete="RESTRICT",
        ),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_aliases_task_id"), ondelete="RESTRICT"),
        sa.PrimaryKeyConstraint("task_id", "name", name=op.f("pk_aliases")),
    )
    op.create_table(
        "release_members",
        sa.Column("release_id", sa.Integer(), nullable=False),
        sa.Column("task_id", sa.Integer(), nullable=False),
        sa.Column("version_number", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["release_id"], ["releases.id"], name=op.f("fk_release_members_release_id"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(
            ["task_id", "version_number"],
            ["versions.task_id", "versions.number"],
            name="fk_release_members_version_of_same_task",
            ondelete="RESTRICT",
        ),
        sa.ForeignKeyConstraint(
            ["task_id"], ["tasks.id"], name=op.f("fk_release_members_task_id"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("release_id", "task_id", name=op.f("pk_release_members")),
    )
    op.create_index(
        "ix_release_members_task_id_version_number", "release_members", ["task_id", "version_number"], unique=False
    )
    op.bulk_insert(
        sa.table("counters", sa.column("name", sa.String), sa.column("next_number", sa.Integer)),
        [{"name": "release", "next_number": 1}],
    )


def downgrade() -> None:
    op.drop_index("ix_release_members_task_id_version_number", table_name="release_members")
    op.drop_table("release_members")
    op.drop_table("aliases")
    op.drop_index("ix_alias_moves_task_id_alias", table_name="alias_moves")
    op.drop_table("alias_moves")
    op.drop_index("ix_versions_backbone_id_frozen_depth", table_name="versions")
    op.drop_table("versions")
    op.drop_table("spec_revisions")
    op.drop_table("releases")
    op.drop_index(op.f("ix_tasks_team_id"), table_name="tasks")
    op.drop_table("tasks")
    op.drop_table("backbone_prefixes")
    op.drop_table("teams")
    op.drop_table("counters")
    op.drop_table("backbones")
    op.drop_index(op.f("ix_audit_events_object"), table_name="audit_events")
    op.drop_table("audit_events")
