"""A search's ledger in the registry: each method one short transaction at most, and a thread that puts leases off."""

import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta

import filelock

from cli.application import Context
from cli.processes import is_gone
from cli.search_captions import printable
from pipelines.execution.trial_file import TrialFile, TrialOutcome
from pipelines.tracking import LoggedTrial, Tracking
from registry.domain.records import Version
from registry.domain.references import VersionReference
from registry.domain.searches import LedgerTrial, PlannedTrial, Search, TrialProgress
from registry.errors import Conflict, NotAllowed
from registry.fault_points import reached
from registry.services import searches, trials, versions
from registry.services.blobs import refer_to

LEASE = timedelta(minutes=2)
"""How long a process may be silent before its trials are taken over. It is heard of every quarter of it."""


@dataclass
class RegistryLedger:
    """The `pipelines.search.depth_search.Ledger` of one search that this process drives."""

    context: Context
    search: Search
    tracking: Tracking
    files: dict[str, TrialFile] = field(default_factory=dict)
    """Of the trials that were described, by key: what MLflow is told of them."""
    _lost: Exception | None = field(default=None, repr=False)
    """What putting off the leases met."""

    @property
    def _runner(self) -> str:
        assert self.search.runner is not None  # noqa: S101 - this process took it
        return self.search.runner

    def stand(self) -> Search:
        """The search as it stands."""
        with self.context.database.read() as session:
            return searches.get_search(session, self.search.task, self.search.number)

    def trials(self) -> Sequence[LedgerTrial]:
        return self.stand().trials

    def version(self, number: int) -> Version:
        with self.context.database.read() as session:
            return versions.get_version(session, VersionReference(task=self.search.task, number=number))

    def ask_for(self, planned: Sequence[PlannedTrial]) -> None:
        with self.context.database.write() as session:
            trials.ask_for(session, self.search, planned)

    def claim(self, key: str) -> bool:
        now = self.context.now()
        with self.context.database.write() as session:
            return trials.claim_trial(
                session,
                self.search.task,
                key,
                worker=self._runner,
                until=now + LEASE,
                is_gone=is_gone,
                at=now,
            )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Puts the leases off for as long as the context lasts, whatever this thread waits for meanwhile: a server of
        MLflow's that is away, or the cost of a large data set."""
        over = threading.Event()
        thread = threading.Thread(target=self._put_off_until, args=(over,), name="leases", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
        self.refuse_if_lost()

    def refuse_if_lost(self) -> None:
        if self._lost is not None:
            raise self._lost

    def _put_off_until(self, over: threading.Event) -> None:
        """A registry that is away for moments is asked again as long as the leases last."""
        held_at = time.monotonic()
        while not over.wait(LEASE.total_seconds() / 4):
            try:
                self._put_off()
                held_at = time.monotonic()
            except Exception as error:  # noqa: BLE001 - `refuse_if_lost` raises it, where the search can end by it
                if isinstance(error, (Conflict, NotAllowed)) or time.monotonic() - held_at > LEASE.total_seconds():
                    self._lost = error
                    return

    def _put_off(self) -> None:
        until = self.context.now() + LEASE
        with self.context.database.write() as session:
            searches.hold_search(session, self.search, until=until)
            trials.hold_trials(session, self.search.task, worker=self._runner, until=until)

    def finish(self, trial: LedgerTrial, outcome: TrialOutcome) -> None:
        assert outcome.version is not None  # noqa: S101 - it was run to its end
        run = self.tracking.log_trial(self._logged(trial, outcome), parent=self.search.mlflow_run)
        new = outcome.version.model_copy(update={"mlflow_run": run})
        reached("search.run-logged")
        with self.context.database.write() as session:
            refer_to(session, self.context.store, new.blobs)
            version = versions.register_version(session, new, actor=self.context.actor, at=self.context.now())
            trials.finish_trial(
                session,
                self.search.task,
                trial.key,
                version=version,
                score=version.metrics[self.search.metric],
                progress=self._progress(outcome),
            )
        reached("search.trial-registered")
        if run:
            self.tracking.tag_version(run, str(version.reference))
        self._forget(trial.key)

    def pause(self, trial: LedgerTrial, outcome: TrialOutcome) -> None:
        with self.context.database.write() as session:
            trials.pause_trial(
                session, self.search.task, trial.key, worker=self._runner, progress=self._progress(outcome)
            )
        reached("search.trial-paused")
        self.tracking.log_trial(self._logged(trial, outcome), parent=self.search.mlflow_run)

    def give_back(self, trial: LedgerTrial, *, seconds: float, error: str | None) -> None:
        with self.context.database.write() as session:
            trials.give_back_trial(
                session,
                self.search.task,
                trial.key,
                worker=self._runner,
                seconds=seconds,
                error=None if error is None else printable(error),
            )

    def fail(self, trial: LedgerTrial, *, seconds: float, error: str, broke_off: bool) -> None:
        with self.context.database.write() as session:
            trials.fail_trial(
                session,
                self.search.task,
                trial.key,
                worker=self._runner,
                seconds=seconds,
                error=printable(error),
                broke_off=broke_off,
            )
        self.tracking.log_trial(self._logged(trial, None, failed=True), parent=self.search.mlflow_run)

    def forget_ended(self) -> None:
        """Removes the task's saved states that nobody will read: of what finished searches stopped early, of what a
        killed process registered without removing it, and of searches for definitions that are no longer in force.

        A later search that wants one of them begins it again.
        """
        with self.context.database.read() as session:
            keys = searches.keys_of_no_use(session, self.search.task)
        for key in keys:
            self._forget(key)

    def _forget(self, key: str) -> None:
        folder = self.context.settings.home / "trials" / key
        if not folder.exists():
            return
        # Who runs it just now, for a search that was begun meanwhile, keeps it.
        with suppress(filelock.Timeout, OSError), filelock.FileLock(folder.with_suffix(".lock"), blocking=False):
            shutil.rmtree(folder, ignore_errors=True)

    def _progress(self, outcome: TrialOutcome) -> TrialProgress:
        metric = self.search.metric
        return TrialProgress(
            epochs_done=outcome.epochs_done,
            curve={epoch: metrics[metric] for epoch, metrics in outcome.metrics.items()},
            seconds=outcome.seconds,
            layer_passes=outcome.layer_passes,
        )

    def _logged(self, trial: LedgerTrial, outcome: TrialOutcome | None, *, failed: bool = False) -> LoggedTrial:
        return LoggedTrial.of(
            self.files[trial.key],
            losses=outcome.losses if outcome else {},
            metrics=outcome.metrics if outcome else {},
            best=outcome.version.metrics if outcome and outcome.version else None,
            failed=failed,
        )
