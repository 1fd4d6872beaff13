"""The search for a task's depth: asks the plan what to run, has it run, and writes down what came of it.

plan (pure) ─> wanted runs ─> ledger: claimed ─> executor ─> outcome ─> ledger: paused, finished, failed ─> plan …
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pipelines.execution.executor import Ended, Executor, Progressed, Warned
from pipelines.execution.trial_file import TrialFailure, TrialFile, TrialOutcome
from pipelines.search.plan import Step, next_step
from pipelines.search.runs import Run, has_reached
from registry.domain.records import Version
from registry.domain.searches import LedgerTrial, PlannedTrial, SearchChoice, SearchOptions, TrialShape
from registry.errors import StorageError, TrainingFailed
from registry.progress import Report

MOST_ATTEMPTS = 3
"""A trial whose process died or hung so often has failed."""

_WAIT_SECONDS = 1.0
_LOOK_SECONDS = 5.0
"""How often it looks what other processes have done for the trials that it wants too."""
_BUSY_SECONDS = 15.0


class Ledger(Protocol):
    """What a search needs of the registry. Every method is one transaction, and repeats without harm."""

    def trials(self) -> Sequence[LedgerTrial]:
        """The search's trials as they stand."""
        ...

    def version(self, number: int) -> Version:
        """A version of the task."""
        ...

    def ask_for(self, planned: Sequence[PlannedTrial]) -> None: ...

    def claim(self, key: str) -> bool:
        """Takes the lease of a trial; False where another process holds it."""
        ...

    def refuse_if_lost(self) -> None:
        """Raises when the search is not this process's any more, or the task has changed. It is called every second."""
        ...

    def finish(self, trial: LedgerTrial, outcome: TrialOutcome) -> None:
        """Registers the version of a trial that was run to its end."""
        ...

    def pause(self, trial: LedgerTrial, outcome: TrialOutcome) -> None: ...

    def give_back(self, trial: LedgerTrial, *, seconds: float, error: str | None) -> None:
        """The run broke off: for an error, or (None) because the search is left."""
        ...

    def fail(self, trial: LedgerTrial, *, seconds: float, error: str, broke_off: bool) -> None:
        """The search goes on without the trial; what only broke off, the next run tries again."""
        ...


Describe = Callable[[TrialShape, Version | None], TrialFile]
"""A trial's whole specification from its shape and its teacher, to be run to its end."""


@dataclass
class DepthSearch:
    """One search, driven by this process."""

    options: SearchOptions
    backbone_layers: int
    ledger: Ledger
    executor: Executor
    describe: Describe
    report: Report
    warn: Callable[[str], None]
    """Told what went wrong without ending the search."""
    clock: Callable[[], float]
    """Seconds, of any origin: how long a run that broke off had lasted."""
    _running: dict[str, tuple[LedgerTrial, float]] = field(default_factory=dict)
    _files: dict[TrialShape, TrialFile] = field(default_factory=dict)
    _not_before: dict[str, float] = field(default_factory=dict)
    """When a trial that was busy is to be tried again."""
    _trained: dict[str, float] = field(default_factory=dict)
    """How much of its whole training each trial that runs here has done, by its own word."""
    _said: set[str] = field(default_factory=set)

    def run(self) -> SearchChoice:
        """Runs the search to its end, going on where an interrupted one stopped.

        Raises:
            TrainingFailed: no teacher reached the end; or none of the students of some size, not all of which diverged.
            StorageError: trials cannot be run here until something is mended.
        """
        try:
            while True:
                trials = self.ledger.trials()
                step = next_step(self.options, self.backbone_layers, trials)
                if step.choice is not None:
                    return step.choice
                if step.failure is not None:
                    raise TrainingFailed(step.failure)
                self._reach(step)
        finally:
            self._leave()

    def _reach(self, step: Step) -> None:
        """Has every run of a rung reach its epoch."""
        keys = self._ask_for(step.wanted)
        while True:
            by_key = {trial.key: trial for trial in self.ledger.trials()}
            missing = [
                (by_key[keys[run.shape]], run) for run in step.wanted if not has_reached(by_key[keys[run.shape]], run)
            ]
            done = sum(self._epochs_done(by_key[keys[run.shape]], run) for run in step.wanted)
            self.report(f"{step.stage}, epochs", done, sum(run.until_epoch for run in step.wanted))
            if not missing:
                return
            for trial, run in missing:
                if self.executor.room() and self._is_due(trial) and self.ledger.claim(trial.key):
                    self._running[trial.key] = (trial, self.clock())
                    self.executor.start(self._file(run))
            self._listen()

    def _epochs_done(self, trial: LedgerTrial, run: Run) -> int:
        if has_reached(trial, run):
            return run.until_epoch
        return min(run.until_epoch, max(trial.epochs_done, int(self._trained.get(trial.key, 0.0) * trial.epochs)))

    def _is_due(self, trial: LedgerTrial) -> bool:
        return trial.key not in self._running and self._not_before.get(trial.key, 0.0) <= self.clock()

    def _ask_for(self, wanted: Sequence[Run]) -> Mapping[TrialShape, str]:
        planned = [
            PlannedTrial(key=file.key, shape=run.shape, epochs=file.recipe.epochs)
            for run in wanted
            for file in [self._file(run)]
        ]
        self.ledger.ask_for(planned)
        return {one.shape: one.key for one in planned}

    def _file(self, run: Run) -> TrialFile:
        if run.shape not in self._files:
            taught_by = run.shape.teacher
            teacher = None if taught_by is None else self.ledger.version(taught_by)
            self._files[run.shape] = self.describe(run.shape, teacher)
        file = self._files[run.shape]
        until = run.until_epoch if run.until_epoch < file.recipe.epochs else None
        return file.model_copy(update={"until_epoch": until})

    def _listen(self) -> None:
        """Waits until a trial ends, or until it is time to look what others have done."""
        until, ended = self.clock() + _LOOK_SECONDS, list[Ended]()
        while not ended:
            for event in self.executor.events(seconds=_WAIT_SECONDS):
                if isinstance(event, Progressed):
                    self._trained[event.key] = event.share_trained
                elif isinstance(event, Warned):
                    self._pass_on(event)
                elif isinstance(event, Ended):
                    ended.append(event)
            self.ledger.refuse_if_lost()
            if self.clock() >= until or not self._running:
                break
        # What went well first: a failure may end the search.
        for event in sorted(ended, key=lambda event: event.result.outcome is None):
            self._take(event)
            self.ledger.refuse_if_lost()

    def _pass_on(self, event: Warned) -> None:
        """Every worker may say the same: it is said once."""
        if event.message not in self._said:
            self._said.add(event.message)
            self.warn(event.message)

    def _take(self, event: Ended) -> None:
        # Its lease stays this process's to give back until the ledger has taken what became of it.
        trial, began = self._running[event.key]
        outcome, failure = event.result.outcome, event.result.failure
        if outcome is not None:
            if outcome.version is None:
                self.ledger.pause(trial, outcome)
            else:
                self.ledger.finish(trial, outcome)
        else:
            assert failure is not None  # noqa: S101 - a result is one of the two
            self._take_failure(trial, failure, seconds=self.clock() - began)
        del self._running[event.key]
        self._trained.pop(event.key, None)

    def _take_failure(self, trial: LedgerTrial, failure: TrialFailure, *, seconds: float) -> None:
        if failure.kind == "busy":
            self._not_before[trial.key] = self.clock() + _BUSY_SECONDS
            self.ledger.give_back(trial, seconds=0.0, error=None)
            return
        if failure.kind == "refused":
            self.ledger.give_back(trial, seconds=seconds, error=None)
            raise StorageError(f"a trial cannot be run: {failure.message}")
        if failure.kind == "broken" and trial.attempts + 1 < MOST_ATTEMPTS:
            self.ledger.give_back(trial, seconds=seconds, error=failure.message)
            self.warn(f"{trial.shape.words}: {failure.message}; trying again")
            return
        self.ledger.fail(trial, seconds=seconds, error=failure.message, broke_off=failure.kind == "broken")
        self.warn(f"{trial.shape.words} failed, the search goes on without it: {failure.message}")

    def _leave(self) -> None:
        """Ends what still runs and gives its leases back, so that the next search need not wait for them."""
        self.executor.close()
        for trial, began in self._running.values():
            self.ledger.give_back(trial, seconds=self.clock() - began, error=None)
        self._running.clear()
