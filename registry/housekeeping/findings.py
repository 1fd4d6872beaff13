"""What a check of the registry finds."""

from registry.domain.plain_data import Plain


class Finding(Plain):
    """One thing that is not as it should be."""

    subject: str
    """The object, as the audit trail names it: "version rte/3"."""
    problem: str
    remedy: str


class Check(Plain):
    """How much was looked at, and what is wrong with it."""

    backbones: int
    versions: int
    releases: int
    events: int
    blobs: int
    blobs_read: bool
    findings: tuple[Finding, ...]
    notes: tuple[Finding, ...] = ()
    """What is worth knowing, and no damage."""
