"""MLflow: one run a trial, with its recipe, its curves and its metrics; the trials of a search under one run."""

import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self, TypeVar

from pipelines.execution.trial_file import TrialFile
from pipelines.training.recipes import Recipe
from pipelines.training.trials import Trial
from registry.domain.manifests import HeadConfig

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

_TRIAL_TAG = "trunkline.trial"
_SEARCH_TAG = "trunkline.search"
_EPOCHS_TAG = "trunkline.epochs"
_PARENT_TAG = "mlflow.parentRunId"

_LEFT_ALONE_SECONDS = 300.0
"""How long a server that failed is not asked again: each time may take a minute, and a search asks often."""

_Done = TypeVar("_Done")


@dataclass(frozen=True)
class LoggedTrial:
    """What MLflow is told of a trial, at its end or on its way."""

    task: str
    key: str
    frozen_depth: int
    task_layers: int
    seed: int
    recipe: Recipe
    head: HeadConfig
    backbone: str
    teacher: str | None
    """Its reference."""
    losses: Mapping[int, float]
    """Epoch (from 1) -> mean training loss."""
    metrics: Mapping[int, Mapping[str, float]]
    """Epoch -> metrics on the dev data."""
    best: Mapping[str, float] | None
    """The metrics that are registered; None of a trial that has not ended."""
    failed: bool = False

    @classmethod
    def of(
        cls,
        trial: Trial | TrialFile,
        *,
        losses: Mapping[int, float],
        metrics: Mapping[int, Mapping[str, float]],
        best: Mapping[str, float] | None,
        failed: bool = False,
    ) -> Self:
        return cls(
            task=trial.spec.task,
            key=trial.key,
            frozen_depth=trial.frozen_depth,
            task_layers=trial.task_layers,
            seed=trial.seed,
            recipe=trial.recipe,
            head=trial.head,
            backbone=trial.backbone.name,
            teacher=str(trial.teacher.reference) if trial.teacher else None,
            losses=losses,
            metrics=metrics,
            best=best,
            failed=failed,
        )

    @property
    def name(self) -> str:
        kind = "student" if self.teacher else "teacher"
        return f"{kind} k={self.frozen_depth} l={self.task_layers} lr={self.recipe.learning_rate:g} seed={self.seed}"

    @property
    def parameters(self) -> dict[str, str]:
        recipe = self.recipe.model_dump(exclude={"distillation"})
        if self.recipe.distillation:
            recipe |= self.recipe.distillation.model_dump()
        shape = {"frozen_depth": self.frozen_depth, "task_layers": self.task_layers, "seed": self.seed}
        head = self.head.model_dump(mode="json", exclude={"type", "outputs"})
        return {key: str(value) for key, value in {**shape, **head, **recipe}.items()}


@dataclass
class Tracking:
    """One tracking server. What it refuses costs the run, never the module: the reason is logged."""

    uri: str
    artifact_location: str | None
    """Where a new experiment keeps its files; None leaves it to the server."""
    _client: "MlflowClient | None" = field(default=None, repr=False)
    _away_until: float = field(default=0.0, repr=False)
    _experiments: dict[str, str] = field(default_factory=dict, repr=False)

    def log_trial(self, trial: LoggedTrial, *, parent: str | None = None) -> str | None:
        """Logs a trial and returns its run id; one that was logged before gets what is new.

        Args:
            parent: the run of the search that it belongs to.
        """
        return self._tried(
            "did not take the run; the version is registered without it",
            lambda client: self._log(client, trial, parent),
        )

    def open_search(self, task: str, search: str, *, key: str, options: Mapping[str, str]) -> str | None:
        """The run above all trials of a search (`rte#2`), made when it is not there yet; returns its id.

        Args:
            key: the search's, which tells it from another registry's on the same server.
        """
        return self._tried(
            "did not take the search's run", lambda client: self._open(client, task, search, key, options)
        )

    def close_search(
        self, run: str, *, metrics: Mapping[str, float], tags: Mapping[str, str], failed: bool = False
    ) -> None:
        """Writes down what the search chose, and ends its run and those of the trials that it stopped early."""

        def close(client: "MlflowClient") -> None:
            from mlflow.entities import Metric, RunTag

            found = client.get_run(run).info
            if found.status == "FINISHED":  # one that failed may have been gone on with
                return
            client.log_batch(
                run,
                metrics=[Metric(name, value, 0, 0) for name, value in metrics.items()],
                tags=[RunTag(name, value) for name, value in tags.items()],
            )
            stopped_early = f"tags.`{_PARENT_TAG}` = '{run}' and attributes.status = 'RUNNING'"
            for child in client.search_runs([found.experiment_id], stopped_early):
                client.set_terminated(child.info.run_id, status="KILLED")
            client.set_terminated(run, status="FAILED" if failed else "FINISHED")

        self._tried("did not take the search's choice", close)

    def tag_version(self, run: str, version: str) -> None:
        """Writes the version's reference on its run."""
        self._tried(
            f"did not take the tag of {version}", lambda client: client.set_tag(run, "trunkline.version", version)
        )

    def _tried(self, failure: str, work: "Callable[[MlflowClient], _Done]") -> _Done | None:
        if time.monotonic() < self._away_until:
            return None
        try:
            if self._client is None:
                self._client = _connected(self.uri)
            return work(self._client)
        except Exception as error:  # noqa: BLE001 - whatever the server or its client raises must not lose the module
            logger.warning("MLflow at %s %s (%s)", without_password(self.uri), failure, without_password(str(error)))
            self._away_until = time.monotonic() + _LEFT_ALONE_SECONDS
            return None

    def _experiment(self, client: "MlflowClient", task: str) -> str:
        name = f"trunkline/{task}"
        if name not in self._experiments:
            found = client.get_experiment_by_name(name)
            self._experiments[name] = (
                str(found.experiment_id)
                if found
                else str(client.create_experiment(name, artifact_location=self.artifact_location))
            )
        return self._experiments[name]

    def _open(self, client: "MlflowClient", task: str, search: str, key: str, options: Mapping[str, str]) -> str:
        from mlflow.entities import Param, RunTag

        experiment = self._experiment(client, task)
        earlier = client.search_runs([experiment], f"tags.`{_SEARCH_TAG}` = '{key}'", max_results=1)
        if earlier:
            return str(earlier[0].info.run_id)
        run = client.create_run(experiment, run_name=f"search {search}").info.run_id
        client.log_batch(
            run,
            params=[Param(name, value) for name, value in options.items()],
            tags=[RunTag(_SEARCH_TAG, key)],
        )
        return str(run)

    def _log(self, client: "MlflowClient", trial: LoggedTrial, parent: str | None) -> str:
        from mlflow.entities import Metric, Param, RunTag

        experiment = self._experiment(client, trial.task)
        earlier = client.search_runs([experiment], f"tags.`{_TRIAL_TAG}` = '{trial.key}'", max_results=1)
        if earlier:
            run, known = str(earlier[0].info.run_id), int(earlier[0].data.tags.get(_EPOCHS_TAG, trial.recipe.epochs))
            parameters = []
        else:
            run, known = str(client.create_run(experiment, run_name=trial.name).info.run_id), 0
            parameters = [Param(key, value) for key, value in trial.parameters.items()]
        epochs = max(trial.losses, default=0)
        if epochs <= known and earlier and not trial.failed:
            if parent and _PARENT_TAG not in earlier[0].data.tags:  # `train` had run it
                client.set_tag(run, _PARENT_TAG, parent)
            if trial.best is not None and earlier[0].info.status != "FINISHED":  # whoever logged it was killed then
                client.set_terminated(run)
            return run
        curves = [Metric("train_loss", loss, 0, epoch) for epoch, loss in trial.losses.items() if epoch > known]
        for epoch, metrics in trial.metrics.items():
            if epoch > known:
                curves += [Metric(f"dev_{metric}", value, 0, epoch) for metric, value in metrics.items()]
        best = [Metric(f"best_dev_{metric}", value, 0, 0) for metric, value in (trial.best or {}).items()]
        tags = {"trunkline.backbone": trial.backbone, "trunkline.statistic": trial.recipe.statistic}
        if trial.teacher:
            tags["trunkline.teacher"] = trial.teacher
        if parent:
            tags[_PARENT_TAG] = parent
        # The tags that mark how much of the run is there come with everything else in one request.
        client.log_batch(
            run,
            metrics=curves + best,
            params=parameters,
            tags=[
                RunTag(key, value)
                for key, value in {**tags, _TRIAL_TAG: trial.key, _EPOCHS_TAG: str(max(epochs, known))}.items()
            ],
        )
        if trial.best is not None or trial.failed:
            client.set_terminated(run, status="FAILED" if trial.failed else "FINISHED")
        return run


def without_password(text: str) -> str:
    """Takes `user:password@` out of every address in a text."""
    return re.sub(r"(?<=://)[^/@\s]+@", "", text)


def _connected(uri: str) -> "MlflowClient":
    # Where the user has not said otherwise: a server that is away is given up after some ten seconds and not minutes,
    # and nothing is reported to MLflow's makers.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient  # 5 s of imports that only training pays

    for name in ("mlflow", "alembic"):  # creating the embedded database would otherwise tell of every migration
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri)
