"""Running a trial: plain values in, a trained module out, without the registry."""

import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import filelock
import torch
import transformers
from torch import Tensor

from modeling.backbone import load_text_encoder, load_trunk
from modeling.task_module import TaskModule, module_bytes
from modeling.text import NO_TOKEN, EncodedText
from pipelines.training.activation_cache import ActivationCache, EncodedRows
from pipelines.training.evaluation import DevEvaluation, golden_examples
from pipelines.training.frozen_check import check_frozen
from pipelines.training.head_features import teacher_features
from pipelines.training.initialisation import initial_module, spread, teacher_module
from pipelines.training.objectives import Objective
from pipelines.training.optimisation import TrainingRows, optimise
from pipelines.training.packed_rows import RowTensors
from pipelines.training.trial_state import TrialFolder, TrialState
from pipelines.training.trials import TrainedModule, Trial
from registry.artifacts.store import ArtifactStore
from registry.domain.records import Version
from registry.domain.task_specs import TaskType
from registry.errors import Conflict, StorageError, TrainingFailed
from registry.fault_points import reached
from registry.progress import Report


@contextmanager
def open_trial(
    trial: Trial, work: Path, *, depths: Sequence[int] = (), cache_bytes: int | None = None
) -> Iterator["TrialRun"]:
    """Holds a trial for one process, from before it is looked up until it is registered.

    Args:
        work: folder of the caches and of unfinished trials.
        depths: frozen depths that other trials on the same data will ask for: computed in the same pass.
        cache_bytes: limit of the activation cache; None: none.
    Raises:
        Conflict: another process is running this very trial.
        StorageError: the disk is full.
    """
    folder = work / "trials" / trial.key
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Beside the folder and not in it: a lock that is removed while it is held can be taken twice.
        with filelock.FileLock(folder.with_suffix(".lock"), blocking=False):
            reached("train.trial-held")
            yield TrialRun(trial, folder, work / "cache", tuple(depths), cache_bytes)
    except filelock.Timeout:
        raise Conflict(
            f"task {trial.spec.task}: another process is running this trial; wait for it, or choose another --seed"
        ) from None
    except OSError as error:
        raise StorageError(
            f"task {trial.spec.task}: cannot write {error.filename or folder}: {error.strerror}; nothing was "
            "registered. Free some space and run the same command again: it goes on where it stopped"
        ) from error


@dataclass(frozen=True)
class TrialRun:
    """A trial that this process alone may run."""

    trial: Trial
    folder: Path
    caches: Path
    depths: tuple[int, ...] = ()
    cache_bytes: int | None = None

    def run(self, *, store: ArtifactStore, device: torch.device, report: Report) -> TrainedModule:
        """Trains the module, going on where an interrupted run of the same trial stopped.

        Raises:
            TrainingFailed: the loss is no number any more.
            StorageError: the disk is full.
        """
        bench = self.bench(store, device, report)
        state = self._optimise(bench, until_epoch=None)
        reached("train.optimised")
        check_frozen(bench.cache.trunk, self.trial.backbone, store)
        reached("train.frozen-part-checked")
        outputs = bench.dev.outputs(bench.module)
        return TrainedModule(
            trial=self.trial,
            module=module_bytes(bench.module),
            golden=golden_examples(
                bench.cache.trunk,
                bench.module,
                bench.dev,
                outputs,
                bench.cache.encoder,
                depth=self.trial.frozen_depth,
            ).to_bytes(),
            dev_predictions=bench.dev.predictions(outputs).to_bytes(),
            metrics=bench.dev.metrics(outputs),
            state=state,
            environment=environment_of(device),
        )

    def advance(self, until_epoch: int, *, store: ArtifactStore, device: torch.device, report: Report) -> TrialState:
        """Trains up to the end of an epoch, scores it and saves the state; `run` goes on from there.

        Raises:
            TrainingFailed, StorageError: as `run`.
        """
        return self._optimise(self.bench(store, device, report), until_epoch=until_epoch)

    def forget(self) -> None:
        """Removes what an interrupted run would have needed, once the module is registered."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def bench(self, store: ArtifactStore, device: torch.device, report: Report) -> "Bench":
        """Brings together what the trial works with: what is not cached yet is computed."""
        trial = self.trial
        cache = self._cache(store, device, report)
        dev = DevEvaluation.of(trial.spec, trial.dev, cache, depth=trial.frozen_depth)
        reached("train.dev-rows-cached")
        teacher = teacher_module(trial, trial.teacher, store).to(device) if trial.teacher else None
        train = _training_rows(trial, cache, teacher)
        reached("train.training-rows-cached")
        return Bench(cache, dev, train, initial_module(trial, train.targets, store, teacher).to(device))

    def _cache(self, store: ArtifactStore, device: torch.device, report: Report) -> ActivationCache:
        backbone = self.trial.backbone
        trunk = load_trunk(
            config=backbone.config,
            embeddings=backbone.embeddings,
            layers=backbone.layers[: max(self.trial.frozen_depth, *self.depths, 0)],
            store=store,
        )
        encoder = load_text_encoder(backbone, store)
        return ActivationCache(
            self.caches,
            trunk.to(device),
            encoder,
            backbone.prefix_digests,
            device,
            report,
            depths=self.depths,
            limit_bytes=self.cache_bytes,
        )

    def _optimise(self, bench: "Bench", *, until_epoch: int | None) -> TrialState:
        trial = self.trial
        try:
            return optimise(
                bench.module,
                bench.train,
                recipe=trial.recipe,
                seed=trial.seed,
                metric=trial.spec.metric,
                # In the precision of training: it only tells epochs apart. What is registered is computed in fp32.
                score=lambda: bench.dev.score(bench.module, precision=trial.recipe.precision),
                folder=TrialFolder(self.folder),
                device=bench.cache.device,
                report=bench.cache.report,
                until_epoch=until_epoch,
            )
        except TrainingFailed as error:
            raise TrainingFailed(f"task {trial.spec.task}: {error}") from error


@dataclass(frozen=True)
class Bench:
    """Everything that a trial works with."""

    cache: ActivationCache
    dev: DevEvaluation
    train: TrainingRows
    module: TaskModule


def _training_rows(trial: Trial, cache: ActivationCache, teacher: TaskModule | None) -> TrainingRows:
    rows = EncodedRows.of(trial.train, cache.encoder)
    targets = _targets(trial, rows.encoded)
    return TrainingRows(
        activations=cache.frozen(
            rows, depth=trial.frozen_depth, precision=trial.recipe.precision, stage="training data"
        ),
        rows=rows,
        targets=targets,
        objective=Objective(
            type=trial.spec.type,
            target_scale=spread(targets)[1] if trial.spec.type is TaskType.REGRESSION else 1.0,
            distillation=trial.recipe.distillation if trial.teacher else None,
            teacher_transitions=None if teacher is None else teacher.transitions,
        ),
        teacher_outputs=_teacher_outputs(trial, trial.teacher, teacher, rows, cache),
        teacher_features=_teacher_features(trial, trial.teacher, teacher, rows, cache),
        below=cache.below(
            rows,
            trial.head.reads_below(trial.frozen_depth),
            depth=trial.frozen_depth,
            precision=trial.recipe.precision,
            stage="training data",
        ),
    )


def _teacher_outputs(
    trial: Trial, version: Version | None, teacher: TaskModule | None, rows: EncodedRows, cache: ActivationCache
) -> RowTensors | None:
    if version is None or teacher is None:
        return None
    return cache.teacher_outputs(
        teacher,
        rows,
        depth=version.frozen_depth,
        module_digest=version.module,
        outputs=trial.head.outputs,
        token_level=trial.token_level,
        precision=trial.recipe.precision,
        stage="training data",
    )


def _teacher_features(
    trial: Trial, version: Version | None, teacher: TaskModule | None, rows: EncodedRows, cache: ActivationCache
) -> RowTensors | None:
    """None unless the recipe weighs them."""
    distillation = trial.recipe.distillation
    if version is None or teacher is None or distillation is None or not distillation.hidden_weight:
        return None
    return teacher_features(
        cache,
        teacher,
        rows,
        depth=version.frozen_depth,
        module_digest=version.module,
        token_level=trial.token_level,
        precision=trial.recipe.precision,
        stage="training data",
    )


def _targets(trial: Trial, encoded: Sequence[EncodedText]) -> list[Tensor]:
    """One tensor a row, [places(row)]: label numbers (int64), or the number itself (float32)."""
    numbers = {label: number for number, label in enumerate(trial.spec.output_labels)}
    targets = []
    for example, row in zip(trial.train.examples, encoded, strict=True):
        target = example.target
        if isinstance(target, tuple):
            tags = zip(target, row.word_tokens, strict=True)
            targets.append(torch.tensor([numbers[tag] for tag, token in tags if token != NO_TOKEN], dtype=torch.int64))
        elif isinstance(target, str):
            targets.append(torch.tensor([numbers[target]]))
        else:
            targets.append(torch.tensor([target], dtype=torch.float32))
    return targets


def environment_of(device: torch.device) -> dict[str, str]:
    """Where the numbers were computed: library versions, platform, hardware."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "platform": platform.platform(),
        "device": f"{device.type}: {name}",
        "threads": str(torch.get_num_threads()),
        "cpus": str(os.cpu_count()),
    }
