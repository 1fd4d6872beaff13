"""A release as the engine serves it."""

from dataclasses import dataclass

from registry.domain.manifests import Manifest


@dataclass(frozen=True)
class ServedRelease:
    """A verified release in memory, in the precision that it is served in."""

    name: str
    """What people call it: `r3`."""
    digest: str
    """Of its manifest."""
    manifest: Manifest
    precision: str
    """fp32, bf16 or fp16."""
