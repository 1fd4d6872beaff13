"""The paper's tables over any set of tasks: metric by L (table 1), and what the modules of all tasks cost together
(table 2), beside branches at free depth of the same layer count.

    .venv/bin/python benchmarks/glue.py --model FOLDER --data FOLDER --home FOLDER --tasks rte,mrpc,cola,stsb

All training is `trunkline search` in the home, exhaustive, so that every cell of the tables is run to its end; the same
command goes on where it was interrupted. `--report` prints whatever is finished; rows that need more say so. `--parts`:

teachers  Every L of --layers, seeds 0, 1, ….
students  Of the best L within --teacher-layers: every l at its teacher's own depth and at every depth above.
full      Full fine-tuning by transformers' `Trainer`, embeddings and all layers: a baseline, not a version.

A module is chosen, and its figure reported, by one statistic of its runs: the paper's maximum, or their mean. With
--half-dev the tasks are registered with one half of dev, which chooses everything, and every figure is of the other
half; otherwise, as in the paper, one dev set does both, and a row with more to choose from profits from it. Metrics:
accuracy, F1 for mrpc, Matthews for cola, Spearman for stsb; all × 100.
"""

import argparse
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from benchmark_tasks import TASKS, Home, TaskFiles, end_command_with_parent, end_on_request, half_rows, task_names
from printed_tables import number_list, say, show
from rich.table import Table

from modeling.backbone import load_text_encoder, load_trunk
from modeling.task_module import load_task_module
from pipelines.data.dataset import load_dataset
from pipelines.planning import Candidate, plan_by_budget, plan_by_gain, plan_of
from pipelines.training.activation_cache import ActivationCache
from pipelines.training.evaluation import DevEvaluation
from registry.artifacts.atomic_file import write_atomically
from registry.artifacts.local_store import LocalArtifactStore
from registry.database.engine import Database
from registry.domain.records import Backbone, Version
from registry.domain.references import VersionReference
from registry.domain.searches import LedgerTrial, TrialState
from registry.domain.task_specs import TaskSpec
from registry.errors import NothingFits
from registry.services import backbones, searches, versions

PARTS = ("teachers", "students", "full")
SPLIT_SEED = 0
CPU = torch.device("cpu")
STATISTICS: Mapping[str, Callable[[Sequence[float]], float]] = {"max": max, "mean": fmean}


class Score(NamedTuple):
    """Of one finished run, in points."""

    chosen_by: float
    """On the rows that choose."""
    reported: float
    """On the rows that figures are of; with one dev set the same."""


class Cell(NamedTuple):
    """All runs of one shape."""

    frozen_depth: int
    layers: int
    scores: tuple[Score, ...]

    def chosen_by(self, statistic: str) -> float:
        return STATISTICS[statistic]([score.chosen_by for score in self.scores])

    def reported(self, statistic: str) -> float:
        """The mean of all runs; of the maximum, the run that it chose."""
        if statistic == "max":
            return max(self.scores).reported
        return fmean(score.reported for score in self.scores)

    def branch(self, statistic: str) -> Candidate:
        return Candidate(self.frozen_depth, self.layers, self.chosen_by(statistic))


@dataclass(frozen=True)
class TaskCells:
    """What is finished of one task."""

    teachers: Mapping[int, Cell]
    """By L."""
    taught: Mapping[int, Mapping[tuple[int, int], Cell]]
    """L of the teacher -> (k', l) -> students."""
    full: Cell | None

    def best_teacher(self, statistic: str, within: Sequence[int]) -> Cell | None:
        """Of equals the one with fewer layers."""
        found = [self.teachers[layers] for layers in sorted(within) if layers in self.teachers]
        return max(found, key=lambda cell: cell.chosen_by(statistic), default=None)


class Chosen(NamedTuple):
    """One row of table 2."""

    name: str
    branches: Mapping[str, Candidate]
    """Task -> branch, its value as chosen by."""
    reported: Mapping[str, float]
    count: int


@dataclass(frozen=True)
class Benchmark:
    home: Home
    model: Path
    data: Path
    tasks: tuple[str, ...]
    layers: tuple[int, ...]
    teacher_layers: tuple[int, ...]
    students: tuple[int, ...]
    student_depths: tuple[int, ...]
    seeds: int
    epochs: int
    student_epochs: int
    full_seeds: int
    half_dev: bool
    limit_rows: int | None
    cores: int

    def files(self, task: str) -> TaskFiles:
        return TaskFiles.read(task, self.data, self.home.folder / "data", limit_rows=self.limit_rows)

    def spec(self, task: str) -> TaskSpec:
        files = self.files(task)
        if not self.half_dev:
            return files.spec()
        return files.spec(dev=[files.dev[row] for row in half_rows(files.dev, "a", SPLIT_SEED)], called="halfa")

    @cached_property
    def backbone_layers(self) -> int:
        return int(json.loads((self.model / "config.json").read_bytes())["num_hidden_layers"])


# ------------------------------------------------------------------------------------------------------------------ run


def run_teachers(benchmark: Benchmark, task: str) -> None:
    _search(benchmark, task, layers=benchmark.layers, students=())


def run_students(benchmark: Benchmark, task: str) -> None:
    """The search trains nothing anew of the teachers that `run_teachers` ran, and distils the best of them."""
    _search(benchmark, task, layers=benchmark.teacher_layers, students=benchmark.students)


def _search(benchmark: Benchmark, task: str, *, layers: Sequence[int], students: Sequence[int]) -> None:
    command = benchmark.home.command(
        "search", "run", benchmark.spec(task).task,
        "--strategy", "exhaustive",
        "--rule", "best",
        "--layers", ",".join(map(str, layers)),
        "--seeds", str(benchmark.seeds),
        "--students", ",".join(map(str, students)) or "none",
        *(("--student-depths", ",".join(map(str, benchmark.student_depths))) if students else ()),
        "--epochs", str(benchmark.epochs),
        "--student-epochs", str(benchmark.student_epochs),
        "--workers", str(benchmark.cores),
        "--json",
    )  # fmt: skip
    say(f"{task}: {' '.join(command[4:])}")
    with (benchmark.home.folder / f"{task}.log").open("ab") as log:
        done = subprocess.run(  # noqa: S603 - our own command
            command, stdout=log, stderr=log, check=False, preexec_fn=end_command_with_parent
        )
        if done.returncode:
            raise SystemExit(f"the search of {task} failed; see {log.name}")


def run_full(benchmark: Benchmark, task: str) -> None:
    """One file a seed; as many at once, on one thread each, as there are cores."""
    left = [seed for seed in range(benchmark.full_seeds) if not _full_file(benchmark, task, seed).exists()]
    for first in range(0, len(left), benchmark.cores):
        running = [_start_full(benchmark, task, seed) for seed in left[first : first + benchmark.cores]]
        for process in running:
            _, error = process.communicate()
            if process.returncode:
                raise SystemExit(f"full fine-tuning of {task} failed: {error}")
        say(f"{task}: full fine-tuning, {first + len(running)} of {len(left)} runs")


def _full_file(benchmark: Benchmark, task: str, seed: int) -> Path:
    name = benchmark.files(task).folder.name
    return benchmark.home.folder / "full" / f"{name}-{benchmark.epochs}-epochs-{seed}.json"


def _start_full(benchmark: Benchmark, task: str, seed: int) -> "subprocess.Popen[str]":
    script = Path(__file__).with_name("trainer_baseline.py")
    command = [
        sys.executable, str(script), "--model", str(benchmark.model), "--data", str(benchmark.data), "--task", task,
        "--frozen", "none", "--seed", str(seed), "--epochs", str(benchmark.epochs), "--threads", "1",
        "--split-seed", str(SPLIT_SEED), "--out", str(_full_file(benchmark, task, seed)),
    ]  # fmt: skip
    if benchmark.limit_rows:
        command += ["--limit-rows", str(benchmark.limit_rows)]
    return subprocess.Popen(  # noqa: S603 - our own command
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=end_command_with_parent
    )


# ----------------------------------------------------------------------------------------------------------------- read


def read_cells(benchmark: Benchmark, task: str) -> TaskCells:
    """Everything that is finished, from the ledgers of all searches of the task."""
    trials = finished_trials(benchmark, benchmark.spec(task).task)
    other_half = _other_half(benchmark, task, trials) if benchmark.half_dev else {}

    def score_of(trial: LedgerTrial) -> Score:
        assert trial.score is not None  # noqa: S101 - it is finished
        assert trial.version is not None  # noqa: S101
        value = 100 * trial.score
        return Score(value, 100 * other_half[trial.version] if benchmark.half_dev else value)

    teachers: dict[int, list[Score]] = defaultdict(list)
    students: dict[tuple[int, int, int], list[Score]] = defaultdict(list)
    layers_of: dict[int, int] = {}
    for trial in trials:
        shape = trial.shape
        if shape.teacher is None and trial.version is not None:
            teachers[shape.task_layers].append(score_of(trial))
            layers_of[trial.version] = shape.task_layers
    for trial in trials:
        shape = trial.shape
        if shape.teacher is not None and shape.teacher in layers_of:
            students[layers_of[shape.teacher], shape.frozen_depth, shape.task_layers].append(score_of(trial))
    taught: dict[int, dict[tuple[int, int], Cell]] = defaultdict(dict)
    for (layers, depth, few), scores in students.items():
        taught[layers][depth, few] = Cell(depth, few, tuple(scores))
    N = benchmark.backbone_layers  # noqa: N806
    return TaskCells(
        {layers: Cell(N - layers, layers, tuple(scores)) for layers, scores in teachers.items()},
        taught,
        _full_cell(benchmark, task),
    )


def finished_trials(benchmark: Benchmark, task: str) -> list[LedgerTrial]:
    """Those of all searches, each once, with the recipe that this benchmark was started with."""
    found: dict[str, LedgerTrial] = {}
    with _session(benchmark) as session:
        if session is None:
            return []
        for search in searches.list_searches(session, task):
            options = search.options
            if (options.recipe["epochs"], options.student_recipe["epochs"]) != (
                benchmark.epochs,
                benchmark.student_epochs,
            ):
                continue
            for trial in searches.get_search(session, task, search.number).trials:
                if trial.state is TrialState.FINISHED and trial.shape.seed < benchmark.seeds:
                    found[trial.key] = trial
    return list(found.values())


class _session:  # noqa: N801 - used as a context
    """A read session of the home's registry; None where there is no registry yet."""

    def __init__(self, benchmark: Benchmark) -> None:
        self._file = benchmark.home.folder / "registry.db"

    def __enter__(self) -> Any:
        self._database = Database.open(f"sqlite:///{self._file}") if self._file.exists() else None
        self._read = None if self._database is None else self._database.read()
        return None if self._read is None else self._read.__enter__()

    def __exit__(self, *error: Any) -> None:
        if self._read is not None and self._database is not None:
            self._read.__exit__(*error)
            self._database.close()


def _other_half(benchmark: Benchmark, task: str, trials: Sequence[LedgerTrial]) -> dict[int, float]:
    """Version -> the task's metric on the half that chose nothing; kept, because computing it takes a while."""
    spec, file = benchmark.spec(task), benchmark.home.folder / "other-half" / f"{benchmark.spec(task).task}.json"
    known = {int(number): value for number, value in json.loads(file.read_bytes()).items()} if file.exists() else {}
    wanted = [trial.version for trial in trials if trial.version is not None and trial.version not in known]
    if wanted:
        with _session(benchmark) as session:
            found = [
                versions.get_version(session, VersionReference(task=spec.task, number=number)) for number in wanted
            ]
            backbone = backbones.get_backbone(session, found[0].backbone)
        files = benchmark.files(task)
        rows = half_rows(files.dev, "b", SPLIT_SEED)
        held_out = files.spec(dev=[files.dev[row] for row in rows], called="halfb")
        for version, value in scores_of(benchmark.home, backbone, held_out, found):
            known[version.number] = value
            write_atomically(file, json.dumps(known).encode())
    return known


def scores_of(home: Home, backbone: Backbone, spec: TaskSpec, of: Sequence[Version]) -> Iterator[tuple[Version, float]]:
    """The metric of versions on the dev data of a spec that they were not registered with, in fp32."""
    store = LocalArtifactStore(home.folder / "artifacts")
    trunk = load_trunk(config=backbone.config, embeddings=backbone.embeddings, layers=backbone.layers, store=store)
    cache = ActivationCache(
        home.folder / "cache",
        trunk,
        load_text_encoder(backbone, store),
        backbone.prefix_digests,
        CPU,
        lambda *_: None,
        depths=tuple(sorted({version.frozen_depth for version in of})),
    )
    dev = load_dataset(spec, "dev")
    for version in of:
        module = load_task_module(
            store.fetch(version.module),
            subject=str(version.reference),
            config=backbone.config,
            head=version.head,
            task_layers=version.task_layers,
        )
        evaluation = DevEvaluation.of(spec, dev, cache, depth=version.frozen_depth)
        yield version, evaluation.score(module, precision="fp32")[spec.metric]


def _full_cell(benchmark: Benchmark, task: str) -> Cell | None:
    chooses, reports = ("a", "b") if benchmark.half_dev else ("dev", "dev")
    scores = []
    for seed in range(benchmark.full_seeds):
        file = _full_file(benchmark, task, seed)
        if file.exists():
            epochs = json.loads(file.read_bytes())["metrics"].values()
            best = max(epochs, key=lambda found: found[chooses])
            scores.append(Score(100 * best[chooses], 100 * best[reports]))
    return Cell(0, benchmark.backbone_layers, tuple(scores)) if scores else None


# --------------------------------------------------------------------------------------------------------------- tables


def table_2(benchmark: Benchmark, cells: Mapping[str, TaskCells], statistic: str) -> Iterator[Chosen | str]:
    """Its rows; in place of one that cannot be made yet, what is missing."""
    full = {task: of.full for task, of in cells.items()}
    if missing := [task for task, cell in full.items() if cell is None]:
        yield f"full fine-tuning: not run of {', '.join(missing)}"
    else:
        yield _row("full fine-tuning", {task: cell for task, cell in full.items() if cell is not None}, statistic,
                   count=benchmark.backbone_layers * len(cells))  # fmt: skip
    teachers = {task: of.best_teacher(statistic, benchmark.teacher_layers) for task, of in cells.items()}
    if missing := [task for task, cell in teachers.items() if cell is None]:
        yield f"without KD, and every row below: no teacher finished of {', '.join(missing)}"
        return
    best = {task: cell for task, cell in teachers.items() if cell is not None}
    yield _row("without KD", best, statistic)
    distilled = {task: distilled_cells(cells[task], best[task]) for task in cells}
    for few in benchmark.students:
        row = {task: of.get((_taught_depth(of, best[task]), few)) for task, of in distilled.items()}
        if missing := [task for task, cell in row.items() if cell is None]:
            yield f"KD-{few}: not run of {', '.join(missing)}"
            continue
        paper = _row(f"KD-{few}", {task: cell for task, cell in row.items() if cell is not None}, statistic)
        yield paper
        yield from _free(distilled, paper, statistic)
    if all(any(depth == best[task].frozen_depth for depth, _ in of) for task, of in distilled.items()):
        for least in (1.0, 2.0, 3.0):
            mixed = {
                task: _mixed([*(c for (k, _), c in of.items() if k == _taught_depth(of, best[task])), best[task]],
                             statistic, least)
                for task, of in distilled.items()
            }  # fmt: skip
            row = _row(f"mixed (c = {least:g})", mixed, statistic)
            yield row
            yield from _free(
                {
                    task: {**of, (best[task].frozen_depth, best[task].layers): best[task]}
                    for task, of in distilled.items()
                },
                row, statistic, note=" with teachers",
            )  # fmt: skip


def distilled_cells(cells: TaskCells, best: Cell) -> Mapping[tuple[int, int], Cell]:
    """(k', l) -> students of the teachers with as many layers as the best one.

    The statistic can choose another L than the search did, whose rule is the maximum: then the students there are are
    those of the search's own teacher.
    """
    if best.layers in cells.taught:
        return cells.taught[best.layers]
    return max(cells.taught.values(), key=len, default={})


def _taught_depth(distilled: Mapping[tuple[int, int], Cell], best: Cell) -> int:
    """The teacher's depth: the lowest that its students have, where they are another teacher's than the best one."""
    depths = {depth for depth, _ in distilled}
    return best.frozen_depth if best.frozen_depth in depths or not depths else min(depths)


def _mixed(cells: Sequence[Cell], statistic: str, least: float) -> Cell:
    by_branch = {cell.branch(statistic): cell for cell in cells}
    return by_branch[plan_by_gain({"": list(by_branch)}, least_gain=least).selection[""]]


def _free(
    distilled: Mapping[str, Mapping[tuple[int, int], Cell]], paper: Chosen, statistic: str, note: str = ""
) -> Iterator[Chosen]:
    """The best choice of any depth at the layer count of a row."""
    options = {task: {cell.branch(statistic): cell for cell in of.values()} for task, of in distilled.items()}
    with suppress(NothingFits):
        plan = plan_by_budget({task: list(of) for task, of in options.items()}, budget=paper.count)
        name = f"  free depth{note}, {paper.count} layers"
        yield _row(name, {task: options[task][branch] for task, branch in plan.selection.items()}, statistic)


def _row(name: str, cells: Mapping[str, Cell], statistic: str, count: int | None = None) -> Chosen:
    branches = {task: cell.branch(statistic) for task, cell in cells.items()}
    reported = {task: cell.reported(statistic) for task, cell in cells.items()}
    return Chosen(name, branches, reported, plan_of(branches).layer_count if count is None else count)


def report(benchmark: Benchmark, *, markdown: bool) -> None:
    cells = {task: read_cells(benchmark, task) for task in benchmark.tasks}
    rows = "chosen on half a of dev, figures of half b" if benchmark.half_dev else "chosen and reported on the same dev"
    for statistic in STATISTICS:
        show(_table_1(benchmark, cells, statistic, rows), markdown=markdown)
        show(_table_2(benchmark, cells, statistic, rows), markdown=markdown)
    for task in benchmark.tasks:
        show(_student_table(benchmark, task, cells[task], rows), markdown=markdown)


def _table_1(benchmark: Benchmark, cells: Mapping[str, TaskCells], statistic: str, rows: str) -> Table:
    table = Table("L", *(f"{task} ({TASKS[task].metric})" for task in cells))
    table.title = f"Table 1, metric by L: {statistic} of the runs in brackets; {rows}"
    for layers in benchmark.layers:
        found = [of.teachers.get(layers) for of in cells.values()]
        if any(found):
            table.add_row(
                str(layers),
                *(f"{cell.reported(statistic):.1f} ({len(cell.scores)})" if cell else "" for cell in found),
            )
    return table


def _table_2(benchmark: Benchmark, cells: Mapping[str, TaskCells], statistic: str, rows: str) -> Table:
    table = Table("", *cells, "average", "layers", "count")
    seeds = f"{statistic} of up to {benchmark.seeds} seeds"
    table.title = f"Table 2: {seeds}, full fine-tuning of up to {benchmark.full_seeds}; (k, l); {rows}"
    missing = []
    for row in table_2(benchmark, cells, statistic):
        if isinstance(row, str):
            missing.append(row)
            continue
        tied = [row.branches[task] for task in cells]
        trunk = max(branch.frozen_depth for branch in tied)
        table.add_row(
            row.name,
            *(f"{row.reported[t]:.1f} ({row.branches[t].frozen_depth},{row.branches[t].task_layers})" for t in cells),
            f"{fmean(row.reported[task] for task in cells):.2f}",
            f"{trunk} + {sum(branch.task_layers for branch in tied)}"
            if trunk
            else f"{benchmark.backbone_layers} × {len(tied)}",
            str(row.count),
        )
    table.caption = "; ".join(missing) or None
    return table


def _student_table(benchmark: Benchmark, task: str, cells: TaskCells, rows: str) -> Table | None:
    """What free depth chooses from: metric by (k', l)."""
    if not cells.taught:
        return None
    table = Table("teacher's L", "k'", *(f"l = {few}" for few in benchmark.students))
    table.title = f"{task}: students, max / mean of the runs in brackets; {rows}"
    for layers, of in sorted(cells.taught.items()):
        for depth in sorted({depth for depth, _ in of}):
            found = [of.get((depth, few)) for few in benchmark.students]
            table.add_row(
                str(layers), str(depth),
                *(f"{c.reported('max'):.1f} / {c.reported('mean'):.1f} ({len(c.scores)})" if c else "" for c in found),
            )  # fmt: skip
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of a BERT encoder")
    parser.add_argument("--data", type=Path, required=True, help="folder with one folder a task")
    parser.add_argument("--home", type=Path, required=True, help="kept: the same command again goes on")
    parser.add_argument("--tasks", default="rte,mrpc,cola,stsb")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--layers", type=number_list, default=number_list("1-12"), help="L of table 1")
    parser.add_argument("--teacher-layers", type=number_list, default=number_list("4-10"), help="L that may teach")
    parser.add_argument("--students", type=number_list, default=number_list("1-3"), help="l")
    parser.add_argument("--student-depths", type=number_list, default=number_list("2-11"), help="k'")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--full-seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--student-epochs", type=int, default=10)
    parser.add_argument("--half-dev", action="store_true", help="choose on one half of dev, report the other")
    parser.add_argument("--limit-rows", type=int, help="of train and of dev, for trying it out")
    parser.add_argument("--report", action="store_true", help="run nothing, print what is there")
    parser.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()
    parts = [part.strip() for part in arguments.parts.split(",")]
    if unknown := sorted(set(parts) - set(PARTS)):
        raise SystemExit(f"unknown parts {', '.join(unknown)}: choose from {', '.join(PARTS)}")
    names = ("model", "data", "layers", "teacher_layers", "students", "student_depths", "seeds", "full_seeds", "epochs",
             "student_epochs", "half_dev", "limit_rows")  # fmt: skip
    benchmark = Benchmark(
        home=Home(arguments.home.resolve()),
        tasks=tuple(task_names(arguments.tasks)),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        **{name: getattr(arguments, name) for name in names},
    )
    end_on_request()
    if not arguments.report:
        benchmark.home.register(benchmark.model, [benchmark.spec(task) for task in benchmark.tasks])
        run = {"teachers": run_teachers, "students": run_students, "full": run_full}
        for part in PARTS:
            for task in benchmark.tasks if part in parts else ():
                run[part](benchmark, task)
    report(benchmark, markdown=arguments.markdown)


if __name__ == "__main__":
    main()
