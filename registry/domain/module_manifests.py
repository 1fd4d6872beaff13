"""The manifest of a module that was trained elsewhere: what its weights do not say. `docs/modules.md` describes it."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, NamedTuple

from pydantic import Field, JsonValue, ValidationError

from registry.domain.manifests import Gather, Pooling, head_problems
from registry.domain.plain_data import Plain
from registry.domain.records import Backbone, ProposedVersion, Version, VersionKind
from registry.domain.references import Name
from registry.domain.task_specs import Metric, TaskSpec, validation_problems
from registry.errors import InvalidInput

CLAIM_TOLERANCE: Final = 0.005
"""How far a claimed metric may be from the one measured here: room for other batches, hardware and rounding."""

HexDigest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ModuleManifest(Plain):
    backbone: Name
    frozen_depth: int = Field(ge=0)
    task_layers: int = Field(ge=1)
    kind: VersionKind
    teacher: int | None = Field(default=None, ge=1)
    """Version number of the teacher, of the same task."""
    pooling: Pooling = "first"
    gather: Gather = "last"
    crf: bool = False
    prefix_digest: HexDigest | None = None
    """P(k) of the backbone that it was trained on; where it is left out, the backbone's name is believed."""
    spec_revision: int | None = Field(default=None, ge=1)
    """None: the one in force."""
    metrics: Mapping[Metric, float] = {}
    """What it is said to reach on the dev data: compared with what it does reach, never stored as that."""
    train_digest: HexDigest | None = None
    """Of the data that it was trained on; None: those that the task names."""
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    recipe: Mapping[str, JsonValue] = {}
    trained_by: str = ""
    source: str = ""
    notes: str = ""

    def head_problems(self, spec: TaskSpec) -> list[str]:
        """Why this task cannot have the head that the manifest describes."""
        return head_problems(type=spec.type, tag_scheme=spec.tag_scheme, pooling=self.pooling, crf=self.crf)

    def said(self) -> dict[str, Any]:
        """What it says about how the module was made: kept with the version, and believed by nobody."""
        fields = {"recipe", "trained_by", "source", "notes", "metrics", "seed", "train_digest"}
        return self.model_dump(mode="json", include=fields, exclude_defaults=True)

    def claim_problems(self, measured: Mapping[str, float]) -> list[str]:
        """The claimed metrics that are not those measured on the dev data."""
        problems = []
        for metric, claimed in self.metrics.items():
            if metric not in measured:
                problems.append(f"metrics.{metric}: is not one of this task, which has {', '.join(measured)}")
            elif abs(claimed - measured[metric]) > CLAIM_TOLERANCE:
                problems.append(
                    f"metrics.{metric}: claims {claimed:.4f}, but on the task's dev data the module reaches "
                    f"{measured[metric]:.4f} (allowed difference {CLAIM_TOLERANCE}); correct the claim, or see whether "
                    "these are the weights, labels and dev data that it was measured with"
                )
        return problems


class PlannedImport(NamedTuple):
    """A module that fits the registry, if its weights are what its manifest says."""

    manifest: ModuleManifest
    proposed: ProposedVersion
    spec: TaskSpec
    backbone: Backbone
    teacher: Version | None


def parse_module_manifest(content: object, subject: str) -> ModuleManifest:
    """Validates what a file held; `subject` names the file in the error.

    Raises:
        InvalidInput: listing every problem at once with its place.
    """
    if not isinstance(content, Mapping):
        raise InvalidInput(
            subject, ["is not a mapping of fields; see `trunkline version import --help` for an example"]
        )
    problems = _teacher_problems(content)
    try:
        manifest = ModuleManifest.model_validate(dict(content))
    except ValidationError as error:
        raise InvalidInput(subject, [*validation_problems(error), *problems]) from None
    if problems:
        raise InvalidInput(subject, problems)
    return manifest


def _teacher_problems(content: Mapping[Any, Any]) -> list[str]:
    """Read from the content as it is, so that it is told together with fields that cannot be read."""
    names_one = content.get("teacher") is not None
    if content.get("kind") == VersionKind.STUDENT and not names_one:
        return ["teacher: is missing; a student names the version that it was distilled from, by its number"]
    if content.get("kind") == VersionKind.TEACHER and names_one:
        return ["teacher: only a student has one"]
    return []
