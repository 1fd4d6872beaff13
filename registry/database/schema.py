"""The registry's tables. What must always be true is a named constraint here, not only a check in Python.

    teams ─< tasks ─< spec_revisions
               │  └──< versions >── backbone_prefixes >── backbones
               ├──< aliases, alias_moves >── versions
               ├──< release_members >── versions,  release_members >── releases >── backbones
               │                        releases ──< release_moves,  releases >──< placements >── channels
               └──< trials, searches;  searches >──< search_trials >── trials

Foreign keys are composite where a plain one would let a row point at another task's version. None cascades: nothing
is deleted while anything refers to it.
"""

from datetime import date
from typing import Any, ClassVar, Final

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    MetaData,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from registry.database.columns import (
    BigNumber,
    Digest,
    KeyText,
    Moment,
    NameText,
    Object,
    ObjectText,
    OptionalDigest,
    OptionalMoment,
    OptionalObject,
    OptionalProse,
    OptionalReal,
    Prose,
    Real,
    WholeNumber,
    digest_check,
    enum_by_value,
)
from registry.database.triggers import keep_unchanged
from registry.domain.alias_journal import MoveKind
from registry.domain.records import TaskState, VersionKind
from registry.domain.release_life import PlacementKind, ReleaseState
from registry.domain.searches import SearchState, TrialState

SCHEMA_REVISION: Final = "2026_11_23_release_life"
"""The Alembic revision that these classes describe."""

OLDER_REVISIONS: Final = ("2026_11_23_first_schema", "2026_11_23_audit_chain", "2026_11_23_search_ledger")
"""Those that can be upgraded to it: told apart from newer ones without importing Alembic."""

VERSION_TABLE: Final = "trunkline_schema_version"
"""A table name of our own, so that the registry can share a database with other users of Alembic."""

RELEASE_COUNTER: Final = "release"
AUDIT_COUNTER: Final = "audit_event"
"""Its lock is taken last in a transaction, and so held for the shortest time: see `registry.database.audit_log`."""
SWEEP_COUNTER: Final = "sweep"
"""Its row is the lock between sweeping blobs and referring to them. Nobody takes numbers from it: the one that it has,
drawn at random, tells this registry from all others, so that none sweeps another one's blobs."""


class Schema(DeclarativeBase):
    type_annotation_map: ClassVar[dict[type, Any]] = {int: WholeNumber}
    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        }
    )


class CounterRow(Schema):
    """Where numbers come from that belong to no other row. Taken under a lock, never given twice."""

    __tablename__ = "counters"
    __table_args__ = (CheckConstraint("next_number >= 1", name="next_number_positive"),)

    name: Mapped[NameText] = mapped_column(primary_key=True)
    next_number: Mapped[int]


class TeamRow(Schema):
    __tablename__ = "teams"
    __table_args__ = (UniqueConstraint("name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[NameText]
    created_at: Mapped[Moment]


class BackboneRow(Schema):
    __tablename__ = "backbones"
    __table_args__ = (
        UniqueConstraint("name"),
        CheckConstraint("layer_count >= 1", name="layer_count_positive"),
        CheckConstraint("hidden_size >= 1", name="hidden_size_positive"),
        CheckConstraint("max_length >= 3", name="max_length_holds_a_token"),
        digest_check("tokenizer"),
        digest_check("embeddings"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[NameText]
    model_type: Mapped[NameText]
    layer_count: Mapped[int]
    hidden_size: Mapped[int]
    max_length: Mapped[int]
    config: Mapped[Object]
    prefix_root: Mapped[Object]
    tokenizer: Mapped[Digest]
    embeddings: Mapped[Digest]
    source: Mapped[Prose]
    created_at: Mapped[Moment]


class BackbonePrefixRow(Schema):
    """P(depth), and for depth 1..N the layer that it adds."""

    __tablename__ = "backbone_prefixes"
    __table_args__ = (
        # The target of the versions' foreign key: (backbone, depth) alone is already unique.
        UniqueConstraint("backbone_id", "depth", "prefix_digest"),
        CheckConstraint("depth >= 0", name="depth_not_negative"),
        CheckConstraint("(depth = 0) = (layer_digest IS NULL)", name="layer_digest_from_depth_1"),
        CheckConstraint("(depth = 0) = (layer_blob IS NULL)", name="layer_blob_from_depth_1"),
        digest_check("prefix_digest"),
        digest_check("layer_digest"),
        digest_check("layer_blob"),
    )

    backbone_id: Mapped[int] = mapped_column(ForeignKey("backbones.id", ondelete="RESTRICT"), primary_key=True)
    depth: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    prefix_digest: Mapped[Digest]
    layer_digest: Mapped[OptionalDigest]
    layer_blob: Mapped[OptionalDigest]


class TaskRow(Schema):
    __tablename__ = "tasks"
    __table_args__ = (
        UniqueConstraint("name"),
        CheckConstraint("(state = 'retired') = (retired_at IS NOT NULL)", name="retired_has_time"),
        CheckConstraint("(state = 'retired') = (retired_reason IS NOT NULL)", name="retired_has_reason"),
        CheckConstraint(
            "state = 'retired' OR (sunset_on IS NULL AND superseded_by_id IS NULL)", name="only_retired_is_superseded"
        ),
        CheckConstraint("superseded_by_id <> id", name="not_superseded_by_itself"),
        CheckConstraint("next_version >= 1", name="next_version_positive"),
        CheckConstraint("next_spec_revision >= 1", name="next_spec_revision_positive"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[NameText]
    team_id: Mapped[int] = mapped_column(ForeignKey("teams.id", ondelete="RESTRICT"), index=True)
    state: Mapped[TaskState] = mapped_column(enum_by_value(TaskState, "state"))
    retired_at: Mapped[OptionalMoment]
    retired_reason: Mapped[OptionalProse]
    sunset_on: Mapped[date | None]
    superseded_by_id: Mapped[int | None] = mapped_column(ForeignKey("tasks.id", ondelete="RESTRICT"))
    next_version: Mapped[int]
    next_spec_revision: Mapped[int]
    """The current revision is the one before it."""
    created_at: Mapped[Moment]


class SpecRevisionRow(Schema):
    __tablename__ = "spec_revisions"
    __table_args__ = (
        UniqueConstraint("task_id", "number"),
        CheckConstraint("number >= 1", name="number_positive"),
        digest_check("digest"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(ForeignKey("tasks.id", ondelete="RESTRICT"))
    number: Mapped[int]
    definition: Mapped[Object]
    digest: Mapped[Digest]
    created_at: Mapped[Moment]


class VersionRow(Schema):
    __tablename__ = "versions"
    __table_args__ = (
        UniqueConstraint("task_id", "number"),
        UniqueConstraint("task_id", "trial_key"),
        ForeignKeyConstraint(
            ["task_id", "spec_revision"],
            ["spec_revisions.task_id", "spec_revisions.number"],
            name="fk_versions_spec_revision_of_same_task",
            ondelete="RESTRICT",
        ),
        ForeignKeyConstraint(
            ["backbone_id", "frozen_depth", "prefix_digest"],
            ["backbone_prefixes.backbone_id", "backbone_prefixes.depth", "backbone_prefixes.prefix_digest"],
            name="fk_versions_prefix_of_backbone",
            ondelete="RESTRICT",
        ),
        # top_layer is k + l: that the backbone has such a depth says k + l <= N.
        ForeignKeyConstraint(
            ["backbone_id", "top_layer"],
            ["backbone_prefixes.backbone_id", "backbone_prefixes.depth"],
            name="fk_versions_top_layer_within_backbone",
            ondelete="RESTRICT",
        ),
        ForeignKeyConstraint(
            ["task_id", "teacher_number"],
            ["versions.task_id", "versions.number"],
            name="fk_versions_teacher_of_same_task",
            ondelete="RESTRICT",
        ),
        CheckConstraint("number >= 1", name="number_positive"),
        CheckConstraint("frozen_depth >= 0", name="frozen_depth_not_negative"),
        CheckConstraint("task_layers >= 1", name="task_layers_positive"),
        CheckConstraint("top_layer = frozen_depth + task_layers", name="top_layer_is_sum"),
        CheckConstraint("(kind = 'student') = (teacher_number IS NOT NULL)", name="student_has_teacher"),
        CheckConstraint("teacher_number < number", name="teacher_is_older"),
        *map(digest_check, ("prefix_digest", "module", "golden", "dev_predictions", "train_digest", "dev_digest")),
        Index("ix_versions_backbone_id_frozen_depth", "backbone_id", "frozen_depth"),
        # Which version has this blob: asked for every blob that is about to be swept.
        *(Index(f"ix_versions_{blob}", blob) for blob in ("module", "golden", "dev_predictions")),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(ForeignKey("tasks.id", ondelete="RESTRICT"))
    number: Mapped[int]
    spec_revision: Mapped[int]
    backbone_id: Mapped[int] = mapped_column(ForeignKey("backbones.id", ondelete="RESTRICT"))
    kind: Mapped[VersionKind] = mapped_column(enum_by_value(VersionKind, "kind"))
    frozen_depth: Mapped[int]
    task_layers: Mapped[int]
    top_layer: Mapped[int]
    prefix_digest: Mapped[Digest]
    teacher_number: Mapped[int | None]
    head: Mapped[Object]
    module: Mapped[Digest]
    golden: Mapped[Digest]
    dev_predictions: Mapped[Digest]
    metrics: Mapped[Object]
    statistic: Mapped[Prose]
    train_digest: Mapped[Digest]
    dev_digest: Mapped[Digest]
    recipe: Mapped[Object]
    seed: Mapped[int] = mapped_column(BigNumber)
    environment: Mapped[Object]
    trial_key: Mapped[KeyText]
    mlflow_run: Mapped[OptionalProse]
    created_at: Mapped[Moment]
    created_by: Mapped[Prose]


class AliasRow(Schema):
    """What each alias points at now. The primary key makes it one version; the journal says how it came there."""

    __tablename__ = "aliases"
    __table_args__ = (
        ForeignKeyConstraint(
            ["task_id", "version_number"],
            ["versions.task_id", "versions.number"],
            name="fk_aliases_version_of_same_task",
            ondelete="RESTRICT",
        ),
        CheckConstraint("name <> 'latest'", name="name_is_not_latest"),
        Index("ix_aliases_name", "name"),
    )

    task_id: Mapped[int] = mapped_column(ForeignKey("tasks.id", ondelete="RESTRICT"), primary_key=True)
    name: Mapped[NameText] = mapped_column(primary_key=True)
    version_number: Mapped[int]


class AliasMoveRow(Schema):
    """The journal: rows are added, in the order of `id`, and never changed."""

    __tablename__ = "alias_moves"
    __table_args__ = (
        ForeignKeyConstraint(
            ["task_id", "from_version"],
            ["versions.task_id", "versions.number"],
            name="fk_alias_moves_from_version_of_same_task",
            ondelete="RESTRICT",
        ),
        ForeignKeyConstraint(
            ["task_id", "to_version"],
            ["versions.task_id", "versions.number"],
            name="fk_alias_moves_to_version_of_same_task",
            ondelete="RESTRICT",
        ),
        CheckConstraint("from_version <> to_version", name="moves"),
        CheckConstraint("kind <> 'rollback' OR from_version IS NOT NULL", name="rollback_leaves_a_version"),
        Index("ix_alias_moves_task_id_alias_id", "task_id", "alias", "id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(ForeignKey("tasks.id", ondelete="RESTRICT"))
    alias: Mapped[NameText]
    kind: Mapped[MoveKind] = mapped_column(enum_by_value(MoveKind, "kind"))
    from_version: Mapped[int | None]
    to_version: Mapped[int]
    actor: Mapped[Prose]
    moved_at: Mapped[Moment]


class ReleaseRow(Schema):
    __tablename__ = "releases"
    __table_args__ = (
        UniqueConstraint("number"),
        UniqueConstraint("manifest"),
        ForeignKeyConstraint(
            ["backbone_id", "trunk_depth"],
            ["backbone_prefixes.backbone_id", "backbone_prefixes.depth"],
            name="fk_releases_trunk_within_backbone",
            ondelete="RESTRICT",
        ),
        CheckConstraint("number >= 1", name="number_positive"),
        CheckConstraint("layer_count > trunk_depth", name="layer_count_above_trunk"),
        digest_check("manifest"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int]
    manifest: Mapped[Digest]
    backbone_id: Mapped[int] = mapped_column(ForeignKey("backbones.id", ondelete="RESTRICT"))
    trunk_depth: Mapped[int]
    layer_count: Mapped[int]
    created_at: Mapped[Moment]
    created_by: Mapped[Prose]


class ReleaseMemberRow(Schema):
    """One version of each task: the primary key forbids a second one."""

    __tablename__ = "release_members"
    __table_args__ = (
        ForeignKeyConstraint(
            ["task_id", "version_number"],
            ["versions.task_id", "versions.number"],
            name="fk_release_members_version_of_same_task",
            ondelete="RESTRICT",
        ),
        Index("ix_release_members_task_id_version_number", "task_id", "version_number"),
    )

    release_id: Mapped[int] = mapped_column(ForeignKey("releases.id", ondelete="RESTRICT"), primary_key=True)
    task_id: Mapped[int] = mapped_column(ForeignKey("tasks.id", ondelete="RESTRICT"), primary_key=True)
    version_number: Mapped[int]


class ReleaseMoveRow(Schema):
    """The journal of a release's states. Each entry points at the one before it by its number and its state, so that a
    chain of legal moves is all that can be written."""

    __tablename__ = "release_moves"
    __table_args__ = (
        UniqueConstraint("release_id", "number"),
        UniqueConstraint("release_id", "number", "to_state"),
        ForeignKeyConstraint(
            ["release_id", "previous_number", "from_state"],
            ["release_moves.release_id", "release_moves.number", "release_moves.to_state"],
            name="fk_release_moves_from_the_state_before",
            ondelete="RESTRICT",
        ),
        CheckConstraint("number >= 1", name="number_positive"),
        CheckConstraint("(number = 1) = (previous_number IS NULL)", name="first_has_none_before"),
        CheckConstraint("previous_number = number - 1", name="previous_is_the_one_before"),
        CheckConstraint("(previous_number IS NULL) = (from_state IS NULL)", name="state_before_is_known"),
        CheckConstraint(
            "from_state IS NULL"
            " OR from_state = 'draft' AND to_state IN ('verified', 'retired')"
            " OR from_state = 'verified' AND to_state IN ('approved', 'retired')"
            " OR from_state = 'approved' AND to_state = 'retired'"
            " OR from_state = to_state AND from_state <> 'retired' AND report IS NOT NULL",
            name="is_legal",
        ),
        CheckConstraint("from_state IS NOT NULL OR to_state = 'draft'", name="first_is_draft"),
        CheckConstraint("to_state <> 'verified' OR report IS NOT NULL", name="verified_has_report"),
        CheckConstraint("to_state <> 'retired' OR reason IS NOT NULL", name="retired_has_reason"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    release_id: Mapped[int] = mapped_column(ForeignKey("releases.id", ondelete="RESTRICT"))
    number: Mapped[int]
    previous_number: Mapped[int | None]
    from_state: Mapped[ReleaseState | None] = mapped_column(enum_by_value(ReleaseState, "from_state"))
    to_state: Mapped[ReleaseState] = mapped_column(enum_by_value(ReleaseState, "to_state"))
    report: Mapped[OptionalObject]
    reason: Mapped[OptionalProse]
    actor: Mapped[Prose]
    moved_at: Mapped[Moment]


class ChannelRow(Schema):
    """What is live on each channel: one release, for it is one column."""

    __tablename__ = "channels"
    __table_args__ = (
        UniqueConstraint("name"),
        CheckConstraint("takes IN ('verified', 'approved')", name="takes"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[NameText]
    takes: Mapped[NameText]
    release_id: Mapped[int | None] = mapped_column(ForeignKey("releases.id", ondelete="RESTRICT"))
    created_at: Mapped[Moment]
    created_by: Mapped[Prose]


class PlacementRow(Schema):
    """The journal of the channels: rows are added, in the order of `id`, and never changed."""

    __tablename__ = "placements"
    __table_args__ = (
        CheckConstraint("from_release_id <> to_release_id", name="moves"),
        CheckConstraint("kind <> 'revert' OR from_release_id IS NOT NULL", name="revert_leaves_a_release"),
        Index("ix_placements_channel_id_id", "channel_id", "id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    channel_id: Mapped[int] = mapped_column(ForeignKey("channels.id", ondelete="RESTRICT"))
    kind: Mapped[PlacementKind] = mapped_column(enum_by_value(PlacementKind, "kind"))
    from_release_id: Mapped[int | None] = mapped_column(ForeignKey("releases.id", ondelete="RESTRICT"))
    to_release_id: Mapped[int] = mapped_column(ForeignKey("releases.id", ondelete="RESTRICT"))
    actor: Mapped[Prose]
    placed_at: Mapped[Moment]


class AuditEventRow(Schema):
    """Who changed what, in the same transaction as the change; `id` is the number, without gaps from 1.

    `hash` covers the event and the hash of the event before it: see `registry.domain.audit_chain`.
    """

    __tablename__ = "audit_events"
    __table_args__ = (
        CheckConstraint("actor <> ''", name="actor_not_empty"),
        UniqueConstraint("hash"),
        digest_check("hash"),
        Index("ix_audit_events_object_id", "object", "id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    occurred_at: Mapped[Moment]
    actor: Mapped[Prose]
    action: Mapped[NameText]
    object: Mapped[ObjectText]
    before: Mapped[OptionalObject]
    after: Mapped[OptionalObject]
    hash: Mapped[Digest]


class IdempotencyKeyRow(Schema):
    """What was answered to a request that carried a key, so that the same request again is answered the same."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (digest_check("request"),)

    key: Mapped[KeyText] = mapped_column(primary_key=True)
    action: Mapped[NameText]
    request: Mapped[Digest]
    """Digest of what was asked for, without who and when."""
    result: Mapped[Object]
    actor: Mapped[Prose]
    created_at: Mapped[Moment]


class TrialRow(Schema):
    """The ledger of trials: what each is, how far it came, and who is at it now.

    A trial belongs to a task, not to a search: two searches that want the same one share it.
    """

    __tablename__ = "trials"
    __table_args__ = (
        UniqueConstraint("task_id", "key"),
        ForeignKeyConstraint(
            ["task_id", "version_number"],
            ["versions.task_id", "versions.number"],
            name="fk_trials_version_of_same_task",
            ondelete="RESTRICT",
        ),
        CheckConstraint("epochs >= 1", name="epochs_positive"),
        CheckConstraint("epochs_done >= 0 AND epochs_done <= epochs", name="epochs_done_within"),
        CheckConstraint("attempts >= 0", name="attempts_not_negative"),
        CheckConstraint("(state = 'finished') = (version_number IS NOT NULL)", name="finished_has_version"),
        CheckConstraint("(state = 'finished') = (score IS NOT NULL)", name="finished_has_score"),
        CheckConstraint("state <> 'failed' OR error IS NOT NULL", name="failed_has_error"),
        CheckConstraint("(state = 'running') = (worker IS NOT NULL)", name="running_has_worker"),
        CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name="running_has_lease"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(ForeignKey("tasks.id", ondelete="RESTRICT"))
    key: Mapped[KeyText]
    """The trial key that its version will have."""
    shape: Mapped[Object]
    state: Mapped[TrialState] = mapped_column(enum_by_value(TrialState, "state"))
    epochs: Mapped[int]
    epochs_done: Mapped[int]
    curve: Mapped[Object]
    """Epoch, as text -> the task's metric."""
    score: Mapped[OptionalReal]
    version_number: Mapped[int | None]
    error: Mapped[OptionalProse]
    attempts: Mapped[int]
    seconds: Mapped[Real]
    layer_passes: Mapped[Real]
    worker: Mapped[OptionalProse]
    lease_until: Mapped[OptionalMoment]


class SearchRow(Schema):
    """A depth search: what decides it, and what it chose. Its trials are in the ledger."""

    __tablename__ = "searches"
    __table_args__ = (
        UniqueConstraint("task_id", "number"),
        UniqueConstraint("task_id", "key"),
        ForeignKeyConstraint(
            ["task_id", "spec_revision"],
            ["spec_revisions.task_id", "spec_revisions.number"],
            name="fk_searches_spec_revision_of_same_task",
            ondelete="RESTRICT",
        ),
        CheckConstraint("number >= 1", name="number_positive"),
        CheckConstraint("(state = 'finished') = (choice IS NOT NULL)", name="finished_has_choice"),
        CheckConstraint("(state = 'finished') = (finished_at IS NOT NULL)", name="finished_has_time"),
        CheckConstraint("(runner IS NULL) = (runner_until IS NULL)", name="runner_has_lease"),
        digest_check("train_digest"),
        digest_check("dev_digest"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(ForeignKey("tasks.id", ondelete="RESTRICT"))
    number: Mapped[int]
    key: Mapped[KeyText]
    """Digest of everything that decides its outcome."""
    spec_revision: Mapped[int]
    backbone_id: Mapped[int] = mapped_column(ForeignKey("backbones.id", ondelete="RESTRICT"))
    train_digest: Mapped[Digest]
    dev_digest: Mapped[Digest]
    options: Mapped[Object]
    state: Mapped[SearchState] = mapped_column(enum_by_value(SearchState, "state"))
    choice: Mapped[OptionalObject]
    exhaustive_layer_passes: Mapped[Real]
    mlflow_run: Mapped[OptionalProse]
    runner: Mapped[OptionalProse]
    """The process that drives it now."""
    runner_until: Mapped[OptionalMoment]
    created_at: Mapped[Moment]
    created_by: Mapped[Prose]
    finished_at: Mapped[OptionalMoment]


class SearchTrialRow(Schema):
    """Which trials a search has asked for, in its order."""

    __tablename__ = "search_trials"
    __table_args__ = (UniqueConstraint("search_id", "trial_id"),)

    search_id: Mapped[int] = mapped_column(ForeignKey("searches.id", ondelete="RESTRICT"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    trial_id: Mapped[int] = mapped_column(ForeignKey("trials.id", ondelete="RESTRICT"), index=True)


keep_unchanged(
    Schema.metadata, "audit_events", "alias_moves", "versions", "spec_revisions", "release_moves", "placements"
)
