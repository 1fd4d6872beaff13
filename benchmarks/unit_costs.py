"""Seconds of one epoch and of one evaluation, of `Trainer` and of Trunkline, on the same rows, measured in turn.

Two processes of one thread each, or one of two threads: whichever is faster is what a search would use, on both sides.
The processes stay, so that nothing but the work is in the time.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, Self

import numpy as np
import torch
from benchmark_tasks import Workshop, end_with_parent
from trainer_baseline import encode, run_baseline
from transformers.utils import logging
from trial_pool import CPU, teacher_version

from modeling.task_module import copy_backbone_layers, module_bytes, new_task_module
from pipelines.data.dataset import load_dataset
from pipelines.training.optimisation import optimise
from pipelines.training.recipes import Recipe
from pipelines.training.trial_run import open_trial
from pipelines.training.trial_state import TrialFolder
from pipelines.training.trials import Trial
from registry.domain.manifests import HeadConfig
from registry.domain.task_specs import TaskSpec

Side = Literal["trainer", "trunkline"]
WARM_ROWS = 64
"""Trained on before the clock starts: what the libraries set up once is in no epoch."""


class Seconds(NamedTuple):
    """Of the whole machine, for one trial: with two processes, half of what each took."""

    epoch: float
    evaluation: float


@dataclass(frozen=True)
class Job:
    """One measurement in one process."""

    side: Side
    folder: Path
    """Of the workshop."""
    model: Path
    spec: TaskSpec
    frozen_depth: int
    task_layers: int
    recipe: Recipe
    """Of one epoch; with distillation it is a student's."""
    threads: int
    attention: str = "sdpa"
    seed: int = 0


class Lanes:
    """Processes that measure, one job at a time each, or the same job in all at once."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        context = get_context("spawn")
        self._lanes = [
            self._stack.enter_context(ProcessPoolExecutor(1, mp_context=context, initializer=end_with_parent))
            for _ in range(self._count)
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def measure(self, job: Job) -> Seconds:
        """With one thread a job fills every lane at once; with more it runs alone."""
        lanes = self._lanes if job.threads == 1 else self._lanes[:1]
        running = [lane.submit(_seconds, replace(job, seed=number)) for number, lane in enumerate(lanes)]
        found = [future.result() for future in running]
        return Seconds(*(statistics.mean(values) / len(lanes) for values in zip(*found, strict=True)))


def in_turn(
    lanes: Lanes, jobs: Mapping[str, Job], *, repeats: int, say: Callable[[str], None]
) -> dict[str, list[Seconds]]:
    """Every job, so many times round: what else the machine does hits all of them."""
    found: dict[str, list[Seconds]] = {name: [] for name in jobs}
    for number in range(repeats):
        for name, job in jobs.items():
            found[name].append(lanes.measure(job))
            say(f"{name}, round {number + 1} of {repeats}: {found[name][-1].epoch:.2f} s an epoch")
    return found


class Line(NamedTuple):
    """Seconds = fixed + layer · layers."""

    fixed: float
    layer: float

    def at(self, layers: float) -> float:
        return self.fixed + self.layer * layers


def fitted_line(points: Iterable[tuple[float, float]]) -> Line:
    """Least squares through (layers, seconds); of one number of layers, a level line."""
    layers, seconds = (np.asarray(values, dtype=float) for values in zip(*points, strict=True))
    if len(set(layers)) == 1:
        return Line(float(seconds.mean()), 0.0)
    slope, fixed = np.polyfit(layers, seconds, 1)
    return Line(float(fixed), float(slope))


def exhaustive_seconds(
    *,
    layers: Sequence[int],
    seeds: int,
    epochs: int,
    evaluations: int,
    students: Sequence[int],
    student_epochs: int,
    student_evaluations: int,
    epoch: Line,
    evaluation: Line,
    student_epoch: Line,
    student_evaluation: Line,
    teacher_logits: float,
) -> float:
    """The paper's protocol by unit costs: every depth and seed to the end, then every student; the teacher's logits
    once."""
    teachers = seeds * sum(epochs * epoch.at(L) + evaluations * evaluation.at(L) for L in layers)
    taught = seeds * sum(
        student_epochs * student_epoch.at(few) + student_evaluations * student_evaluation.at(few) for few in students
    )
    return teachers + taught + (teacher_logits if students else 0.0)


def exhaustive_passes(
    *,
    backbone_layers: int,
    layers: Sequence[int],
    seeds: int,
    epochs: int,
    evaluations: int,
    students: Sequence[int],
    student_depth: int,
    student_epochs: int,
    student_evaluations: int,
    dev_share: float,
) -> float:
    """Layer passes per training example of that protocol by `Trainer`: a forward counts 1, a backward 2.

    Frozen layers are computed in every epoch and evaluation; the teacher's logits are one forward of all layers.

    Args:
        dev_share: dev rows a training row.
    """
    N = backbone_layers  # noqa: N806 - the documents' name
    teachers = seeds * sum(epochs * (N - L + 3 * L) + evaluations * dev_share * N for L in layers)
    taught = seeds * sum(
        student_epochs * (student_depth + 3 * few) + student_evaluations * dev_share * (student_depth + few)
        for few in students
    )
    return teachers + taught + (N if students else 0)


def _seconds(job: Job) -> Seconds:
    torch.set_num_threads(job.threads)
    return _trainer_seconds(job) if job.side == "trainer" else _trunkline_seconds(job)


_WARMED: set[tuple[str, int, int, int]] = set()


def _is_cold(job: Job) -> bool:
    key = (job.side, job.frozen_depth, job.task_layers, job.threads)
    cold = key not in _WARMED
    _WARMED.add(key)
    return cold


def _trainer_seconds(job: Job) -> Seconds:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    train, dev = load_dataset(job.spec, "train"), load_dataset(job.spec, "dev")
    rows, dev_rows = encode(job.spec, train, job.model), encode(job.spec, dev, job.model)
    gold = [example.target for example in dev.examples]
    taught = job.recipe.distillation is not None
    logits = np.zeros((len(rows), job.spec.output_count), dtype=np.float32) if taught else None

    def run(count: int) -> Seconds:
        result = run_baseline(
            job.spec,
            model=job.model,
            train=rows[:count],
            dev=dev_rows[:count],
            gold=gold[:count],
            recipe=job.recipe,
            seed=job.seed,
            frozen=job.frozen_depth,
            layers=job.frozen_depth + job.task_layers,
            attention=job.attention,
            teacher_logits=None if logits is None else logits[:count],
        )
        return Seconds(result.epoch_seconds[-1], result.evaluation_seconds[-1])

    if _is_cold(job):
        run(WARM_ROWS)
    return run(max(len(rows), len(dev_rows)))


def _trunkline_seconds(job: Job) -> Seconds:
    """From cached activations and teacher outputs, whose making is measured by `filling_seconds`."""
    workshop = Workshop(job.folder)
    store = workshop.store
    trial = _trial(job, workshop)
    with tempfile.TemporaryDirectory() as scratch, open_trial(trial, job.folder / "work") as held:
        bench = held.bench(store, CPU, lambda *_: None)
        evaluations: list[float] = []

        def score() -> dict[str, float]:
            began = time.perf_counter()
            found = bench.dev.score(bench.module, precision=trial.recipe.precision)
            evaluations.append(time.perf_counter() - began)
            return found

        def run(name: str) -> float:
            evaluations.clear()
            began = time.perf_counter()
            optimise(
                bench.module,
                bench.train,
                recipe=trial.recipe,
                seed=job.seed,
                metric=job.spec.metric,
                score=score,
                folder=TrialFolder(Path(scratch) / name),
                device=CPU,
                report=lambda *_: None,
            )
            return time.perf_counter() - began

        if _is_cold(job):
            run("warm")
        total = run("timed")
        return Seconds(total - sum(evaluations), evaluations[-1])


def _trial(job: Job, workshop: Workshop) -> Trial:
    backbone = workshop.backbone
    head = HeadConfig(type=job.spec.type, outputs=job.spec.output_count)
    teacher = None
    if job.recipe.distillation is not None:
        # Its answers do not matter here, only that they are there.
        layers = backbone.layer_count - job.frozen_depth
        module = new_task_module(config=backbone.config, head=head, task_layers=layers, seed=0)
        copy_backbone_layers(
            module, first_layer=job.frozen_depth + 1, layer_blobs=backbone.layers, store=workshop.store
        )
        teacher = teacher_version(
            spec=job.spec,
            head=head,
            module=workshop.store.put(module_bytes(module)),
            frozen_depth=job.frozen_depth,
            task_layers=layers,
            prefix_digest=backbone.prefix_digests[job.frozen_depth],
            backbone=backbone.name,
        )
    return Trial(
        spec=job.spec,
        spec_revision=1,
        backbone=backbone,
        train=load_dataset(job.spec, "train"),
        dev=load_dataset(job.spec, "dev"),
        frozen_depth=job.frozen_depth,
        task_layers=job.task_layers,
        recipe=job.recipe,
        seed=1000 + job.seed,
        head=head,
        teacher=teacher,
    )


def filling_seconds(job: Job) -> float:
    """Seconds in which this process computes the frozen activations of the job's rows: what a trial takes to begin
    without them, less what it takes with them."""
    torch.set_num_threads(job.threads)
    workshop = Workshop(job.folder)
    with tempfile.TemporaryDirectory() as scratch, open_trial(_trial(job, workshop), Path(scratch)) as held:
        seconds = []
        for _ in range(2):
            began = time.perf_counter()
            held.bench(workshop.store, CPU, lambda *_: None)
            seconds.append(time.perf_counter() - began)
    return max(0.0, seconds[0] - seconds[1])
