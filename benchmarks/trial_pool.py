"""Trials that are trained once and looked at in many ways: kept in a folder, trained only when somebody asks for one.

Each is trained by the product's own loop. After every epoch that any search could ask about, its answers to all dev
rows are kept, in fp32, so that whoever selects may score it on any of them; and of a teacher the module, so that it can
be distilled as it was after that epoch.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from benchmark_tasks import Workshop, end_with_parent

from modeling.encoder_layers import step_layer_passes
from modeling.task_module import module_bytes
from pipelines.data.dataset import Dataset, load_dataset
from pipelines.training.optimisation import optimise
from pipelines.training.recipes import Recipe
from pipelines.training.trial_run import open_trial
from pipelines.training.trial_state import TrialFolder
from pipelines.training.trials import TRIAL_FORMAT, Trial
from registry.artifacts.atomic_file import write_atomically
from registry.domain.manifests import HeadConfig
from registry.domain.plain_data import json_digest
from registry.domain.records import Version, VersionKind
from registry.domain.task_specs import TaskSpec

CPU = torch.device("cpu")


class Taught(NamedTuple):
    """The teacher of a pooled trial."""

    name: str
    """Of its own trial."""
    epoch: int
    """It teaches as it was after this epoch."""


class PooledTrial(NamedTuple):
    frozen_depth: int
    task_layers: int
    learning_rate: float
    seed: int
    teacher: Taught | None = None

    @property
    def name(self) -> str:
        own = f"k{self.frozen_depth}-l{self.task_layers}-lr{self.learning_rate:g}-s{self.seed}"
        return own if self.teacher is None else f"{own}-of-{self.teacher.name}-e{self.teacher.epoch}"


class Kept(NamedTuple):
    """What is known of a trial."""

    answers: Mapping[int, Sequence[Any]]
    """Scored epoch -> one decision a dev row."""
    modules: Mapping[int, str]
    """Scored epoch -> blob, of teachers."""
    seconds: float
    layer_passes: float


@dataclass(frozen=True)
class TrialPool:
    """One task's trials under one pair of recipes."""

    folder: Path
    spec: TaskSpec
    recipe: Recipe
    student_recipe: Recipe
    teacher_depths: tuple[int, ...]
    epochs: tuple[int, ...]
    """Of a teacher, those that are scored."""
    student_epochs: tuple[int, ...]

    @cached_property
    def place(self) -> Path:
        """Other recipes, data or arithmetic are another pool."""
        recipes = [self.recipe.model_dump(mode="json"), self.student_recipe.model_dump(mode="json")]
        data = [self.dataset(split).digest for split in ("train", "dev")]
        decided = [TRIAL_FORMAT, recipes, data, [self.epochs, self.student_epochs]]
        return self.folder / "pool" / f"{self.spec.task}-{json_digest({'of': decided})[:8]}"

    @property
    def head(self) -> HeadConfig:
        return HeadConfig(type=self.spec.type, outputs=self.spec.output_count)

    def dataset(self, split: str) -> Dataset:
        return load_dataset(self.spec, "train" if split == "train" else "dev")

    def kept(self, trial: PooledTrial) -> Kept | None:
        """What is known of a trial so far."""
        try:
            document = json.loads((self.place / f"{trial.name}.json").read_bytes())
        except FileNotFoundError:
            return None
        return Kept(
            {int(epoch): answers for epoch, answers in document["answers"].items()},
            {int(epoch): module for epoch, module in document["modules"].items()},
            document["seconds"],
            document["layer_passes"],
        )

    def has_reached(self, trial: PooledTrial, epoch: int) -> bool:
        found = self.kept(trial)
        return found is not None and epoch in found.answers

    def train(
        self,
        wanted: Iterable[tuple[PooledTrial, int]],
        *,
        processes: int,
        say: Callable[[str], None],
    ) -> None:
        """Trains every trial to the epoch that is wanted of it, each process on one thread; done ones cost nothing."""
        furthest: dict[PooledTrial, int] = {}
        for trial, epoch in wanted:
            if not self.has_reached(trial, epoch):
                furthest[trial] = max(epoch, furthest.get(trial, 0))
        jobs = sorted(furthest.items(), key=lambda job: -job[0].task_layers * job[1])
        if not jobs:
            return
        began = time.monotonic()
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=end_with_parent) as workers:
            running = [workers.submit(_run, self, *jobs[0])]
            if jobs[0][0].teacher is None:
                running[0].result()  # alone: it fills the cache of frozen activations that the others read
            running += [workers.submit(_run, self, *job) for job in jobs[1:]]
            try:
                for done, future in enumerate(as_completed(running), start=1):
                    spent = time.monotonic() - began
                    say(f"{self.spec.task}: {future.result()} ({done} of {len(jobs)}, {spent:.0f} s)")
            except BaseException:
                workers.shutdown(cancel_futures=True)  # or all that wait would be run before it ends
                raise

    def trial(self, pooled: PooledTrial) -> Trial:
        workshop = Workshop(self.folder)
        recipe = self.recipe if pooled.teacher is None else self.student_recipe
        return Trial(
            spec=self.spec,
            spec_revision=1,
            backbone=workshop.backbone,
            train=self.dataset("train"),
            dev=self.dataset("dev"),
            frozen_depth=pooled.frozen_depth,
            task_layers=pooled.task_layers,
            recipe=recipe.model_copy(update={"learning_rate": pooled.learning_rate}),
            seed=pooled.seed,
            head=self.head,
            teacher=None if pooled.teacher is None else self._version(pooled.teacher),
        )

    def _version(self, taught: Taught) -> Version:
        document = json.loads((self.place / f"{taught.name}.json").read_bytes())
        backbone = Workshop(self.folder).backbone
        return teacher_version(
            spec=self.spec,
            head=self.head,
            module=document["modules"][str(taught.epoch)],
            frozen_depth=document["frozen_depth"],
            task_layers=document["task_layers"],
            prefix_digest=backbone.prefix_digests[document["frozen_depth"]],
            backbone=backbone.name,
        )


def teacher_version(
    *,
    spec: TaskSpec,
    head: HeadConfig,
    module: str,
    frozen_depth: int,
    task_layers: int,
    prefix_digest: str,
    backbone: str,
) -> Version:
    """A teacher that no registry knows: what distillation reads of it is true, the rest is empty."""
    return Version.model_validate(
        {
            "task": spec.task,
            "spec_revision": 1,
            "backbone": backbone,
            "kind": VersionKind.TEACHER,
            "frozen_depth": frozen_depth,
            "task_layers": task_layers,
            "prefix_digest": prefix_digest,
            "head": head,
            "module": module,
            "golden": "",
            "dev_predictions": "",
            "metrics": {},
            "statistic": "one run",
            "train_digest": "",
            "dev_digest": "",
            "recipe": {},
            "seed": 0,
            "environment": {},
            "trial_key": "",
            "number": 1,
            "created_at": "2026-01-01T00:00:00Z",
            "created_by": "benchmark",
        }
    )


def _run(pool: TrialPool, pooled: PooledTrial, until_epoch: int) -> str:
    """Trains one trial in this process, from where it stands; returns its name."""
    torch.set_num_threads(1)
    trial = pool.trial(pooled)
    scored = pool.epochs if pooled.teacher is None else pool.student_epochs
    before = pool.kept(pooled)
    answers, modules = (dict(before.answers), dict(before.modules)) if before else ({}, {})
    began, store = time.monotonic(), Workshop(pool.folder).store
    work = pool.folder / "work"
    with open_trial(trial, work, depths=pool.teacher_depths if pooled.teacher is None else ()) as held:
        # The bench is the trial's own; only what is done after a scored epoch differs: more is kept.
        bench = held.bench(store, CPU, lambda *_: None)
        for epoch in [epoch for epoch in scored if epoch <= until_epoch and epoch not in answers]:
            keep = partial(_keep, pool, pooled, bench, epoch, answers, modules)
            _optimise_until(epoch, bench, trial, held.folder, keep)
            if epoch not in answers:
                # Scored before, by a process that was killed before it wrote the answers down. The module stands where
                # it stood then, but for the last epoch, after which it was put back to its best one.
                if epoch >= trial.recipe.epochs:
                    held.forget()
                    bench = held.bench(store, CPU, lambda *_: None)
                    _optimise_until(
                        epoch, bench, trial, held.folder, partial(_keep, pool, pooled, bench, epoch, answers, modules)
                    )
                else:
                    keep()
            _write(pool, pooled, answers, modules, time.monotonic() - began + (before.seconds if before else 0.0))
        if max(answers) >= trial.recipe.epochs:
            shutil.rmtree(held.folder, ignore_errors=True)
    return pooled.name


def _write(
    pool: TrialPool, pooled: PooledTrial, answers: Mapping[int, Any], modules: Mapping[int, str], seconds: float
) -> None:
    passes = step_layer_passes(pooled.task_layers, first_piece_only=pool.head.reading == "first")
    document = {
        "frozen_depth": pooled.frozen_depth,
        "task_layers": pooled.task_layers,
        "answers": answers,
        "modules": modules,
        "seconds": seconds,
        "layer_passes": max(answers) * passes,
    }
    write_atomically(pool.place / f"{pooled.name}.json", json.dumps(document).encode())


def _keep(
    pool: TrialPool,
    pooled: PooledTrial,
    bench: Any,
    epoch: int,
    answers: dict[int, Sequence[Any]],
    modules: dict[int, str],
) -> dict[str, float]:
    """Takes down what the module says after an epoch."""
    outputs = bench.dev.outputs(bench.module)
    answers[epoch] = bench.dev.decisions(outputs)
    if pooled.teacher is None and epoch >= pool.recipe.evaluate_from:
        modules[epoch] = Workshop(pool.folder).store.put(module_bytes(bench.module))
    metrics: dict[str, float] = bench.dev.metrics(outputs)
    return metrics


def _optimise_until(epoch: int, bench: Any, trial: Trial, folder: Path, score: Callable[[], dict[str, float]]) -> None:
    optimise(
        bench.module,
        bench.train,
        recipe=trial.recipe,
        seed=trial.seed,
        metric=trial.spec.metric,
        score=score,
        folder=TrialFolder(folder),
        device=CPU,
        report=lambda *_: None,
        until_epoch=epoch,
    )
