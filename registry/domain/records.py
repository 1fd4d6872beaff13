"""What the services take and return: plain values that outlive the transaction they were read in."""

from collections.abc import Mapping
from datetime import date, datetime
from enum import StrEnum
from typing import Any, Protocol

from pydantic import Field

from registry.domain.alias_journal import MoveKind
from registry.domain.manifests import HeadConfig, TrunkManifest
from registry.domain.plain_data import Plain
from registry.domain.references import AliasName, Name, VersionReference
from registry.domain.release_life import ReleaseState
from registry.domain.task_specs import TaskSpec, TaskType


class TaskState(StrEnum):
    ACTIVE = "active"
    RETIRED = "retired"


class VersionKind(StrEnum):
    TEACHER = "teacher"
    STUDENT = "student"


class Team(Plain):
    name: Name
    created_at: datetime


class Branching(Protocol):
    """What of a version says where it may attach."""

    @property
    def frozen_depth(self) -> int: ...
    @property
    def task_layers(self) -> int: ...
    @property
    def prefix_digest(self) -> str: ...


class NewBackbone(Plain):
    """A backbone whose blobs are already in the store."""

    name: Name
    model_type: str
    layer_count: int = Field(ge=1)
    hidden_size: int = Field(ge=1)
    max_length: int = Field(ge=3)
    config: Mapping[str, Any]
    """The whole config.json."""
    prefix_root: Mapping[str, Any]
    """What P(0) covers: see `registry.domain.digests.prefix_root`."""
    layer_digests: tuple[str, ...]
    prefix_digests: tuple[str, ...]
    """P(0)..P(N)."""
    tokenizer: str
    embeddings: str
    layers: tuple[str, ...]
    """Blobs; a layer's tensors are named relative to the layer, the embeddings' relative to the embeddings."""
    source: str

    @property
    def blobs(self) -> tuple[str, ...]:
        return self.tokenizer, self.embeddings, *self.layers

    def trunk(self, depth: int) -> TrunkManifest:
        """The part of a release's manifest that takes layers 1..depth of this backbone."""
        return TrunkManifest(
            backbone=self.name,
            model_type=self.model_type,
            config=self.config,
            layer_count=self.layer_count,
            max_length=self.max_length,
            prefix_digests=self.prefix_digests[: depth + 1],
            tokenizer=self.tokenizer,
            embeddings=self.embeddings,
            layers=self.layers[:depth],
        )

    def carries(self, version: Branching) -> bool:
        """Whether the version may attach: the same P(k), and as many layers as it begins as."""
        depth = version.frozen_depth
        return depth + version.task_layers <= self.layer_count and self.prefix_digests[depth] == version.prefix_digest


class Backbone(NewBackbone):
    created_at: datetime


class Retirement(Plain):
    reason: str = Field(min_length=1)
    sunset_on: date | None = None
    superseded_by: Name | None = None


class Task(Plain):
    name: Name
    team: Name
    state: TaskState
    retirement: Retirement | None
    retired_at: datetime | None
    spec: TaskSpec
    spec_revision: int
    version_count: int
    aliases: Mapping[str, int]
    """Alias -> version number."""
    created_at: datetime


class PastTask(Plain):
    """What a task was at a moment."""

    task: Name
    team: Name
    at: datetime
    state: TaskState | None
    """None: it was not registered yet, and nothing else is told."""
    retirement: Retirement | None
    spec_revision: int | None
    spec: TaskSpec | None
    version_count: int
    aliases: Mapping[str, int]
    """Alias -> version number."""


class TaskSearch(Plain):
    """Which tasks are looked for; what is left out, any."""

    words: tuple[str, ...] = ()
    """Each must occur in the name, the description or a label, in any case."""
    team: str | None = None
    state: TaskState | None = None
    type: TaskType | None = None
    alias: str | None = None
    """Only tasks that have it."""


class ProposedVersion(Plain):
    """What a version is for and where its branch leaves: all that can be checked without its weights."""

    task: Name
    spec_revision: int
    backbone: Name
    kind: VersionKind
    frozen_depth: int = Field(ge=0)
    task_layers: int = Field(ge=1)
    prefix_digest: str
    teacher: int | None = None
    """Version number of the teacher, of the same task; students have one, teachers do not."""
    head: HeadConfig


class NewVersion(ProposedVersion):
    """A trained module whose blobs are already in the store."""

    module: str
    golden: str
    dev_predictions: str
    metrics: Mapping[str, float]
    """On the dev data, in fp32, in the range of the metric itself (accuracy 0.91, not 91)."""
    statistic: str
    """What the metrics are of, such as "best of epochs 3-5, one run"."""
    train_digest: str
    dev_digest: str
    recipe: Mapping[str, Any]
    seed: int
    environment: Mapping[str, str]
    trial_key: str
    """Digest of everything that decides the outcome; registering it again gives the version that exists."""
    mlflow_run: str | None = None

    @property
    def blobs(self) -> tuple[str, str, str]:
        return self.module, self.golden, self.dev_predictions


class Version(NewVersion):
    number: int
    created_at: datetime
    created_by: str

    @property
    def reference(self) -> VersionReference:
        return VersionReference(task=self.task, number=self.number)


class ScoredVersion(Plain):
    """What of a version it takes to choose among versions."""

    task: Name
    number: int
    frozen_depth: int
    task_layers: int
    prefix_digest: str
    spec: TaskSpec
    """Of the revision that it was trained for."""
    metrics: Mapping[str, float]
    dev_digest: str

    @property
    def reference(self) -> VersionReference:
        return VersionReference(task=self.task, number=self.number)


class AliasMove(Plain):
    task: Name
    alias: AliasName
    kind: MoveKind
    from_version: int | None
    to_version: int
    actor: str
    moved_at: datetime


class Member(Plain):
    """One selected version with the definition it was trained for and the backbone it was trained on."""

    version: Version
    spec: TaskSpec
    trained_on: Backbone


class NewRelease(Plain):
    manifest: str
    """Blob and digest of the manifest: they are the same."""
    backbone: Name
    tasks: Mapping[Name, int]
    trunk_depth: int = Field(ge=0)
    layer_count: int = Field(ge=1)
    gates: Mapping[str, Any] | None
    """What the gates found when they were last run; None where they never were."""


class Release(NewRelease):
    name: str
    """`r<number>`, given by the registry."""
    state: ReleaseState
    created_at: datetime
    created_by: str


class AuditEvent(Plain):
    number: int
    occurred_at: datetime
    actor: str
    action: str
    object: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
