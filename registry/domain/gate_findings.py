"""What a gate found: one machine-readable result for a release, or for one task of it."""

from collections.abc import Mapping, Sequence
from enum import StrEnum

from registry.domain.plain_data import Plain
from registry.domain.references import Name


class Gate(StrEnum):
    CONTRACT = "contract"
    """A changed task answers in the same form and with the same labels as the live one."""
    REGRESSION = "regression"
    """A changed task is not worse than the live one on the same dev rows."""
    RETENTION = "retention"
    """A changed student keeps so much of its teacher's score."""
    BUDGET = "budget"
    """The release has no more layers and parameters than it may."""
    NON_INTERFERENCE = "non-interference"
    """Every unchanged task answers bit for bit as it does in the live release."""


class GateFinding(Plain):
    gate: Gate
    task: Name | None
    """None: it is about the whole release."""
    passed: bool
    words: str
    """What was compared and by how much it differs."""
    values: Mapping[str, float | int | str | bool | None] = {}
    """The same as numbers."""


def failed(findings: Sequence[GateFinding]) -> list[GateFinding]:
    return [finding for finding in findings if not finding.passed]
