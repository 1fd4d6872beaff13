"""The manifest of a release: everything that is needed to serve it, and nothing that changes when it is built again.

Its canonical JSON is the blob that a release is; its digest covers the lock and every blob, but no time, person,
latency or gate result. The same lock always gives the same digest.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, Self

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer, model_validator

from registry.domain.locks import Lock
from registry.domain.plain_data import Plain, canonical_json
from registry.domain.references import Name
from registry.domain.task_specs import InputForm, TagScheme, TaskType, validation_problems
from registry.errors import InvalidInput

Pooling = Literal["first", "mean"]
Gather = Literal["last", "mix"]
Reading = Literal["first", "mean", "words"]
"""What a head reads of a hidden state: its first piece, the mean of its pieces, or the first piece of every word."""


def head_problems(*, type: TaskType, tag_scheme: TagScheme | None, pooling: Pooling, crf: bool) -> list[str]:  # noqa: A002
    """Why a task cannot have such a head: every reason, with the field that it is about."""
    problems = []
    if pooling == "mean" and type is TaskType.TOKEN_CLASSIFICATION:
        problems.append("pooling: a token_classification head reads the first piece of every word; mean is for texts")
    if crf and type is not TaskType.TOKEN_CLASSIFICATION:
        problems.append(f"crf: only tags follow each other; a {type} task has none")
    elif crf and tag_scheme is not TagScheme.BIO:
        problems.append(f"crf: its transitions are those of tag_scheme bio, and the task's is {tag_scheme}")
    return problems


class HeadConfig(Plain):
    """The shape of a head, as the weights alone cannot say it."""

    type: TaskType
    outputs: int = Field(ge=1)
    pooling: Pooling = "first"
    """What a text-level head reads: the first piece, or the mean over all pieces. A token-level head reads the first
    piece of every word."""
    gather: Gather = "last"
    """Which hidden states it reads: the branch's last one, or a learnt mix of all, the trunk's and the branch's own."""
    crf: bool = False
    """Whether transitions between tags are learnt too (token-level, `bio` only)."""

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        """The tag scheme is not the head's to know: where there is a CRF, BIO's number of outputs is asked for."""
        problems = head_problems(type=self.type, tag_scheme=TagScheme.BIO, pooling=self.pooling, crf=self.crf)
        if self.crf and self.outputs % 2 == 0:
            problems.append(f"crf: tags are O, then B and I of every label: {self.outputs} outputs cannot be those")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def reading(self) -> Reading:
        return "words" if self.type is TaskType.TOKEN_CLASSIFICATION else self.pooling

    def reads_below(self, frozen_depth: int) -> Reading | None:
        """What it reads of every state below its branch's depth; None where it mixes none of them."""
        return self.reading if self.gather == "mix" and frozen_depth else None

    @model_serializer(mode="wrap")
    def _without_later_fields(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves out what older heads could not have, so that their manifests keep their digests."""
        return {
            name: value
            for name, value in serialise(self).items()
            if name not in ("gather", "crf") or value != type(self).model_fields[name].default
        }


class TrunkManifest(Plain):
    """The frozen part: the layers that the deepest branch needs, each its own blob."""

    backbone: Name
    model_type: str
    config: Mapping[str, Any]
    """The backbone's whole config.json: what transformers builds the layers from."""
    layer_count: int = Field(ge=1)
    """N, of the backbone, not of the trunk."""
    max_length: int = Field(ge=3)
    prefix_digests: tuple[str, ...]
    """P(0)..P(trunk depth)."""
    tokenizer: str
    embeddings: str
    layers: tuple[str, ...]
    """Blobs of layers 1..trunk depth."""

    @property
    def depth(self) -> int:
        return len(self.layers)


class BranchManifest(Plain):
    """One task's branch."""

    version: int = Field(ge=1)
    type: TaskType
    input_form: InputForm
    labels: tuple[str, ...]
    """What each output stands for; empty for regression."""
    tag_scheme: TagScheme | None
    frozen_depth: int = Field(ge=0)
    task_layers: int = Field(ge=1)
    prefix_digest: str
    spec_digest: str
    """What the task is: `TaskSpec.meaning_digest`."""
    head: HeadConfig
    module: str
    golden: str


class ManifestPart(NamedTuple):
    """One blob of a release."""

    blob: str
    what: str
    """What it is, in words."""
    task: str | None
    """Whose it is; None: the trunk's."""


class Manifest(Plain):
    format: Literal[1] = 1
    trunk: TrunkManifest
    tasks: Mapping[Name, BranchManifest] = Field(min_length=1)

    @model_validator(mode="after")
    def _branches_leave_this_trunk(self) -> Self:
        if len(self.trunk.prefix_digests) != self.trunk.depth + 1:
            raise ValueError(
                f"trunk: has {len(self.trunk.prefix_digests)} prefix digests for P(0)..P({self.trunk.depth})"
            )
        for task, branch in self.tasks.items():
            if branch.frozen_depth > self.trunk.depth:
                raise ValueError(f"tasks.{task}: leaves after layer {branch.frozen_depth} of {self.trunk.depth}")
            if self.trunk.prefix_digests[branch.frozen_depth] != branch.prefix_digest:
                raise ValueError(f"tasks.{task}: is bound to another P({branch.frozen_depth})")
        return self

    @property
    def layers_in_use(self) -> int:
        """The layer count: trunk depth + sum of task layers (the paper's "overhead", section 4.1)."""
        return self.trunk.depth + sum(branch.task_layers for branch in self.tasks.values())

    @property
    def layers_if_separate(self) -> int:
        """N × tasks: one fine-tuned model a task."""
        return self.trunk.layer_count * len(self.tasks)

    @property
    def lock(self) -> Lock:
        return Lock(backbone=self.trunk.backbone, tasks={task: b.version for task, b in self.tasks.items()})

    @property
    def blobs(self) -> frozenset[str]:
        """Every blob that the release needs, other than the manifest itself."""
        return frozenset(part.blob for part in self.parts())

    def parts(self) -> Iterator[ManifestPart]:
        """Every blob with what it is; one that two tasks share comes twice."""
        yield ManifestPart(self.trunk.tokenizer, f"the tokenizer of {self.trunk.backbone}", None)
        yield ManifestPart(self.trunk.embeddings, f"the embeddings of {self.trunk.backbone}", None)
        for number, layer in enumerate(self.trunk.layers, 1):
            yield ManifestPart(layer, f"layer {number} of {self.trunk.backbone}", None)
        for task, branch in self.tasks.items():
            yield ManifestPart(branch.module, f"the module of {task}/{branch.version}", task)
            yield ManifestPart(branch.golden, f"the golden examples of {task}/{branch.version}", task)

    def to_bytes(self) -> bytes:
        return canonical_json(self.model_dump(mode="json"))

    def digest(self) -> str:
        return hashlib.sha256(self.to_bytes()).hexdigest()


def parse_manifest(data: bytes, subject: str) -> Manifest:
    """Reads a manifest; raises InvalidInput with every problem."""
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise InvalidInput(subject, validation_problems(error)) from None
