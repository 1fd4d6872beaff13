"""What the registry knows against what a module that was trained elsewhere says of itself."""

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.orm import Session

from registry.domain.manifests import HeadConfig
from registry.domain.module_manifests import ModuleManifest, PlannedImport
from registry.domain.records import Backbone, ProposedVersion
from registry.domain.references import VersionReference
from registry.domain.task_specs import METRICS_OF, TaskSpec
from registry.domain.version_rules import backbone_problems, kind_problems, teacher_problems
from registry.errors import InvalidInput, NotFound
from registry.services.backbones import get_backbone
from registry.services.lookups import find_task, refuse_if_retired
from registry.services.tasks import get_spec, get_task
from registry.services.versions import get_version

_Found = TypeVar("_Found")


def plan_import(session: Session, task: str, manifest: ModuleManifest, subject: str) -> PlannedImport:
    """Checks all that can be checked without the weights, as registering a version does.

    Args:
        subject: names the manifest in the error.
    Raises:
        UsageError, NotFound: there is no such task.
        NotAllowed: the task is retired.
        InvalidInput: the manifest does not fit the registry; lists every reason.
    """
    refuse_if_retired(find_task(session, task), "no new versions")
    revision = manifest.spec_revision or get_task(session, task).spec_revision
    problems: list[str] = []

    def sought(find: Callable[[], _Found]) -> _Found | None:
        try:
            return find()
        except NotFound as missing:
            problems.append(str(missing))
            return None

    spec = sought(lambda: get_spec(session, task, revision))
    backbone = sought(lambda: get_backbone(session, manifest.backbone))
    number = manifest.teacher
    teacher = number and sought(lambda: get_version(session, VersionReference(task=task, number=number)))
    if spec:
        foreign = sorted(set(manifest.metrics) - set(METRICS_OF[spec.type]))
        problems += [f"metrics.{metric}: is not one of a {spec.type} task" for metric in foreign]
        problems += manifest.head_problems(spec)
    if not (spec and backbone):
        raise InvalidInput(subject, problems)
    proposed = _proposed(manifest, task, revision, spec, backbone)
    problems += [*backbone_problems(proposed, backbone), *kind_problems(proposed)]
    if teacher:
        taught = get_spec(session, task, teacher.spec_revision)
        problems += teacher_problems(proposed, teacher, spec=spec, taught=taught, backbone=backbone)
    if problems:
        raise InvalidInput(subject, problems)
    return PlannedImport(manifest, proposed, spec, backbone, teacher or None)


def _proposed(
    manifest: ModuleManifest, task: str, revision: int, spec: TaskSpec, backbone: Backbone
) -> ProposedVersion:
    own = dict(enumerate(backbone.prefix_digests)).get(manifest.frozen_depth, "")
    return ProposedVersion(
        task=task,
        spec_revision=revision,
        backbone=backbone.name,
        kind=manifest.kind,
        frozen_depth=manifest.frozen_depth,
        task_layers=manifest.task_layers,
        prefix_digest=manifest.prefix_digest or own,
        teacher=manifest.teacher,
        head=_head(manifest, spec),
    )


def _head(manifest: ModuleManifest, spec: TaskSpec) -> HeadConfig:
    """The described head; the task's plain one where it cannot have that, so that the other checks can go on."""
    if manifest.head_problems(spec):
        return HeadConfig(type=spec.type, outputs=spec.output_count)
    return HeadConfig(
        type=spec.type,
        outputs=spec.output_count,
        pooling=manifest.pooling,
        gather=manifest.gather,
        crf=manifest.crf,
    )
