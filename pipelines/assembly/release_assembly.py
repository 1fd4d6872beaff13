"""A release from a lock: strict accounting, the same prefix for every branch, parity, and then the manifest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modeling.multitask import MergedModel, load_merged_models
from pipelines.assembly.comparison_gates import LiveRelease
from pipelines.assembly.integrity_gate import integrity_findings
from pipelines.assembly.non_interference_gate import non_interference_findings
from pipelines.assembly.parity_gate import parity_findings
from registry.artifacts.store import ArtifactStore
from registry.domain.digests import first_difference
from registry.domain.gate_findings import Gate, GateFinding, failed
from registry.domain.manifests import BranchManifest, Manifest
from registry.domain.records import Backbone, Member, NewRelease
from registry.errors import ArtifactDamaged, GateFailed, InvalidWeights, UsageError
from registry.fault_points import reached
from registry.progress import Report


@dataclass(frozen=True)
class AssembledRelease:
    """What the gates found of a release; not registered yet."""

    manifest: Manifest
    findings: Sequence[GateFinding]
    parameters: int | None = None
    """None where the model could not be built."""

    @property
    def passed(self) -> bool:
        return not failed(self.findings)

    @property
    def gates(self) -> dict[str, Any]:
        """What they found, as it is kept."""
        return {
            "passed": self.passed,
            "parameters": self.parameters,
            "findings": [finding.model_dump(mode="json") for finding in self.findings],
        }


def new_release(manifest: Manifest, store: ArtifactStore, *, gates: Mapping[str, Any] | None) -> NewRelease:
    """Puts the manifest into the store and returns the row that refers to it, without gates: a draft's."""
    return NewRelease(
        manifest=store.put(manifest.to_bytes()),
        backbone=manifest.trunk.backbone,
        tasks={task: branch.version for task, branch in manifest.tasks.items()},
        trunk_depth=manifest.trunk.depth,
        layer_count=manifest.layers_in_use,
        gates=gates,
    )


def draft(backbone: Backbone, members: Sequence[Member]) -> Manifest:
    """The manifest of the selected versions; no weights are looked at.

    Raises:
        UsageError: nothing is selected.
        GateFailed: a module is bound to other frozen layers.
    """
    if not members:
        raise UsageError("no version is selected: name them with --task TASK/NUMBER, or promote some first")
    _refuse_foreign_modules(backbone, members)
    return build_manifest(backbone, members)


def verify(
    manifest: Manifest, *, store: ArtifactStore, report: Report, against: LiveRelease | None = None
) -> AssembledRelease:
    """Runs the gates: every blob has its digest, every tensor is used once, and merged answers are the same as alone.

    A gate that the next ones build on ends the row when it fails.

    Args:
        against: the release that this one is to replace; what the gates find that compare the two is told too.

    Raises:
        ArtifactMissing, ArtifactDamaged: a blob of the live release cannot be read.
        StorageError: the store cannot be reached.
    """
    findings = integrity_findings(manifest, store=store, report=report)
    if failed(findings):
        return AssembledRelease(manifest, findings)
    report("loading the merged model", 0, 1)
    try:
        model, *live = _models(manifest, against, store)
    except InvalidWeights as error:
        finding = GateFinding(gate=Gate.ACCOUNTING, task=None, passed=False, words=str(error))
        return AssembledRelease(manifest, [*findings, finding])
    report("loading the merged model", 1, 1)
    reached("assemble.loaded")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    findings.append(_accounted(model, parameters))
    findings += parity_findings(manifest, model, store=store, report=report)
    reached("assemble.parity-found")
    if against is not None:
        models = live[0], model
        findings += against.findings(manifest, parameters, store)
        findings += non_interference_findings(against.manifest, manifest, models, store=store, report=report)
    return AssembledRelease(manifest, findings, parameters)


def _models(manifest: Manifest, against: LiveRelease | None, store: ArtifactStore) -> list[MergedModel]:
    """The release's, and the live one's; what both hold is in memory once, for its blobs are the same.

    Raises:
        InvalidWeights: a module of the new release cannot be used.
        ArtifactDamaged: one that only the live release holds cannot.
    """
    if against is None:
        return load_merged_models([manifest], store)
    try:
        return load_merged_models([manifest, against.manifest], store)
    except InvalidWeights as error:
        load_merged_models([manifest], store)
        raise ArtifactDamaged(
            f"the live release cannot be loaded, so that nothing can be held to it: {error}; `trunkline release "
            "assemble` makes a release without it"
        ) from error


def _accounted(model: MergedModel, parameters: int) -> GateFinding:
    tensors = len(model.state_dict())
    words = f"{tensors:,} tensors, each used once: {parameters:,} parameters"
    values = {"tensors": tensors, "parameters": parameters}
    return GateFinding(gate=Gate.ACCOUNTING, task=None, passed=True, words=words, values=values)


def build_manifest(backbone: Backbone, members: Sequence[Member]) -> Manifest:
    """The manifest of a selection; the trunk goes as deep as the deepest branch leaves it, and no deeper."""
    depth = max(member.version.frozen_depth for member in members)
    return Manifest(
        trunk=backbone.trunk(depth),
        tasks={member.version.task: _branch(member) for member in members},
    )


def _branch(member: Member) -> BranchManifest:
    version, spec = member.version, member.spec
    return BranchManifest(
        version=version.number,
        type=spec.type,
        input_form=spec.input_form,
        labels=spec.output_labels,
        tag_scheme=spec.tag_scheme,
        frozen_depth=version.frozen_depth,
        task_layers=version.task_layers,
        prefix_digest=version.prefix_digest,
        spec_digest=spec.meaning_digest(),
        head=version.head,
        module=version.module,
        golden=version.golden,
    )


def _refuse_foreign_modules(backbone: Backbone, members: Sequence[Member]) -> None:
    problems = []
    for member in members:
        version, depth = member.version, member.version.frozen_depth
        if depth <= backbone.layer_count and backbone.prefix_digests[depth] == version.prefix_digest:
            continue
        theirs = member.trained_on
        difference = first_difference(
            backbone.prefix_root, backbone.layer_digests, theirs.prefix_root, theirs.layer_digests, depth
        )
        problems.append(
            f"{version.reference} is bound to P({depth}) of backbone {theirs.name}, not of {backbone.name}: "
            f"they differ in {difference}"
        )
    if problems:
        raise GateFailed("\n".join([*problems, f"train these tasks on {backbone.name}, or assemble on their backbone"]))
