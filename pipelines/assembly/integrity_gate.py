"""The gate that every blob of a release is there and has its digest."""

from registry.artifacts.store import ArtifactStore
from registry.domain.gate_findings import Gate, GateFinding
from registry.domain.manifests import Manifest
from registry.errors import ArtifactError
from registry.progress import Report


def integrity_findings(manifest: Manifest, *, store: ArtifactStore, report: Report) -> list[GateFinding]:
    """Reads every blob in the store itself, no local copy; one finding where all are whole, else one for each that is
    not.

    Raises:
        StorageError: the store cannot be reached.
    """
    parts = list(manifest.parts())
    found = []
    for number, part in enumerate(parts, 1):
        try:
            store.verify(part.blob)
        except ArtifactError as error:
            words = f"{part.what}: {error}"
            found.append(GateFinding(gate=Gate.INTEGRITY, task=part.task, passed=False, words=words))
        report("reading every blob", number, len(parts))
    words = f"{len(parts)} blobs have their digests"
    return found or [
        GateFinding(gate=Gate.INTEGRITY, task=None, passed=True, words=words, values={"blobs": len(parts)})
    ]
