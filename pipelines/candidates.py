"""Which registered versions a release on one backbone could take, and why the others could not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from pipelines.planning import Candidate, Candidates
from registry.domain.records import Backbone, ScoredVersion
from registry.domain.task_specs import TaskSpec


@dataclass(frozen=True)
class RegisteredCandidates:
    candidates: Candidates
    """Of every task that has one."""
    left_out: Mapping[str, Mapping[str, Sequence[int]]]
    """Task -> why -> the numbers of its versions. Tasks without any version are here too, with no reason."""


def registered_candidates(
    specs: Mapping[str, TaskSpec], versions: Sequence[ScoredVersion], backbone: Backbone
) -> RegisteredCandidates:
    """The versions that fit their task as it is now and the backbone, with scores on the same dev data.

    Of a task the newest fitting version says which dev data count: scores on other data are not comparable. A score is
    the task's metric in points, one run's as it was registered.

    Args:
        specs: task -> its current definition.
        versions: by task, the older ones first.
    """
    of_task = {task: list(found) for task, found in groupby(versions, key=lambda one: one.task)}
    candidates: dict[str, list[Candidate]] = {}
    left_out: dict[str, dict[str, list[int]]] = {}
    for task, spec in specs.items():
        reasons: dict[str, list[int]] = {}
        fitting = []
        for one in of_task.get(task, ()):
            reason = _misfit(one, spec, backbone)
            if reason is None:
                fitting.append(one)
            else:
                reasons.setdefault(reason, []).append(one.number)
        comparable = [one for one in fitting if one.dev_digest == fitting[-1].dev_digest]
        if others := [one.number for one in fitting if one.dev_digest != fitting[-1].dev_digest]:
            reasons[f"scored on other dev data than {fitting[-1].reference}"] = others
        if comparable:
            candidates[task] = [_candidate(one, spec) for one in comparable]
        if reasons or not comparable:
            left_out[task] = reasons
    return RegisteredCandidates(candidates, left_out)


def _misfit(version: ScoredVersion, spec: TaskSpec, backbone: Backbone) -> str | None:
    if not backbone.carries(version):
        return f"trained on another backbone than {backbone.name}, up to where it leaves it"
    if version.spec.interface != spec.interface:
        return "trained for another type, input form or labels than the task has now"
    if spec.metric not in version.metrics:
        return f"without a score in {spec.metric}, the task's metric now"
    return None


def _candidate(version: ScoredVersion, spec: TaskSpec) -> Candidate:
    score = round(100 * version.metrics[spec.metric], 6)  # 0.661 are 66.1 points, not 66.10000000000001
    return Candidate(version.frozen_depth, version.task_layers, score, version.number)
