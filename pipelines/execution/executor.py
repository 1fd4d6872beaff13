"""Where trials run: an interface that local processes fill today."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pipelines.execution.trial_file import TrialFile, TrialResult


@dataclass(frozen=True)
class Progressed:
    """A trial lives, and how far it is."""

    key: str
    stage: str
    done: int
    total: int

    @property
    def share_trained(self) -> float:
        """How much of its whole training it has done; 0 while it prepares."""
        return self.done / self.total if self.total and self.stage.startswith("epoch ") else 0.0


@dataclass(frozen=True)
class Ended:
    """A trial's run is over: its result, or the failure of whatever ran it."""

    key: str
    result: TrialResult


@dataclass(frozen=True)
class Warned:
    """Something that people should know of a trial which goes on: a full disk, a damaged file computed again."""

    key: str
    message: str


Event = Progressed | Warned | Ended


class Executor(Protocol):
    """Takes trials as plain files and tells how they fare; knows nothing of searches and registries."""

    def room(self) -> int:
        """How many more trials it takes now."""
        ...

    def start(self, file: TrialFile) -> None:
        """Begins a trial; call it only while there is room."""
        ...

    def events(self, *, seconds: float) -> Sequence[Event]:
        """What happened since it was last asked; waits so long for the first event."""
        ...

    def close(self) -> None:
        """Ends everything that still runs; a trial that was under way goes on another time where it saved its state."""
        ...
