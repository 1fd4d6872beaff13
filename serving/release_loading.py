"""From a manifest and its blobs to a release that may serve: every digest verified, every golden answer given.

Of a release that is already served, trunk and branches that the new one has too are taken over as they are: to update
or roll back one task loads that task's module and nothing else.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from modeling.backbone import load_layer, load_text_encoder, load_trunk
from modeling.golden_answers import read_golden_examples
from modeling.inference import Form, InferenceBranch, InferenceModel, InferenceTrunk, inference_layer
from modeling.inference_layers import InferenceLayer
from modeling.multitask import load_branch
from modeling.parity import TOLERANCE, compare
from modeling.text import EncodedText
from registry.artifacts.store import ArtifactStore
from registry.domain.golden_examples import GoldenExamples
from registry.domain.manifests import TrunkManifest, parse_manifest
from registry.errors import GateFailed
from registry.progress import Report, silent
from serving.served_release import ServedRelease

_GOLDEN_ROWS = 16
"""Golden examples of all tasks that share a batch."""


def load_served_release(
    digest: str,
    store: ArtifactStore,
    *,
    name: str,
    form: Form,
    previous: ServedRelease | None = None,
    report: Report = silent,
) -> ServedRelease:
    """Reads a release, takes over what the previous one has of it, and asks what is new for its golden answers.

    That last step proves the release and warms it up at once.

    Args:
        digest: of its manifest.

    Raises:
        ArtifactMissing, ArtifactDamaged, InvalidWeights, InvalidInput: a blob cannot be used.
        GateFailed: a task does not answer its golden examples as its module did alone, within the tolerance of the
            precision.
    """
    manifest = parse_manifest(store.read(digest), f"manifest {digest[:12]}")
    known = previous if previous is not None and previous.model.form == form else None
    branches: dict[str, InferenceBranch] = {}
    trunk = _trunk(manifest.trunk, known, store, form)
    for number, (task, branch) in enumerate(manifest.tasks.items(), 1):
        if known is not None and known.manifest.tasks.get(task) == branch:
            branches[task] = known.model.branches[task]
        else:
            module = load_branch(task, branch, manifest.trunk.config, store)
            branches[task] = InferenceBranch(module, branch.frozen_depth, form)
        report("loading branches", number, len(manifest.tasks))
    model = InferenceModel(trunk, branches, form)
    release = ServedRelease(name, digest, manifest, model, load_text_encoder(manifest.trunk, store))
    fresh = [task for task in branches if known is None or known.model.branches.get(task) is not branches[task]]
    _refuse_other_answers(
        release, {task: read_golden_examples(task, manifest.tasks[task], store) for task in fresh}, report
    )
    return release


def _trunk(manifest: TrunkManifest, known: ServedRelease | None, store: ArtifactStore, form: Form) -> InferenceTrunk:
    layers: Mapping[str, InferenceLayer] = {}
    # P(0) covers the embeddings and every field of the config that changes what a layer computes.
    if known is not None and known.manifest.trunk.prefix_digests[0] == manifest.prefix_digests[0]:
        embeddings = known.model.trunk.embeddings
        layers = dict(zip(known.manifest.trunk.layers, known.model.trunk.layers, strict=True))
    else:
        embeddings = load_trunk(config=manifest.config, embeddings=manifest.embeddings, layers=(), store=store)
    prepared = []
    for number, blob in enumerate(manifest.layers, 1):
        layer = layers.get(blob)
        if layer is None:
            layer = inference_layer(load_layer(manifest.config, number, blob, store), embeddings.config, form)
        prepared.append(layer)
    return InferenceTrunk(embeddings.to(form.device), prepared)


def _refuse_other_answers(release: ServedRelease, golden: Mapping[str, GoldenExamples], report: Report) -> None:
    tolerance = TOLERANCE[release.precision]
    problems = []
    for task, found in _golden_outputs(release, golden, report).items():
        branch = release.manifest.tasks[task]
        expected = [torch.tensor(example.outputs) for example in golden[task].examples]
        parity = compare(
            expected, [one.reshape(-1, one.shape[-1]) for one in found], type=branch.type, tolerance=tolerance
        )
        if not parity.passed:
            problems.append(
                f"{task}/{branch.version}: outputs differ by up to {parity.largest_difference:.2g} (allowed "
                f"{tolerance:.0e}), {parity.decisions_differ} of {parity.examples} decisions differ"
            )
    if problems:
        advice = "" if release.precision == "fp32" else "; --precision fp32 is what they were recorded in"
        raise GateFailed(
            f"{release.name} does not give its golden answers in {release.precision}: {'; '.join(problems)}{advice}"
        )


def _golden_outputs(
    release: ServedRelease, golden: Mapping[str, GoldenExamples], report: Report
) -> dict[str, list[Tensor]]:
    """Task -> one output an example. Examples of all tasks share batches, and each asks for its own task alone."""
    encoded = {
        task: release.encoder.encode([(example.text, example.text_pair) for example in examples.examples])
        for task, examples in golden.items()
    }
    found: dict[str, list[Tensor]] = {task: [] for task in golden}
    batches = list(_mixed_batches(encoded))
    for number, batch in enumerate(batches, 1):
        rows = [row for own in batch.values() for row in own]
        numbers = iter(range(len(rows)))
        asked = {task: [next(numbers) for _ in own] for task, own in batch.items()}
        for task, outputs in release.model.one_pass(rows, asked):
            found[task] += release.row_outputs(task, outputs, batch[task])
        report("golden answers", number, len(batches))
    return found


def _mixed_batches(encoded: Mapping[str, Sequence[EncodedText]]) -> Iterator[dict[str, Sequence[EncodedText]]]:
    """Task -> rows that follow those of the batch before."""
    size = max(1, _GOLDEN_ROWS // max(1, len(encoded)))
    longest = max(map(len, encoded.values()), default=0)
    for start in range(0, longest, size):
        yield {task: own for task, rows in encoded.items() if (own := rows[start : start + size])}
