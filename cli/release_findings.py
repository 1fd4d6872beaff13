"""What the gates found, as a table and in a line."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cli.rendering import print_json, print_table, table_cell
from registry.domain.gate_findings import Gate, GateFinding, failed
from registry.errors import GateFailed


def print_findings(findings: Sequence[GateFinding]) -> None:
    """As a table, what failed first."""
    print_table(
        ["gate", "task", "", "found"],
        [(one.gate, one.task or "", "ok" if one.passed else "FAILED", one.words) for one in _failed_first(findings)],
    )


def refuse_failed(findings: Sequence[GateFinding]) -> None:
    """Raises GateFailed naming what failed, if anything did."""
    if problems := failed(findings):
        named = ", ".join(f"{one.gate}{f' of {one.task}' if one.task else ''}" for one in problems)
        raise GateFailed(f"{len(problems)} of {len(findings)} findings failed: {named}")


def refuse_with_table(findings: Sequence[GateFinding], *, as_json: bool) -> None:
    """`refuse_failed`, with the findings on stdout before; prints nothing where none failed."""
    if not failed(findings):
        return
    if as_json:
        print_json({"passed": False, "findings": [finding.model_dump(mode="json") for finding in findings]})
    else:
        print_findings(findings)
    refuse_failed(findings)


def failed_lines(gates: Mapping[str, Any]) -> list[str]:
    """Of a kept report, what failed."""
    found = [finding for finding in gates.get("findings", []) if not finding["passed"]]
    subjects = (f"{one['gate']} of {one['task']}" if one["task"] else one["gate"] for one in found)
    return [f"{subject}: {one['words']}" for subject, one in zip(subjects, found, strict=True)]


def summary(gates: Mapping[str, Any]) -> str:
    """A kept report in a line."""
    if lines := failed_lines(gates):
        return f"{len(lines)} FAILED the last time"
    if not gates.get("passed", True):  # as versions before this one kept a gate that ended with an error
        return f"FAILED the last time: {gates.get('problem', 'the report does not say why')}"
    parity = [finding["values"] for finding in gates.get("findings", []) if finding["gate"] == Gate.PARITY]
    if not parity:
        return "passed"
    examples = sum(values["examples"] for values in parity)
    largest = max(values["largest_difference"] for values in parity)
    return f"{examples} golden answers alone and mixed, largest difference {largest:.1e}"


def markdown_rows(gates: Mapping[str, Any]) -> Iterator[str]:
    """A kept report as a Markdown table; nothing where it holds no findings."""
    findings = gates.get("findings", [])
    if findings:
        yield "| gate | task | | found |"
        yield "| --- | --- | --- | --- |"
    for one in findings:
        outcome = "ok" if one["passed"] else "FAILED"
        yield f"| {one['gate']} | {one['task'] or ''} | {outcome} | {table_cell(one['words'])} |"


def _failed_first(findings: Sequence[GateFinding]) -> Iterator[GateFinding]:
    yield from failed(findings)
    yield from (finding for finding in findings if finding.passed)
