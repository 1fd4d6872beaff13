"""MLflow: one run a trial, with its recipe, its curves and its metrics."""

import logging
import os
import re
from typing import TYPE_CHECKING

from pipelines.training.trials import TrainedModule

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

_TRIAL_TAG = "trunkline.trial"


def log_trial(trained: TrainedModule, *, tracking_uri: str, artifact_location: str | None) -> str | None:
    """Logs a finished trial and returns its run id; the run of an earlier attempt at the same trial is used again.

    A tracking server that fails costs the run, not the module: the module is registered without one, and the reason
    is logged.

    Args:
        artifact_location: where a new experiment keeps its files; None leaves it to the server.
    """
    try:
        client = _client(tracking_uri)
        experiment = _experiment(client, trained.trial.spec.task, artifact_location)
        return _log(client, experiment, trained)
    except Exception as error:  # noqa: BLE001 - whatever the server or its client raises must not lose the module
        logger.warning(
            "MLflow at %s did not take the run (%s); the version is registered without it",
            without_password(tracking_uri),
            without_password(str(error)),
        )
        return None


def tag_version(run: str, version: str, *, tracking_uri: str) -> None:
    """Writes the version's reference on its run."""
    try:
        _client(tracking_uri).set_tag(run, "trunkline.version", version)
    except Exception as error:  # noqa: BLE001 - the version is registered already
        logger.warning(
            "MLflow at %s did not take the tag of %s (%s)",
            without_password(tracking_uri),
            version,
            without_password(str(error)),
        )


def without_password(text: str) -> str:
    """Takes `user:password@` out of every address in a text."""
    return re.sub(r"(?<=://)[^/@\s]+@", "", text)


def _client(tracking_uri: str) -> "MlflowClient":
    # Where the user has not said otherwise: a server that is away is given up after some ten seconds and not minutes,
    # and nothing is reported to MLflow's makers.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient  # 5 s of imports that only training pays

    for name in ("mlflow", "alembic"):  # creating the embedded database would otherwise tell of every migration
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=tracking_uri)


def _experiment(client: "MlflowClient", task: str, artifact_location: str | None) -> str:
    name = f"trunkline/{task}"
    if found := client.get_experiment_by_name(name):
        return str(found.experiment_id)
    return str(client.create_experiment(name, artifact_location=artifact_location))


def _log(client: "MlflowClient", experiment: str, trained: TrainedModule) -> str:
    from mlflow.entities import Metric, Param, RunTag

    trial = trained.trial
    earlier = client.search_runs([experiment], f"tags.`{_TRIAL_TAG}` = '{trial.key}'", max_results=1)
    if earlier:
        return str(earlier[0].info.run_id)
    name = f"{'student' if trial.teacher else 'teacher'} k={trial.frozen_depth} l={trial.task_layers} seed={trial.seed}"
    run = client.create_run(experiment, run_name=name)
    curves = [Metric("train_loss", loss, 0, epoch) for epoch, loss in trained.state.epoch_losses.items()]
    for epoch, metrics in trained.state.epoch_metrics.items():
        curves += [Metric(f"dev_{metric}", value, 0, epoch) for metric, value in metrics.items()]
    best = [Metric(f"best_dev_{metric}", value, 0, 0) for metric, value in trained.metrics.items()]
    recipe = trial.recipe.model_dump(exclude={"distillation"})
    if trial.recipe.distillation:
        recipe |= trial.recipe.distillation.model_dump()
    shape = {"frozen_depth": trial.frozen_depth, "task_layers": trial.task_layers, "seed": trial.seed}
    parameters = [Param(key, str(value)) for key, value in {**shape, **recipe}.items()]
    tags = {"trunkline.backbone": trial.backbone.name, "trunkline.statistic": trial.recipe.statistic}
    if trial.teacher:
        tags["trunkline.teacher"] = str(trial.teacher.reference)
    # The tag that marks the run as whole comes with everything else in one request.
    client.log_batch(
        run.info.run_id,
        metrics=curves + best,
        params=parameters,
        tags=[RunTag(key, value) for key, value in {**tags, _TRIAL_TAG: trial.key}.items()],
    )
    client.set_terminated(run.info.run_id)
    return str(run.info.run_id)
