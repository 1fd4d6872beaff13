"""The gates that hold a new release to the one that is live: what of each changed task may differ, and by how much."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pipelines.assembly.regression_gate import CONFIDENCE, difference, metric_of
from pipelines.data.predictions import DevPredictions
from registry.artifacts.store import ArtifactStore
from registry.domain.gate_findings import Gate, GateFinding
from registry.domain.manifests import Manifest
from registry.domain.records import Version
from registry.domain.release_diff import contract_changes
from registry.domain.task_specs import TaskSpec
from registry.errors import ArtifactError


@dataclass(frozen=True)
class Limits:
    """What a release may do and still pass."""

    tolerance: float = 0.5
    """Points that a changed task may lose, however significantly; what chance explains it may lose in any case."""
    tolerances: Mapping[str, float] = field(default_factory=dict)
    """Of single tasks."""
    least_retention: float = 0.9
    """Share of its teacher's score that a changed student must keep; our own choice."""
    accepted: Mapping[str, str] = field(default_factory=dict)
    """Task whose output contract may change -> why."""
    most_layers: int | None = None
    most_parameters: int | None = None


@dataclass(frozen=True)
class ChangedTask:
    """A task of which the new release holds another version than the live one, or that it holds for the first time."""

    task: str
    spec: TaskSpec
    """Of the new version."""
    old: Version | None
    """None: the live release does not hold the task."""
    new: Version
    teacher: Version | None
    """Of the new version, where it is a student."""
    predicted_anew: Mapping[int, DevPredictions] = field(default_factory=dict)
    """Version number -> what it answers to the dev data that one of the others was scored on, where its own are
    others. All or none: with these, every version has answered the same rows."""

    def predictions(self, version: Version, store: ArtifactStore) -> DevPredictions:
        """Those made anew, or those that were kept when the version was registered."""
        if (anew := self.predicted_anew.get(version.number)) is not None:
            return anew
        return DevPredictions.parse(store.read(version.dev_predictions), str(version.reference))

    def note(self, *compared: Version) -> str:
        """Which of these versions answered anew, in words; empty where none did."""
        names = [str(one.reference) for one in compared if one.number in self.predicted_anew]
        return f"; {' and '.join(names)} evaluated anew" if names else ""


@dataclass(frozen=True)
class LiveRelease:
    """What a new release is held to, and what may differ."""

    manifest: Manifest
    changed: Sequence[ChangedTask]
    limits: Limits

    def findings(self, new: Manifest, parameters: int, store: ArtifactStore) -> Iterator[GateFinding]:
        """All but those that need the models."""
        yield from contract_findings(self.manifest, new, self.limits.accepted)
        for changed in self.changed:
            if changed.old is not None:
                yield regression_finding(changed, store, self.limits)
            retained = retention_finding(changed, store, self.limits)
            if retained is not None:
                yield retained
        yield from budget_findings(self.manifest, new, parameters, self.limits)


def changed_branches(live: Manifest, new: Manifest) -> list[str]:
    """The tasks that both hold with another version, by name."""
    return sorted(task for task, branch in new.tasks.items() if task in live.tasks and live.tasks[task] != branch)


def unchanged_branches(live: Manifest, new: Manifest) -> list[str]:
    return sorted(task for task, branch in new.tasks.items() if live.tasks.get(task) == branch)


def contract_findings(live: Manifest, new: Manifest, accepted: Mapping[str, str]) -> Iterator[GateFinding]:
    """Whoever reads a task's answers must be able to read the new version's: the same type, input form and labels."""
    for task in changed_branches(live, new):
        changes = contract_changes(live.tasks[task], new.tasks[task])
        words = "; ".join(changes) or "the same type, input form and labels"
        if changes and task in accepted:
            words += f" (accepted: {accepted[task]})"
        yield GateFinding(gate=Gate.CONTRACT, task=task, passed=not changes or task in accepted, words=words)


def regression_finding(changed: ChangedTask, store: ArtifactStore, limits: Limits) -> GateFinding:
    """Refuses to compare scores on different dev data, and what has not the same outputs."""
    old, new, spec = changed.old, changed.new, changed.spec
    assert old is not None  # noqa: S101 - a task that is new has nothing to be worse than
    tolerance = limits.tolerances.get(changed.task, limits.tolerance)

    def finding(passed: bool, words: str, **values: float) -> GateFinding:
        return GateFinding(gate=Gate.REGRESSION, task=changed.task, passed=passed, words=words, values=values)

    note = changed.note(old, new)
    if old.dev_digest != new.dev_digest and not note:
        return finding(
            False,
            f"{old.reference} and {new.reference} were scored on other dev data ({old.dev_digest[:12]}…, "
            f"{new.dev_digest[:12]}…), and {spec.data.dev} holds neither: put the data of one of them there",
        )
    try:
        found = difference(spec, *(changed.predictions(version, store) for version in (old, new)))
    except ArtifactError as error:
        return finding(False, f"the dev predictions of {old.reference} or {new.reference} cannot be read: {error}")
    except (ValueError, KeyError) as error:  # such as a label that the task has no more
        return finding(False, f"{old.reference} and {new.reference} cannot be compared: {error}")
    words = (
        f"{spec.metric} {found.old:.2f} → {found.new:.2f} ({found.change:+.2f}; {CONFIDENCE:.0%} of the draws "
        f"{found.low:+.2f} to {found.high:+.2f}){note}"
    )
    passed = not found.is_worse(tolerance)
    if not passed:
        words += f": worse by more than {tolerance:g}"
    elif found.is_worse(0.0):
        words += f": worse, within the tolerance of {tolerance:g}"
    return finding(passed, words, **found._asdict(), tolerance=tolerance)


def retention_finding(changed: ChangedTask, store: ArtifactStore, limits: Limits) -> GateFinding | None:
    """None for a teacher, and where the teacher's score is not above 0."""
    teacher, metric = changed.teacher, changed.spec.metric
    if teacher is None:
        return None
    both = (teacher, changed.new)

    def refused(words: str) -> GateFinding:
        return GateFinding(gate=Gate.RETENTION, task=changed.task, passed=False, words=words)

    if note := changed.note(*both):
        try:
            taught, kept = (metric_of(changed.spec, changed.predictions(version, store)) for version in both)
        except (ArtifactError, ValueError, KeyError) as error:
            return refused(f"{changed.new.reference} and its teacher {teacher.reference} cannot be compared: {error}")
    elif teacher.dev_digest != changed.new.dev_digest:
        return refused(
            f"{changed.new.reference} and its teacher {teacher.reference} were scored on other dev data, and "
            f"{changed.spec.data.dev} holds neither: put the data of one of them there"
        )
    else:
        taught, kept = (version.metrics.get(metric, 0.0) for version in both)
    if taught <= 0:
        return None
    share = kept / taught
    words = f"keeps {share:.1%} of {metric} of its teacher {teacher.reference}{note}"
    passed = share >= limits.least_retention
    if not passed:
        words += f": less than {limits.least_retention:.0%}"
    values = {"share": share, "least": limits.least_retention}
    return GateFinding(gate=Gate.RETENTION, task=changed.task, passed=passed, words=words, values=values)


def budget_findings(live: Manifest | None, new: Manifest, parameters: int, limits: Limits) -> Iterator[GateFinding]:
    """Always told, failed only where there is a limit."""
    for name, value, most in (
        ("layers", new.layers_in_use, limits.most_layers),
        ("parameters", parameters, limits.most_parameters),
    ):
        words = f"{value:,} {name}"
        if name == "layers" and live is not None:
            words += f" ({value - live.layers_in_use:+})"
        passed = most is None or value <= most
        if not passed:
            words += f": more than {most:,}"
        yield GateFinding(gate=Gate.BUDGET, task=None, passed=passed, words=words, values={name: value})
