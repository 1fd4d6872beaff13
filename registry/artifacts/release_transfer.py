"""A release from one artifact store to another: only what is missing there travels, and all of it is read there."""

from registry.artifacts.store import ArtifactStore
from registry.domain.manifests import parse_manifest
from registry.domain.plain_data import Plain
from registry.errors import ArtifactError, NotAllowed, NotFound
from registry.fault_points import reached
from registry.progress import Report


class Transfer(Plain):
    """What a transfer found and did."""

    manifest: str
    """Digest of the release's manifest."""
    blobs: int
    """How many the release has, its manifest among them."""
    sent: int
    sent_bytes: int
    mended: int
    """How many of the sent ones were there before, damaged."""


def transfer_release(
    manifest_digest: str, source: ArtifactStore, target: ArtifactStore, *, owner: str | None, report: Report
) -> Transfer:
    """Copies a release's blobs, and its manifest last: where the manifest is, the whole release is.

    Every blob is read where it arrives and compared with its digest, also one that was there before; a damaged one is
    sent again. Killed in between, the next transfer sends what is still missing.

    Args:
        owner: whose blobs the target may hold beside nobody's.
    Raises:
        NotFound: the source holds no such release.
        NotAllowed: the target belongs to another registry, which would sweep what no row of its own refers to.
        ArtifactMissing, ArtifactDamaged: the source does not hold a whole blob; names what of the release it is.
        StorageError: a store cannot be reached, read or written.
    """
    refuse_registrys_root(target, owner=owner)
    refuse_without_manifest(manifest_digest, source)
    manifest = parse_manifest(source.read(manifest_digest), f"manifest {manifest_digest[:12]}…")
    parts = {**{part.blob: part.what for part in manifest.parts()}, manifest_digest: "the manifest"}
    missing = target.missing(parts)
    sent = sent_bytes = mended = 0
    for number, (blob, what) in enumerate(parts.items(), 1):
        if blob in missing or _is_damaged(blob, target):
            try:
                path = source.fetch(blob)
            except ArtifactError as error:
                raise type(error)(f"{what}: {error}") from error
            sent_bytes += path.stat().st_size
            target.put_file(path)
            target.verify(blob)
            reached("transfer.blob-sent")
            sent += 1
            mended += blob not in missing
        report(f"to {target.location}", number, len(parts))
    return Transfer(manifest=manifest_digest, blobs=len(parts), sent=sent, sent_bytes=sent_bytes, mended=mended)


def refuse_registrys_root(target: ArtifactStore, *, owner: str | None) -> None:
    """Raises NotAllowed where the store belongs to a registry other than `owner`."""
    if (held_by := target.owner()) not in (None, owner):
        raise NotAllowed(
            f"{target.location} is the artifact root of {held_by}, whose `trunkline gc` would remove the release "
            "again: name a folder or a prefix of its own"
        )


def refuse_without_manifest(manifest_digest: str, store: ArtifactStore) -> None:
    """Raises NotFound where the store holds no such release."""
    if store.missing([manifest_digest]):
        raise NotFound(
            f"{store.location} holds no release {manifest_digest}: check the digest (`trunkline release push` prints "
            "it) and the place"
        )


def _is_damaged(blob: str, store: ArtifactStore) -> bool:
    try:
        store.verify(blob)
    except ArtifactError:
        return True
    return False
