"""What the default search costs and finds, against the paper's exhaustive protocol by transformers' `Trainer`.

    .venv/bin/python benchmarks/search_cost.py --model FOLDER --data FOLDER --home FOLDER --tasks trec,rte,cola

The first task is searched whole; of the others the time is extrapolated from unit costs on their own rows. Everything
is kept in the home: the same command again goes on, also after kill -9. `--report` prints what is there; `--parts` runs
some of these:

units    Seconds of an epoch and an evaluation, `Trainer` and Trunkline in turn, at several L; two processes of one
         thread or one of two, SDPA or eager attention: whichever is faster, for each side.
whole    `trunkline search` with its defaults, in a fresh home, by the clock from the command's start to its end.
quality  Both protocols with several choices of seeds and of the half of dev that selects; what they choose is scored on
         the other half. All trials are run by our own trainer and their time is not used. They are kept with their
         answers to every dev row after every epoch that matters, and the searches are replayed on them: the plan of a
         search is a pure function of curves. Nothing that selects (epoch, L, seed, depth) sees the other half.
trainer  Some whole runs by `Trainer` (--trainer-runs), to hold the extrapolated time against.
"""

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from benchmark_tasks import Home, TaskFiles, Workshop, end_command_with_parent, end_on_request, half_rows, task_names
from printed_tables import number_list, say, show
from ratio_intervals import Pair, ratio_of_means
from rich.table import Table
from search_replay import Replayed, peaked_search, replay, scored_epochs
from trial_pool import PooledTrial, Taught, TrialPool
from unit_costs import (
    Job,
    Lanes,
    Line,
    exhaustive_passes,
    exhaustive_seconds,
    filling_seconds,
    fitted_line,
    in_turn,
)

from pipelines.data.dataset import load_dataset
from pipelines.search.plan import Run, student_rungs, teacher_rungs
from pipelines.training.metrics import score
from pipelines.training.recipes import Distillation, Recipe, best_precision, make_recipe
from registry.artifacts.atomic_file import write_atomically
from registry.database.engine import Database
from registry.domain.manifests import HeadConfig
from registry.domain.searches import Search, SearchOptions, TrialShape
from registry.domain.task_specs import TaskSpec
from registry.services import searches

PARTS = ("units", "whole", "quality", "trainer")


@dataclass(frozen=True)
class Benchmark:
    """One setting; everything that it writes is under `home`."""

    home: Path
    model: Path
    data: Path
    layers: tuple[int, ...]
    measured_layers: tuple[int, ...]
    students: tuple[int, ...]
    seeds: int
    pool_seeds: int
    repetitions: int
    epochs: int
    student_epochs: int
    sample_rows: int
    repeats: int
    limit_rows: int | None
    cores: int

    @cached_property
    def workshop(self) -> Workshop:
        workshop = Workshop(self.home / "workshop")
        workshop.pin(self.model)
        return workshop

    @property
    def backbone_layers(self) -> int:
        return self.workshop.backbone.layer_count

    def files(self, task: str) -> TaskFiles:
        return TaskFiles.read(task, self.data, self.home / "data", limit_rows=self.limit_rows)

    @cached_property
    def recipe(self) -> Recipe:
        return make_recipe(
            "default",
            hidden_size=self.workshop.backbone.hidden_size,
            precision=best_precision(torch.device("cpu")),
            epochs=self.epochs,
        )

    @cached_property
    def student_recipe(self) -> Recipe:
        """As `trunkline search` makes it."""
        return self.recipe.model_copy(
            update={
                "epochs": self.student_epochs,
                "evaluate_from": -(-3 * self.student_epochs // 5),
                "distillation": Distillation(),
            }
        )

    def options(self, spec: TaskSpec, **more: Any) -> SearchOptions:
        head = HeadConfig(type=spec.type, outputs=spec.output_count)
        return SearchOptions(
            layers=self.layers,
            seeds=self.seeds,
            learning_rates=(self.recipe.learning_rate,),
            recipe=self.recipe.model_dump(mode="json"),
            student_recipe=self.student_recipe.model_dump(mode="json"),
            head=head.model_dump(mode="json"),
            **{"students": self.students, **more},
        )

    def kept(self, name: str) -> Any:
        """What a part has written; None before."""
        try:
            return json.loads((self.home / "results" / f"{name}.json").read_bytes())
        except FileNotFoundError:
            return None

    def keep(self, name: str, document: Any) -> None:
        write_atomically(self.home / "results" / f"{name}.json", json.dumps(document, indent=1).encode())


# ---------------------------------------------------------------------------------------------------------- unit costs


def measure_units(benchmark: Benchmark, task: str) -> None:
    """Writes `units-TASK`, with one row a repeat, side and shape."""
    found = benchmark.kept(f"units-{task}") or {"setting": None, "seconds": {}, "filling": None}
    files = benchmark.files(task)
    rows = min(benchmark.sample_rows, len(files.train))
    # A stated sample: every n-th row, so that its lengths are those of the whole.
    sample = files.train[:: max(1, len(files.train) // rows)][:rows]
    spec = files.spec(train=sample, dev=files.dev[:rows], called=f"sample{rows}")
    one = benchmark.recipe.model_copy(update={"epochs": 1, "evaluate_from": 1})
    taught = one.model_copy(update={"distillation": Distillation()})
    N = benchmark.backbone_layers  # noqa: N806
    shared = {"folder": benchmark.workshop.folder, "model": benchmark.model, "spec": spec}

    def job(side: Any, layers: int, *, depth: int | None = None, recipe: Recipe = one, **more: Any) -> Job:
        return Job(
            side=side,
            frozen_depth=N - layers if depth is None else depth,
            task_layers=layers,
            recipe=recipe,
            **shared,
            **more,
        )

    middle = benchmark.measured_layers[len(benchmark.measured_layers) // 2]
    with Lanes(benchmark.cores) as lanes:
        if found["setting"] is None:
            threads = sorted({1, benchmark.cores})
            tried = {
                f"{side} {count} {attention}": job(side, middle, threads=count, attention=attention)
                for count in threads
                for side, attention in (("trunkline", "sdpa"), ("trainer", "sdpa"), ("trainer", "eager"))
            }
            times = in_turn(lanes, tried, repeats=2, say=say)
            fastest = {
                side: min(
                    (name for name in times if name.startswith(f"{side} ")),
                    key=lambda name: statistics.median(one.epoch for one in times[name]),
                )
                for side in ("trunkline", "trainer")
            }
            found["setting"] = {
                "rows": len(sample),
                "dev_rows": len(files.dev[:rows]),
                "layers": middle,
                "tried": {name: statistics.median(one.epoch for one in seconds) for name, seconds in times.items()},
                "fastest": fastest,
            }
            benchmark.keep(f"units-{task}", found)
        chosen = {side: name.split() for side, name in found["setting"]["fastest"].items()}
        jobs = {}
        for side, (_, threads_text, attention) in chosen.items():
            how = {"threads": int(threads_text), "attention": attention}
            for layers in benchmark.measured_layers:
                jobs[f"{side} teacher {layers}"] = job(side, layers, **how)
            for layers in benchmark.students:
                jobs[f"{side} student {layers}"] = job(side, layers, depth=N - middle, recipe=taught, **how)
        while (number := len(next(iter(found["seconds"].values()), []))) < benchmark.repeats:
            for name, (seconds,) in in_turn(lanes, jobs, repeats=1, say=say).items():
                found["seconds"].setdefault(name, []).append(seconds)
            say(f"{task}: unit costs, round {number + 1} of {benchmark.repeats}")
            benchmark.keep(f"units-{task}", found)
    if found["filling"] is None:
        deepest = job("trunkline", N - max(N - layers for layers in benchmark.layers), threads=1)
        found["filling"] = filling_seconds(deepest)
        benchmark.keep(f"units-{task}", found)


@dataclass(frozen=True)
class UnitCosts:
    """Seconds a row, as lines over the layers, of one side."""

    epoch: Line
    evaluation: Line
    student_epoch: Line
    student_evaluation: Line

    @classmethod
    def of(cls, document: Mapping[str, Any], side: str) -> "UnitCosts":
        rows, dev_rows = document["setting"]["rows"], document["setting"]["dev_rows"]

        def line(kind: str, which: int, count: int) -> Line:
            points = [
                (int(name.split()[2]), statistics.median(one[which] for one in seconds) / count)
                for name, seconds in document["seconds"].items()
                if name.startswith(f"{side} {kind} ")
            ]
            return fitted_line(points) if points else Line(0.0, 0.0)

        return cls(
            line("teacher", 0, rows), line("teacher", 1, dev_rows), line("student", 0, rows),
            line("student", 1, dev_rows),
        )  # fmt: skip


def times(line: Line, count: float) -> Line:
    return Line(line.fixed * count, line.layer * count)


def trainer_seconds(benchmark: Benchmark, task: str, *, student_epochs: int) -> float | None:
    """The exhaustive protocol by `Trainer`, extrapolated to all rows of a task."""
    document = benchmark.kept(f"units-{task}")
    if document is None or not document["seconds"]:
        return None
    files, costs = benchmark.files(task), UnitCosts.of(document, "trainer")
    rows, dev_rows = len(files.train), len(files.dev)
    return exhaustive_seconds(
        layers=benchmark.layers,
        seeds=benchmark.seeds,
        epochs=benchmark.epochs,
        evaluations=benchmark.epochs - benchmark.recipe.evaluate_from + 1,
        students=benchmark.students,
        student_epochs=student_epochs,
        student_evaluations=student_epochs - -(-3 * student_epochs // 5) + 1,
        epoch=times(costs.epoch, rows),
        evaluation=times(costs.evaluation, dev_rows),
        student_epoch=times(costs.student_epoch, rows),
        student_evaluation=times(costs.student_evaluation, dev_rows),
        teacher_logits=costs.evaluation.at(benchmark.layers[len(benchmark.layers) // 2]) * rows,
    )


def trainer_passes(benchmark: Benchmark, task: str, *, teacher_layers: int) -> float:
    files = benchmark.files(task)
    evaluate_from = benchmark.student_recipe.evaluate_from
    return exhaustive_passes(
        backbone_layers=benchmark.backbone_layers,
        layers=benchmark.layers,
        seeds=benchmark.seeds,
        epochs=benchmark.epochs,
        evaluations=benchmark.epochs - benchmark.recipe.evaluate_from + 1,
        students=benchmark.students,
        student_depth=benchmark.backbone_layers - teacher_layers,
        student_epochs=benchmark.student_epochs,
        student_evaluations=benchmark.student_epochs - evaluate_from + 1,
        dev_share=len(files.dev) / len(files.train),
    )


@dataclass(frozen=True)
class SearchWork:
    """What a search's trials amount to."""

    passes: float
    """Layer passes per training example: steps, evaluations, and what the caches took."""
    seconds: float | None
    """By unit costs; None where there are none."""


def search_work(
    benchmark: Benchmark, task: str, trials: Sequence[Any], *, evaluate_from: int, student_evaluate_from: int
) -> SearchWork:
    """Of the trials of a ledger or of a replay.

    Caches: one forward through the trunk to the deepest layer that a teacher leaves after, the same again for each
    depth of students that goes deeper (the whole way, for it is computed when it is first asked for), and the forward
    of each teacher that was distilled.
    """
    files, document = benchmark.files(task), benchmark.kept(f"units-{task}")
    dev_share = len(files.dev) / len(files.train)
    costs = None if document is None or not document["seconds"] else UnitCosts.of(document, "trunkline")
    passes = seconds = 0.0
    teacher_depth = max(benchmark.backbone_layers - layers for layers in benchmark.layers)
    depths = {teacher_depth}
    for trial in trials:
        if not trial.epochs_done:
            continue
        layers, is_student = trial.shape.task_layers, trial.shape.teacher is not None
        first = student_evaluate_from if is_student else evaluate_from
        scored = max(1, trial.epochs_done - first + 1) + (1 if trial.score is not None else 0)
        passes += trial.layer_passes + scored * dev_share * layers
        if is_student and trial.shape.frozen_depth > teacher_depth:
            depths.add(trial.shape.frozen_depth)
        if costs is not None:
            epoch, evaluation = (
                (costs.student_epoch, costs.student_evaluation) if is_student else (costs.epoch, costs.evaluation)
            )
            seconds += trial.epochs_done * epoch.at(layers) * len(files.train)
            seconds += scored * evaluation.at(layers) * len(files.dev)
    passes += (1 + dev_share) * sum(depths)
    taught = {trial.shape.teacher for trial in trials} - {None}
    finished = {trial.version: trial.shape.task_layers for trial in trials}
    passes += sum(finished.get(teacher, 0) for teacher in taught)
    if costs is not None:
        assert document is not None  # noqa: S101
        filled = document["filling"] / document["setting"]["rows"] * len(files.train)
        seconds += filled * sum(depths) / teacher_depth
    return SearchWork(passes, None if costs is None else seconds)


# ---------------------------------------------------------------------------------------------------- the search, whole


def run_whole(benchmark: Benchmark, task: str) -> None:
    """Writes `whole-TASK`: the command's wall time, over all its starts."""
    files, name = benchmark.files(task), f"whole-{task}"
    found = benchmark.kept(name) or {"seconds": [], "finished": False}
    if found["finished"]:
        return
    spec = files.spec(dev=[files.dev[row] for row in half_rows(files.dev, "a", 0)], called="half0a")
    home = Home(benchmark.home / f"whole-{task}")
    home.register(benchmark.model, [spec])
    command = home.command(
        "search", "run", spec.task,
        "--layers", ",".join(map(str, benchmark.layers)),
        "--seeds", str(benchmark.seeds),
        "--students", ",".join(map(str, benchmark.students)),
        "--epochs", str(benchmark.epochs),
        "--student-epochs", str(benchmark.student_epochs),
        "--workers", str(benchmark.cores),
    )  # fmt: skip
    say(f"{task}: {' '.join(command[4:])}")
    began = time.monotonic()
    found["seconds"].append(0.0)
    with (benchmark.home / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(  # noqa: S603 - our own command
            command,
            stdout=log,
            stderr=log,
            preexec_fn=end_command_with_parent,
        )
        try:
            while process.poll() is None:
                time.sleep(1)
                found["seconds"][-1] = time.monotonic() - began
                benchmark.keep(name, found)  # a kill loses a second of it
        finally:
            process.terminate()
            process.wait()
    found["seconds"][-1] = time.monotonic() - began
    if process.returncode:
        benchmark.keep(name, found)
        raise SystemExit(f"the search of {task} failed; see {log.name}")
    found["finished"] = True
    benchmark.keep(name, found)


def whole_search(benchmark: Benchmark, task: str) -> Search | None:
    """The search of `run_whole` as its ledger has it."""
    file = benchmark.home / f"whole-{task}" / "registry.db"
    if not file.exists():
        return None
    database = Database.open(f"sqlite:///{file}")
    try:
        with database.read() as session:
            found = searches.list_searches(session)
            return searches.get_search(session, found[0].task, found[0].number) if found else None
    finally:
        database.close()


# -------------------------------------------------------------------------------------------------------------- quality


@dataclass(frozen=True)
class Repetition:
    """One choice of the half of dev that selects, and of the seeds that there are."""

    number: int
    selecting: Sequence[int]
    reporting: Sequence[int]
    seeds: Sequence[int]
    """The pool's seed that stands for seed 0, 1, … of the search."""


def repetitions(benchmark: Benchmark, files: TaskFiles) -> Iterator[Repetition]:
    """Half a of split 0 with seeds 0, 1, … first: what `run_whole` runs. Then other splits, other seeds."""
    for number in range(benchmark.repetitions):
        seeds = list(range(benchmark.pool_seeds))
        if number:
            random.Random(number).shuffle(seeds)  # noqa: S311 - an order, not a secret
        yield Repetition(
            number,
            half_rows(files.dev, "a", number),
            half_rows(files.dev, "b", number),
            seeds[: benchmark.seeds],
        )


@dataclass
class Selection:
    """One search in one repetition, replayed on a pool."""

    benchmark: Benchmark
    pool: TrialPool
    gold: Sequence[Any]
    repetition: Repetition

    def __post_init__(self) -> None:
        self.versions: dict[tuple[PooledTrial, int], int] = {}

    def metric(self, gold: Sequence[Any], predicted: Sequence[Any]) -> float:
        return score(self.pool.spec, gold, predicted)[self.pool.spec.metric]

    def pooled(self, shape: TrialShape) -> PooledTrial:
        taught = None
        if shape.teacher is not None:
            teacher, epoch = self.version(shape.teacher)
            taught = Taught(teacher.name, epoch)
        return PooledTrial(
            shape.frozen_depth,
            shape.task_layers,
            shape.learning_rate,
            self.repetition.seeds[shape.seed],
            taught,
        )

    def version(self, number: int) -> tuple[PooledTrial, int]:
        return next(one for one, version in self.versions.items() if version == number)

    def look(self, run: Run) -> dict[int, float] | None:
        pooled = self.pooled(run.shape)
        if not self.pool.has_reached(pooled, run.until_epoch):
            return None
        kept = self.pool.kept(pooled)
        assert kept is not None  # noqa: S101 - it has reached an epoch
        rows = self.repetition.selecting
        return {
            epoch: self.metric([self.gold[row] for row in rows], [answers[row] for row in rows])
            for epoch, answers in kept.answers.items()
            if epoch <= run.until_epoch
        }

    def replay(self, options: SearchOptions) -> Replayed:
        return replay(
            options,
            self.benchmark.backbone_layers,
            look=self.look,
            name=lambda shape, epoch: self.versions.setdefault((self.pooled(shape), epoch), len(self.versions) + 1),
            first_piece_only=self.pool.head.reading == "first",
        )

    def default(self) -> Replayed:
        return self.replay(self.benchmark.options(self.pool.spec, strategy="halving", rule="parsimonious"))

    def exhaustive(self) -> Replayed:
        """As the paper: every run to the end, the maximum, students where the teacher leaves."""
        how: dict[str, Any] = {"strategy": "exhaustive", "rule": "best"}
        teachers = self.replay(self.benchmark.options(self.pool.spec, students=(), **how))
        if teachers.choice is None:
            return teachers
        depth = self.benchmark.backbone_layers - teachers.choice.layers
        return self.replay(self.benchmark.options(self.pool.spec, student_depths=(depth,), **how))

    def predictions(self, number: int) -> list[Any]:
        """Of a version, on the rows that report."""
        pooled, epoch = self.version(number)
        kept = self.pool.kept(pooled)
        assert kept is not None  # noqa: S101 - it was chosen
        return [kept.answers[epoch][row] for row in self.repetition.reporting]


def quality_pool(benchmark: Benchmark, task: str) -> TrialPool:
    rungs = [
        rung.until_epoch
        for rung in teacher_rungs(len(benchmark.layers), seeds=benchmark.seeds, epochs=benchmark.epochs)
    ]
    student = [rung.until_epoch for rung in student_rungs(3, seeds=benchmark.seeds, epochs=benchmark.student_epochs)]
    N = benchmark.backbone_layers  # noqa: N806
    return TrialPool(
        folder=benchmark.workshop.folder,
        spec=benchmark.files(task).spec(),
        recipe=benchmark.recipe,
        student_recipe=benchmark.student_recipe,
        teacher_depths=tuple(sorted(N - layers for layers in benchmark.layers)),
        epochs=tuple(scored_epochs(benchmark.epochs, benchmark.recipe.evaluate_from, rungs)),
        student_epochs=tuple(scored_epochs(benchmark.student_epochs, benchmark.student_recipe.evaluate_from, student)),
    )


def run_quality(benchmark: Benchmark, task: str) -> None:
    """Trains what the repetitions' replays ask for until all of them have chosen; writes `quality-TASK`."""
    files, pool = benchmark.files(task), quality_pool(benchmark, task)
    gold = [example.target for example in load_dataset(pool.spec, "dev").examples]
    selections = [Selection(benchmark, pool, gold, one) for one in repetitions(benchmark, files)]
    while True:
        wanted, found = [], []
        for selection in selections:
            both = selection.default(), selection.exhaustive()
            wanted += [
                (selection.pooled(run.shape), _to_the_end(benchmark, run)) for one in both for run in one.missing
            ]
            found.append(both)
        if not wanted:
            break
        say(f"{task}: {len(set(wanted))} trials are to be run")
        pool.train(wanted, processes=benchmark.cores, say=say)
    benchmark.keep(f"quality-{task}", _quality(benchmark, task, selections, found))


def _to_the_end(benchmark: Benchmark, run: Run) -> int:
    """Teachers are run to the end at once: the exhaustive protocol asks for it anyway."""
    return run.until_epoch if run.shape.teacher is not None else benchmark.epochs


def _quality(
    benchmark: Benchmark, task: str, selections: Sequence[Selection], found: Sequence[tuple[Replayed, Replayed]]
) -> dict[str, Any]:
    """Per repetition what was chosen and how it scores on the other half; and the ratios over all."""
    rows, pairs = [], {}
    metric = selections[0].metric
    gold = selections[0].gold
    for selection, both in zip(selections, found, strict=True):
        sides = {}
        for side, replayed in zip(("default", "exhaustive"), both, strict=True):
            choice = replayed.choice
            assert choice is not None  # noqa: S101 - nothing is missing
            chosen = {"teacher": choice.teacher, **{f"l={layers}": one for layers, one in choice.students.items()}}
            work = search_work(
                benchmark, task, replayed.trials, evaluate_from=benchmark.recipe.evaluate_from,
                student_evaluate_from=benchmark.student_recipe.evaluate_from,
            )  # fmt: skip
            truth = [gold[row] for row in selection.repetition.reporting]
            sides[side] = {
                "L": choice.layers,
                "modules": {name: selection.version(number)[0].name for name, number in chosen.items()},
                "scores": {name: metric(truth, selection.predictions(number)) for name, number in chosen.items()},
                "passes": work.passes,
            }
            for name, number in chosen.items():
                pairs.setdefault(name, {}).setdefault(selection.repetition.number, {})[side] = selection.predictions(
                    number
                )
        rows.append({"repetition": selection.repetition.number, "seeds": list(selection.repetition.seeds), **sides})
    ratios = {}
    for name, by_repetition in pairs.items():
        matched = [
            Pair(selections[number].repetition.reporting, both["default"], both["exhaustive"])
            for number, both in by_repetition.items()
            if len(both) == 2
        ]
        if matched:
            ratios[name] = {"of": len(matched), "interval": ratio_of_means(matched, gold, metric)}
    return {"repetitions": rows, "ratios": ratios}


# -------------------------------------------------------------------------------------------------- whole Trainer runs


def run_trainer(benchmark: Benchmark, task: str, count: int) -> None:
    """Some whole teachers by `Trainer`, in the setting that unit costs found the fastest; writes `trainer-TASK`."""
    units = benchmark.kept(f"units-{task}")
    if units is None or units["setting"] is None:
        raise SystemExit("the part trainer needs the part units first")
    _, threads, attention = units["setting"]["fastest"]["trainer"].split()
    lanes = benchmark.cores if threads == "1" else 1
    shapes = [(L, seed) for seed in range(benchmark.seeds) for L in benchmark.measured_layers][:count]
    found = benchmark.kept(f"trainer-{task}") or []
    done = {(one["layers"], one["seed"]) for one in found}
    left = [shape for shape in shapes if shape not in done]
    for first in range(0, len(left), lanes):
        running = [
            (shape, _start_trainer(benchmark, task, *shape, threads=threads, attention=attention))
            for shape in left[first : first + lanes]
        ]
        for (layers, seed), process in running:
            out, error = process.communicate()
            if process.returncode:
                raise SystemExit(f"Trainer failed: {error}")
            document = json.loads(out.splitlines()[-1])
            found.append(document | {"layers": layers, "seed": seed, "lanes": len(running)})
            say(f"{task}: Trainer L={layers} seed {seed}: {document['total_seconds']:.0f} s, {document['metrics']}")
        benchmark.keep(f"trainer-{task}", found)


def _start_trainer(
    benchmark: Benchmark, task: str, layers: int, seed: int, *, threads: str, attention: str
) -> "subprocess.Popen[str]":
    script = Path(__file__).with_name("trainer_baseline.py")
    command = [
        sys.executable, str(script), "--model", str(benchmark.model), "--data", str(benchmark.data), "--task", task,
        "--frozen", str(benchmark.backbone_layers - layers), "--seed", str(seed), "--epochs", str(benchmark.epochs),
        "--threads", threads, "--attention", attention,
    ]  # fmt: skip
    if benchmark.limit_rows:
        command += ["--limit-rows", str(benchmark.limit_rows)]
    return subprocess.Popen(  # noqa: S603 - our own command
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=end_command_with_parent
    )


# --------------------------------------------------------------------------------------------------------------- report


def report(benchmark: Benchmark, tasks: Sequence[str], *, markdown: bool) -> None:
    for task in tasks:
        for table in (_unit_table(benchmark, task), _time_table(benchmark, task, whole=task == tasks[0])):
            show(table, markdown=markdown)
        for table in _quality_tables(benchmark, task):
            show(table, markdown=markdown)
        show(_trainer_table(benchmark, task), markdown=markdown)


def _unit_table(benchmark: Benchmark, task: str) -> Table | None:
    document = benchmark.kept(f"units-{task}")
    if document is None or not document["seconds"]:
        return None
    setting = document["setting"]
    table = Table(
        "shape", "Trainer: epoch", "evaluation", "Trunkline: epoch", "evaluation", "epoch ratio (range)",
        title=f"{task}: seconds, median of rounds in turn, {setting['rows']} training and {setting['dev_rows']} dev "
        f"rows; {setting['fastest']['trainer']} against {setting['fastest']['trunkline']} (threads, attention)",
    )  # fmt: skip
    for name, ours in document["seconds"].items():
        side, kind, layers = name.split()
        if side != "trunkline":
            continue
        theirs = document["seconds"][f"trainer {kind} {layers}"]
        ratios = [one[0] / other[0] for one, other in zip(theirs, ours, strict=True)]
        table.add_row(
            f"{kind} {'L' if kind == 'teacher' else 'l'} = {layers}",
            *(f"{statistics.median(one[which] for one in of):.2f}" for of in (theirs, ours) for which in (0, 1)),
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
        )
    tried = ", ".join(f"{name}: {seconds:.2f}" for name, seconds in setting["tried"].items())
    table.caption = (
        f"tried at L = {setting['layers']} (threads, attention: seconds an epoch): {tried}; filling the cache: "
        f"{document['filling'] or math.nan:.1f} s"
    )
    return table


def _time_table(benchmark: Benchmark, task: str, *, whole: bool) -> Table | None:
    theirs = trainer_seconds(benchmark, task, student_epochs=benchmark.student_epochs)
    if theirs is None:
        return None
    table = Table("protocol", "seconds", "layer passes an example", "time ratio", title=f"{task}: cost")
    middle = benchmark.layers[len(benchmark.layers) // 2]
    passes = trainer_passes(benchmark, task, teacher_layers=middle)
    table.add_row(
        f"exhaustive, Trainer: extrapolated from unit costs (students at k = {benchmark.backbone_layers - middle})",
        f"{theirs:,.0f}", f"{passes:,.0f}", "1",
    )  # fmt: skip
    fewer = trainer_seconds(benchmark, task, student_epochs=benchmark.epochs)
    assert fewer is not None  # noqa: S101 - as above
    table.add_row(f"the same with {benchmark.epochs} epochs a student", f"{fewer:,.0f}", "", f"{fewer / theirs:.3f}")
    search = whole_search(benchmark, task) if whole else None
    clock = benchmark.kept(f"whole-{task}")
    if search is not None and clock is not None:
        work = search_work(
            benchmark, task, search.trials, evaluate_from=benchmark.recipe.evaluate_from,
            student_evaluate_from=benchmark.student_recipe.evaluate_from,
        )  # fmt: skip
        spent = sum(clock["seconds"])
        state = "measured" if clock["finished"] else "measured so far, not finished"
        starts = len(clock["seconds"])
        table.add_row(
            f"default search: wall time, {state} ({starts} start{'s' if starts > 1 else ''})",
            f"{spent:,.0f}", f"{work.passes:,.0f}", f"{spent / theirs:.3f} ({spent / fewer:.3f} of the second)",
        )  # fmt: skip
        trial_seconds = sum(trial.seconds for trial in search.trials)
        table.add_row(
            f"  of that: {len(search.trials)} trials in {benchmark.cores} processes, each one's own seconds summed",
            f"{trial_seconds:,.0f}", f"{sum(trial.layer_passes for trial in search.trials):,.0f} in steps", "",
        )  # fmt: skip
        if work.seconds is not None:
            table.add_row("  the same by unit costs", f"{work.seconds:,.0f}", "", f"{work.seconds / theirs:.3f}")
    low, high = _extrapolated_search(benchmark, task)
    if low.seconds is not None and high.seconds is not None:
        table.add_row(
            "default search: extrapolated from unit costs, cheapest and dearest L to win",
            f"{low.seconds:,.0f}-{high.seconds:,.0f}", f"{low.passes:,.0f}-{high.passes:,.0f}",
            f"{low.seconds / theirs:.3f}-{high.seconds / theirs:.3f}",
        )  # fmt: skip
    return table


def _extrapolated_search(benchmark: Benchmark, task: str) -> tuple[SearchWork, SearchWork]:
    spec = benchmark.files(task).spec()
    works = [
        search_work(
            benchmark,
            task,
            peaked_search(
                benchmark.options(spec), benchmark.backbone_layers, peak=peak,
                first_piece_only=HeadConfig(type=spec.type, outputs=spec.output_count).reading == "first",
            ),
            evaluate_from=benchmark.recipe.evaluate_from,
            student_evaluate_from=benchmark.student_recipe.evaluate_from,
        )
        for peak in benchmark.layers
    ]  # fmt: skip
    works.sort(key=lambda work: work.passes)
    return works[0], works[-1]


def _quality_tables(benchmark: Benchmark, task: str) -> Iterator[Table]:
    document = benchmark.kept(f"quality-{task}")
    if document is None:
        return
    table = Table(
        "chosen", "default / exhaustive", "95 % interval", "repetitions",
        title=f"{task}: quality of what was chosen on one half of dev, on the other half; ratio of means",
    )  # fmt: skip
    for name, found in document["ratios"].items():
        value, low, high = found["interval"]
        reaches = "reaches" if high >= 0.995 else "stays below"
        table.add_row(name, f"{value:.4f}", f"{low:.4f}-{high:.4f}, {reaches} 0.995", str(found["of"]))
    yield table
    table = Table(
        "repetition", "search", "L", "passes", "one run each, on the other half", title=f"{task}: repetitions"
    )
    for row in document["repetitions"]:
        for side in ("default", "exhaustive"):
            one = row[side]
            scores = ", ".join(f"{name} {100 * value:.2f}" for name, value in one["scores"].items())
            table.add_row(str(row["repetition"]), side, str(one["L"]), f"{one['passes']:,.0f}", scores)
    yield table


def _trainer_table(benchmark: Benchmark, task: str) -> Table | None:
    found, document = benchmark.kept(f"trainer-{task}"), benchmark.kept(f"units-{task}")
    if not found or document is None or not document["seconds"]:
        return None
    files, costs = benchmark.files(task), UnitCosts.of(document, "trainer")
    scored = benchmark.epochs - benchmark.recipe.evaluate_from + 1
    table = Table("run", "seconds", "by unit costs", "ratio", "metric, best epoch", title=f"{task}: whole Trainer runs")
    for one in found:
        spent = one["total_seconds"] / one["lanes"]
        expected = benchmark.epochs * costs.epoch.at(one["layers"]) * len(files.train)
        expected += scored * costs.evaluation.at(one["layers"]) * len(files.dev)
        best = max(of["dev"] for of in one["metrics"].values())
        table.add_row(
            f"L = {one['layers']}, seed {one['seed']}", f"{spent:.1f}", f"{expected:.1f}", f"{spent / expected:.2f}",
            f"{100 * best:.2f}, one run",
        )  # fmt: skip
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of a BERT encoder")
    parser.add_argument("--data", type=Path, required=True, help="folder with one folder a task")
    parser.add_argument("--home", type=Path, required=True, help="kept: the same command again goes on")
    parser.add_argument("--tasks", default="trec", help="the first one is searched whole")
    parser.add_argument("--parts", default="units,whole,quality", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--layers", type=number_list, default=number_list("4-10"))
    parser.add_argument("--measured-layers", type=number_list, default=number_list("4,7,10"), help="of unit costs")
    parser.add_argument("--students", type=number_list, default=number_list("1-3"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--pool-seeds", type=int, default=10, help="trained in all, of which a repetition takes --seeds"
    )
    parser.add_argument("--repetitions", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--student-epochs", type=int, default=10)
    parser.add_argument("--sample-rows", type=int, default=1600, help="of unit costs")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of unit costs")
    parser.add_argument("--limit-rows", type=int, help="of train and of dev, for trying it out")
    parser.add_argument("--trainer-runs", type=int, default=4)
    parser.add_argument("--report", action="store_true", help="run nothing, print what is there")
    parser.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()
    tasks = task_names(arguments.tasks)
    parts = [part.strip() for part in arguments.parts.split(",")]
    if unknown := sorted(set(parts) - set(PARTS)):
        raise SystemExit(f"unknown parts {', '.join(unknown)}: choose from {', '.join(PARTS)}")
    names = ("model", "data", "layers", "measured_layers", "students", "seeds", "pool_seeds", "repetitions", "epochs",
             "student_epochs", "sample_rows", "repeats", "limit_rows")  # fmt: skip
    benchmark = Benchmark(
        home=arguments.home.resolve(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        **{name: getattr(arguments, name) for name in names},
    )
    end_on_request()
    if not arguments.report:
        work: dict[str, Callable[[], None]] = {
            "units": lambda: [measure_units(benchmark, task) for task in tasks] and None,
            "whole": lambda: run_whole(benchmark, tasks[0]),
            "quality": lambda: run_quality(benchmark, tasks[0]),
            "trainer": lambda: run_trainer(benchmark, tasks[0], arguments.trainer_runs),
        }
        for part in PARTS:
            if part in parts:
                work[part]()
    report(benchmark, tasks, markdown=arguments.markdown)


if __name__ == "__main__":
    main()
