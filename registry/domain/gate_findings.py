"""What a gate found: one machine-readable result for a release, or for one task of it."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Final

from registry.domain.plain_data import Plain
from registry.domain.references import Name


class Gate(StrEnum):
    INTEGRITY = "integrity"
    """Every blob is there and has its digest."""
    ACCOUNTING = "accounting"
    """Every tensor of every blob fills one parameter of the merged model, and every parameter is filled."""
    PARITY = "parity"
    """A task answers merged, alone and in mixed batches, as its module did when it was registered."""
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


OF_ONE_RELEASE: Final = frozenset({Gate.INTEGRITY, Gate.ACCOUNTING, Gate.PARITY})
"""The gates that look at a release by itself; the others hold it to the one that is live."""


def with_standing(report: Mapping[str, Any], before: Mapping[str, Any]) -> Mapping[str, Any]:
    """A report that nothing was compared for takes over what the one before it found against a live release.

    Both as they are kept: `passed`, and `findings`, a list of findings as JSON.
    """
    if _comparisons(report) or not (stands := _comparisons(before)):
        return report
    passed = bool(report["passed"]) and all(finding["passed"] for finding in stands)
    return {**report, "passed": passed, "findings": [*report.get("findings", []), *stands]}


def _comparisons(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [finding for finding in report.get("findings", []) if finding["gate"] not in OF_ONE_RELEASE]


def failed(findings: Sequence[GateFinding]) -> list[GateFinding]:
    return [finding for finding in findings if not finding.passed]
