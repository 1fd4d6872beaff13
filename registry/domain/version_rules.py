"""What must be true of a version before it is registered, whoever trained it and wherever.

Each function lists every reason for which it is refused.
"""

from collections.abc import Iterator

from registry.domain.manifests import head_problems
from registry.domain.records import Backbone, ProposedVersion, Version, VersionKind
from registry.domain.task_specs import TaskSpec


def spec_problems(new: ProposedVersion, spec: TaskSpec) -> Iterator[str]:
    """`spec`: the definition of the revision that the version names."""
    if (new.head.type, new.head.outputs) != (spec.type, spec.output_count):
        yield (
            f"its head is {new.head.type} with {new.head.outputs} outputs, but spec revision {new.spec_revision} "
            f"is {spec.type} with {spec.output_count}"
        )
    elif problems := head_problems(
        type=spec.type, tag_scheme=spec.tag_scheme, pooling=new.head.pooling, crf=new.head.crf
    ):
        yield f"its head does not fit spec revision {new.spec_revision}: {'; '.join(problems)}"


def backbone_problems(new: ProposedVersion, backbone: Backbone) -> Iterator[str]:
    top_layer = new.frozen_depth + new.task_layers
    if top_layer > backbone.layer_count:
        yield (
            f"frozen depth {new.frozen_depth} + {new.task_layers} task layers is {top_layer}, "
            f"but backbone {backbone.name} has {backbone.layer_count} layers"
        )
    elif backbone.prefix_digests[new.frozen_depth] != new.prefix_digest:
        yield (
            f"it was trained on another P({new.frozen_depth}) ({new.prefix_digest[:12]}…) than that of backbone "
            f"{backbone.name} ({backbone.prefix_digests[new.frozen_depth][:12]}…): `trunkline backbone diff` names "
            "what differs"
        )


def kind_problems(new: ProposedVersion) -> Iterator[str]:
    if (new.kind is VersionKind.STUDENT) != (new.teacher is not None):
        yield "a student names its teacher, a teacher names none"


def teacher_problems(
    new: ProposedVersion, teacher: Version, *, spec: TaskSpec, taught: TaskSpec, backbone: Backbone
) -> Iterator[str]:
    """`taught`: the definition that the teacher was trained for; `spec` and `backbone` are the version's own."""
    if taught.interface != spec.interface:
        yield (
            f"its teacher {teacher.reference} was trained for spec revision {teacher.spec_revision}, "
            f"which has another type, input form or labels than revision {new.spec_revision}"
        )
    if teacher.kind is not VersionKind.TEACHER:
        yield f"{teacher.reference} is a {teacher.kind}: only a teacher can be distilled"
    if new.frozen_depth < teacher.frozen_depth:
        yield (
            f"its frozen depth {new.frozen_depth} is less than {teacher.frozen_depth}, "
            f"that of its teacher {teacher.reference}"
        )
    top_layer, taught_to = new.frozen_depth + new.task_layers, teacher.frozen_depth + teacher.task_layers
    if top_layer > taught_to:
        yield (
            f"its layers end at layer {top_layer}, above {taught_to}, where those of its teacher "
            f"{teacher.reference} end: a student's layers begin as its teacher's"
        )
    if teacher.prefix_digest not in backbone.prefix_digests:
        yield (
            f"its teacher {teacher.reference} was trained on backbone {teacher.backbone}, which is not {backbone.name} "
            f"up to layer {teacher.frozen_depth}"
        )
