"""A trial as a file, so that any process anywhere can run it: a specification in, a result out, plain JSON both."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, ValidationError, field_validator

from modeling.encoder_layers import step_layer_passes
from pipelines.data.dataset import Dataset, load_dataset
from pipelines.training.recipes import Recipe
from pipelines.training.trial_run import open_trial
from pipelines.training.trials import TrainedModule, Trial
from registry.artifacts.store import open_store
from registry.domain.manifests import HeadConfig
from registry.domain.plain_data import Plain
from registry.domain.records import Backbone, NewVersion, Version
from registry.domain.task_specs import TaskSpec, validation_problems
from registry.errors import Conflict, InvalidInput, TrainingFailed, TrunklineError
from registry.progress import Report


class Place(Plain):
    """Where a trial is run, and with what."""

    work: str
    """Folder of the caches and of unfinished trials."""
    artifact_root: str
    blob_cache: str
    blob_cache_bytes: int = Field(ge=1)
    activation_cache_bytes: int = Field(ge=0)
    device: str
    threads: int = Field(ge=1)
    """Of one process, on the CPU."""

    @field_validator("device")
    @classmethod
    def _names_a_device(cls, name: str) -> str:
        try:
            torch.device(name)
        except RuntimeError:
            raise ValueError(f"{name!r} is no device; use cpu, cuda or cuda:N") from None
        return name


class TrialFile(Plain):
    """Everything that decides a trial, how far it is to be run, and where."""

    format: Literal[1] = 1
    key: str
    """The trial's key where it was planned: other data or another program would give another one, and are refused."""
    spec: TaskSpec
    spec_revision: int
    backbone: Backbone
    frozen_depth: int
    task_layers: int
    recipe: Recipe
    seed: int
    head: HeadConfig
    teacher: Version | None
    until_epoch: int | None
    """Pause after this epoch; None runs the trial to its end."""
    depths: tuple[int, ...] = ()
    """Frozen depths that other trials on the same data will ask for: computed in the same pass."""
    place: Place

    @classmethod
    def of(cls, trial: Trial, *, depths: tuple[int, ...], place: Place) -> Self:
        """The file that runs a trial to its end."""
        return cls(
            key=trial.key,
            spec=trial.spec,
            spec_revision=trial.spec_revision,
            backbone=trial.backbone,
            frozen_depth=trial.frozen_depth,
            task_layers=trial.task_layers,
            recipe=trial.recipe,
            seed=trial.seed,
            head=trial.head,
            teacher=trial.teacher,
            until_epoch=None,
            depths=depths,
            place=place,
        )

    def trial(self, *, train: Dataset, dev: Dataset) -> Trial:
        """Raises InvalidInput when it is not the trial that was planned."""
        trial = Trial(
            spec=self.spec,
            spec_revision=self.spec_revision,
            backbone=self.backbone,
            train=train,
            dev=dev,
            frozen_depth=self.frozen_depth,
            task_layers=self.task_layers,
            recipe=self.recipe,
            seed=self.seed,
            head=self.head,
            teacher=self.teacher,
        )
        if trial.key != self.key:
            raise InvalidInput(
                f"trial of task {self.spec.task}",
                ["its data files changed after it was planned, or another version of Trunkline planned it; plan again"],
            )
        return trial


class TrialOutcome(Plain):
    """How far a trial came."""

    epochs_done: int
    metrics: Mapping[int, Mapping[str, float]]
    """Epoch (from 1) -> metrics on the dev data, in the training precision."""
    losses: Mapping[int, float]
    """Epoch -> mean training loss."""
    seconds: float
    """Of this run."""
    layer_passes: float
    """Of all epochs that are done, per training example: a layer's forward counts 1, its backward 2."""
    version: NewVersion | None
    """Of a trial that was run to its end; its blobs are in the store."""


class TrialFailure(Plain):
    """Why a trial has no outcome."""

    kind: Literal["diverged", "refused", "busy", "broken"]
    """diverged: it fails whenever it is run; refused: nothing can run here until something is mended; busy: another
    process is running it; broken: it may be run again."""
    message: str
    exit_code: int = 1
    """Of a command that was to run this one trial."""


class TrialResult(Plain):
    """What a run leaves in the result file: one of the two."""

    outcome: TrialOutcome | None = None
    failure: TrialFailure | None = None


_SomePath = Annotated[str, Field(pattern=r"^[^\x00]+$")]


class TrialRequest(Plain):
    """What a worker is asked for, in one line of JSON."""

    specification: _SomePath
    """Path of the trial's file."""
    result: _SomePath
    """Path of the file that is to hold the result."""


def read_request(line: bytes) -> TrialRequest:
    """Raises InvalidInput with every problem."""
    try:
        return TrialRequest.model_validate_json(line)
    except ValidationError as error:
        raise InvalidInput("a line on stdin", validation_problems(error)) from None


def read_trial_file(path: Path) -> TrialFile:
    """Raises InvalidInput with every problem."""
    try:
        return TrialFile.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise InvalidInput(str(path), ["the file does not exist"]) from None
    except OSError as error:
        raise InvalidInput(str(path), [f"cannot be read: {error.strerror}"]) from None
    except ValidationError as error:
        raise InvalidInput(str(path), validation_problems(error)) from None


def _kind_of(error: TrunklineError) -> Literal["diverged", "refused", "busy"]:
    match error:
        case TrainingFailed():
            return "diverged"
        case Conflict():
            return "busy"
        case _:
            return "refused"


class TrialRunner:
    """Runs trials one after the other in this process; what the next one needs again is kept."""

    def __init__(self) -> None:
        self._datasets: dict[tuple[str, str, int, int], Dataset] = {}

    def run(self, path: Path, report: Report) -> TrialResult:
        """Runs the trial that a file specifies; whatever goes wrong is in the result."""
        try:
            return TrialResult(outcome=self._outcome(read_trial_file(path), report))
        except TrunklineError as error:
            return TrialResult(
                failure=TrialFailure(kind=_kind_of(error), message=str(error), exit_code=error.exit_code)
            )

    def _outcome(self, file: TrialFile, report: Report) -> TrialOutcome:
        began = time.monotonic()
        place = file.place
        torch.set_num_threads(place.threads)
        device = torch.device(place.device)
        store = open_store(place.artifact_root, cache=Path(place.blob_cache), cache_bytes=place.blob_cache_bytes)
        trial = file.trial(train=self._dataset(file.spec, "train"), dev=self._dataset(file.spec, "dev"))
        with open_trial(trial, Path(place.work), depths=file.depths, cache_bytes=place.activation_cache_bytes) as held:
            trained: TrainedModule | None = None
            if file.until_epoch is None:
                trained = held.run(store=store, device=device, report=report)
                state = trained.state
            else:
                state = held.advance(file.until_epoch, store=store, device=device, report=report)
            version = None if trained is None else trained.to_version(store, mlflow_run=None)
        epochs_done = max(state.epoch_losses, default=0)
        return TrialOutcome(
            epochs_done=epochs_done,
            metrics=state.epoch_metrics,
            losses=state.epoch_losses,
            seconds=time.monotonic() - began,
            layer_passes=epochs_done
            * step_layer_passes(trial.task_layers, first_piece_only=trial.head.reading == "first"),
            version=version,
        )

    def _dataset(self, spec: TaskSpec, split: Literal["train", "dev"]) -> Dataset:
        path = Path(spec.data.train if split == "train" else spec.data.dev)
        try:
            status = path.stat()
        except OSError:
            return load_dataset(spec, split)  # which says what is wrong
        key = (spec.digest(), split, status.st_mtime_ns, status.st_size)
        if key not in self._datasets:
            self._datasets = {known: data for known, data in self._datasets.items() if known[0] == key[0]}
            self._datasets[key] = load_dataset(spec, split)
        return self._datasets[key]
