"""What `plan` chooses from: a file of candidates, or the versions in the registry."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, ValidationError, model_validator
from sqlalchemy.orm import Session

from cli.training import backbone_of
from registry.domain.plain_data import Plain
from registry.domain.records import Backbone, Release, TaskState
from registry.domain.references import Name
from registry.domain.task_specs import validation_problems
from registry.errors import InvalidInput, NotFound, NothingFits
from registry.services import channels, releases, tasks, versions

if TYPE_CHECKING:
    from pipelines.planning import Candidates, Plan

PRODUCTION = "production"
"""The channel of which the release is today's."""

_MOST_LAYERS = 1000


@dataclass(frozen=True)
class PlanSource:
    candidates: "Candidates"
    backbone: Backbone | None = None
    """None where a file was read: it says nothing of one."""
    release: Release | None = None
    """Today's, on this backbone."""
    retired: Sequence[str] = ()
    """Tasks that the release holds, but that are active no more."""
    left_out: Mapping[str, Mapping[str, Sequence[int]]] = field(default_factory=dict)
    """Task -> why -> the numbers of its versions."""

    def release_plan(self, among: "Candidates", weights: Mapping[str, float]) -> "Plan | None":
        """What the release holds, as a plan; None where it holds other tasks or versions than these candidates."""
        from pipelines.planning import plan_of

        if self.release is None or self.release.tasks.keys() != among.keys():
            return None
        numbered = {(task, one.version): one for task, of_task in among.items() for one in of_task}
        held = {task: numbered.get((task, number)) for task, number in self.release.tasks.items()}
        known = {task: one for task, one in held.items() if one is not None}
        return plan_of(known, weights) if len(known) == len(held) else None


class _Candidate(Plain):
    frozen_depth: int = Field(ge=0, le=_MOST_LAYERS)
    task_layers: int = Field(ge=1, le=_MOST_LAYERS)
    score: float = Field(allow_inf_nan=False, ge=-1e6, le=1e6)
    version: int | None = Field(default=None, ge=1)


class _CandidateFile(Plain):
    backbone_layers: int = Field(ge=1, le=_MOST_LAYERS)
    tasks: Mapping[Name, tuple[_Candidate, ...]]

    @model_validator(mode="after")
    def _fits(self) -> "_CandidateFile":
        problems = ["tasks: names none"] if not self.tasks else []
        for task, candidates in self.tasks.items():
            problems += [f"tasks.{task}: has no candidate"] if not candidates else []
            problems += [
                f"tasks.{task}.{number}: {one.frozen_depth} frozen and {one.task_layers} task layers are more than the "
                f"backbone's {self.backbone_layers}"
                for number, one in enumerate(candidates)
                if one.frozen_depth + one.task_layers > self.backbone_layers
            ]
        if problems:
            raise ValueError("\n".join(problems))
        return self


def read_candidates(path: Path) -> PlanSource:
    """Raises InvalidInput with every problem of the file."""
    from pipelines.planning import Candidate

    try:
        read = _CandidateFile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InvalidInput(str(path), [f"cannot be read: {error.strerror}"]) from None
    except ValidationError as error:
        raise InvalidInput(str(path), validation_problems(error)) from None
    return PlanSource(
        {
            task: [Candidate(one.frozen_depth, one.task_layers, one.score, one.version) for one in of_task]
            for task, of_task in read.tasks.items()
        }
    )


def registered_source(session: Session, backbone: str | None) -> PlanSource:
    """The versions of all active tasks that a release on the backbone could take.

    Args:
        backbone: its name. Default: that of today's release, or the only one.

    Raises:
        UsageError, NotFound: there is no such backbone, or several to choose from.
        NothingFits: no task has a version that fits.
    """
    from pipelines.candidates import registered_candidates

    today = _todays_release(session)
    chosen = backbone_of(session, backbone or (today.backbone if today else None))
    specs = {task.name: task.spec for task in tasks.list_tasks(session) if task.state is TaskState.ACTIVE}
    found = registered_candidates(specs, versions.scored_versions(session), chosen)
    if not found.candidates:
        raise NothingFits(
            f"no plan: no active task has a version that fits backbone {chosen.name}: "
            "`trunkline search run TASK` trains some"
        )
    release = today if today is not None and today.backbone == chosen.name else None
    retired = [task for task in release.tasks if task not in specs] if release is not None else []
    return PlanSource(found.candidates, chosen, release, retired, found.left_out)


def _todays_release(session: Session) -> Release | None:
    """What is live on production; where there is no such channel, or nothing on it, the latest release."""
    live = {channel.name: channel.release for channel in channels.list_channels(session)}
    try:
        return releases.get_release(session, live.get(PRODUCTION) or "latest")
    except NotFound:
        return None
