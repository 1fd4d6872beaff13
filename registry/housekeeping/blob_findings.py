"""Every row's blobs: there, with their digest, and holding what the row says."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.artifacts.safetensors_file import SafetensorsFile
from registry.artifacts.store import ArtifactStore
from registry.database.schema import TaskRow, VersionRow
from registry.domain.digests import tensors_digest, tokenizer_digest
from registry.domain.golden_examples import parse_golden_examples
from registry.domain.manifests import Manifest, parse_manifest
from registry.domain.records import Backbone, Release
from registry.errors import ArtifactError, InvalidInput, StorageError
from registry.housekeeping.findings import Finding
from registry.progress import Report
from registry.services.backbones import list_backbones
from registry.services.releases import list_releases

_PIN_AGAIN = "pin the same files under the same name again (`trunkline backbone pin`): that stores what is missing"
_TRAIN_AGAIN = (
    "run the command that registered it again, which stores the same bytes, or take them from a backup "
    "(`trunkline restore FILE --only-blobs`)"
)
_ASSEMBLE_AGAIN = "assemble the same versions again (`trunkline release assemble`): that stores the same manifest"

_Problem = Callable[[Path], str | None]


class ReferredBlob(NamedTuple):
    """A blob as one row refers to it."""

    subject: str
    part: str
    digest: str
    remedy: str
    content_problem: _Problem
    """What is wrong with the content of a blob whose bytes have their digest; None when nothing is."""


class _StoredVersion(NamedTuple):
    frozen_depth: int
    task_layers: int
    prefix_digest: str
    module: str
    golden: str


def referred_blobs(session: Session) -> list[ReferredBlob]:
    """Every blob of every row."""
    versions: dict[tuple[str, int], _StoredVersion] = {}
    found: list[ReferredBlob] = []
    for backbone in list_backbones(session):
        found += _of_backbone(backbone)
    for row, task in session.execute(
        select(VersionRow, TaskRow.name).join(TaskRow).order_by(TaskRow.name, VersionRow.number)
    ):
        subject = f"version {task}/{row.number}"
        versions[task, row.number] = _StoredVersion(
            row.frozen_depth, row.task_layers, row.prefix_digest, row.module, row.golden
        )
        found += (
            ReferredBlob(subject, "module", row.module, _TRAIN_AGAIN, _safetensors_problem),
            ReferredBlob(subject, "golden examples", row.golden, _TRAIN_AGAIN, _golden_problem),
            ReferredBlob(subject, "dev predictions", row.dev_predictions, _TRAIN_AGAIN, _nothing_more),
        )
    for release in list_releases(session):
        problem = _manifest_problem(release, versions)
        subject = f"release {release.name}"
        found.append(ReferredBlob(subject, "manifest", release.manifest, _ASSEMBLE_AGAIN, problem))
    return found


def missing_blobs(blobs: Collection[ReferredBlob], store: ArtifactStore) -> Iterator[Finding]:
    """Those that the store does not hold, by one listing of it."""
    there = {blob.digest for blob in store.blobs()}
    for blob in blobs:
        if blob.digest not in there:
            problem = f"its {blob.part} ({blob.digest[:12]}…) is not in {store.location}"
            yield Finding(subject=blob.subject, problem=problem, remedy=blob.remedy)


def damaged_blobs(
    blobs: Collection[ReferredBlob], store: ArtifactStore, *, done_with: Callable[[Path], None], report: Report
) -> Iterator[Finding]:
    """Reads every blob that is there, once: bytes against digest, and content against the rows that refer to it.

    `done_with` gets the path of each blob when it has been read.
    """
    by_digest: dict[str, list[ReferredBlob]] = defaultdict(list)
    for blob in blobs:
        by_digest[blob.digest].append(blob)
    there = [stored.digest for stored in store.blobs() if stored.digest in by_digest]
    for done, digest in enumerate(there):
        report("reading blobs", done, len(there))
        try:
            path = store.fetch(digest)
        except (ArtifactError, StorageError) as error:
            for blob in by_digest[digest]:
                yield Finding(subject=blob.subject, problem=f"its {blob.part}: {error}", remedy=blob.remedy)
            continue
        for blob in by_digest[digest]:
            if problem := blob.content_problem(path):
                yield Finding(subject=blob.subject, problem=f"its {blob.part} {problem}", remedy=blob.remedy)
        done_with(path)
    report("reading blobs", len(there), len(there))


def _of_backbone(backbone: Backbone) -> Iterator[ReferredBlob]:
    subject, root = f"backbone {backbone.name}", backbone.prefix_root
    yield ReferredBlob(subject, "tokenizer", backbone.tokenizer, _PIN_AGAIN, _tokenizer_problem(root.get("tokenizer")))
    yield ReferredBlob(subject, "embeddings", backbone.embeddings, _PIN_AGAIN, _tensors_problem(root.get("embeddings")))
    for number, (blob, digest) in enumerate(zip(backbone.layers, backbone.layer_digests, strict=True), 1):
        yield ReferredBlob(subject, f"layer {number}", blob, _PIN_AGAIN, _tensors_problem(digest))


def _nothing_more(path: Path) -> None:
    """Its digest says all there is to say."""


def _tokenizer_problem(digest: str | None) -> _Problem:
    def problem(path: Path) -> str | None:
        try:
            same = tokenizer_digest(path.read_bytes()) == digest
        except ValueError as error:
            return f"is no JSON: {error}"
        return None if same else "is not the one that P(0) covers"

    return problem


def _tensors_problem(digest: str | None) -> _Problem:
    def problem(path: Path) -> str | None:
        try:
            with SafetensorsFile(path) as file:
                same = tensors_digest(map(file.tensor, file.entries)) == digest
        except ArtifactError as error:
            return f"is unusable: {error}"
        return None if same else "does not hold the tensors that its digest in P(N) covers"

    return problem


def _safetensors_problem(path: Path) -> str | None:
    try:
        with SafetensorsFile(path):
            return None
    except ArtifactError as error:
        return f"is unusable: {error}"


def _golden_problem(path: Path) -> str | None:
    try:
        parse_golden_examples(path.read_bytes(), "golden examples")
    except InvalidInput as error:
        return f"cannot be read: {'; '.join(error.problems)}"
    return None


def _manifest_problem(release: Release, versions: Mapping[tuple[str, int], _StoredVersion]) -> _Problem:
    def problem(path: Path) -> str | None:
        try:
            manifest = parse_manifest(path.read_bytes(), "manifest")
        except InvalidInput as error:
            return f"cannot be read: {'; '.join(error.problems)}"
        return _contradiction(manifest, release, versions)

    return problem


def _contradiction(
    manifest: Manifest, release: Release, versions: Mapping[tuple[str, int], _StoredVersion]
) -> str | None:
    in_rows = (release.backbone, dict(release.tasks), release.trunk_depth, release.layer_count)
    lock = manifest.lock
    if in_rows != (lock.backbone, dict(lock.tasks), manifest.trunk.depth, manifest.layers_in_use):
        return "lists other versions, or another trunk, than the release's rows"
    for task, branch in manifest.tasks.items():
        built_from = _StoredVersion(
            branch.frozen_depth, branch.task_layers, branch.prefix_digest, branch.module, branch.golden
        )
        if versions.get((task, branch.version)) != built_from:
            return f"describes {task}/{branch.version} otherwise than the version's row"
    return None
