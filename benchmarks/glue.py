"""The paper's tables over any set of tasks: metric by L (table 1), and what the modules of all tasks cost together
(table 2), beside branches at free depth of the same layer count.

    .venv/bin/python benchmarks/glue.py --model FOLDER --data FOLDER --home FOLDER --tasks rte,mrpc,cola,stsb

All training is `trunkline search` in the home, exhaustive, so that every cell of the tables is run to its end; the same
command goes on where it was interrupted. `--report` prints whatever is finished; rows that need more say so. `--parts`:

teachers  Every L of --layers, seeds 0, 1, ….
students  Of the best L within --teacher-layers: every l at its teacher's own depth and at every depth above.
full      Full fine-tuning by transformers' `Trainer`, embeddings and all layers: a baseline, not a version.

A module is chosen, and its figure reported, by one statistic of its runs: the paper's maximum, or their mean. As in the
paper, one dev set chooses and is reported, and a row with more to choose from profits from it. So table 2 comes again
with dev cut in two by a hash of the texts, --splits times: one half chooses, the figures are of the other. Metrics:
accuracy, F1 for mrpc, Matthews for cola, Spearman for stsb; all × 100.
"""

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

from benchmark_tasks import TASKS, Home, end_command_with_parent, end_on_request, task_names
from glue_cells import STATISTICS, FinishedRun, TaskCells, finished_runs, full_cell, on_all_dev, on_halves, task_cells
from glue_rows import Chosen, table_2
from glue_setting import GlueSetting
from printed_tables import number_list, say, show
from rich.table import Table

from cli.cores import own_cores

PARTS = ("teachers", "students", "full")


def run_teachers(setting: GlueSetting, task: str) -> None:
    _search(setting, task, layers=setting.layers, students=())


def run_students(setting: GlueSetting, task: str) -> None:
    """The search trains nothing anew of the teachers that `run_teachers` ran, and distils the best of them."""
    taught = [layers for layers in setting.teacher_layers if layers in setting.layers]
    _search(setting, task, layers=taught, students=setting.students)


def _search(setting: GlueSetting, task: str, *, layers: Sequence[int], students: Sequence[int]) -> None:
    command = setting.home.command(
        "search", "run", setting.spec(task).task,
        "--strategy", "exhaustive",
        "--rule", "best",
        "--layers", ",".join(map(str, layers)),
        "--seeds", str(setting.seeds),
        "--students", ",".join(map(str, students)) or "none",
        *(("--student-depths", ",".join(map(str, setting.student_depths))) if students else ()),
        "--epochs", str(setting.epochs),
        "--student-epochs", str(setting.student_epochs),
        "--workers", str(setting.cores),
        "--json",
    )  # fmt: skip
    say(f"{task}: {' '.join(command[4:])}")
    with (setting.home.folder / f"{task}.log").open("ab") as log:
        done = subprocess.run(  # noqa: S603 - our own command
            command, stdout=log, stderr=log, check=False, preexec_fn=end_command_with_parent
        )
        if done.returncode:
            raise SystemExit(f"the search of {task} failed; see {log.name}")


def run_full(setting: GlueSetting, task: str) -> None:
    """One file a seed; as many at once, on one thread each, as there are cores."""
    left = [seed for seed in range(setting.full_seeds) if not setting.full_file(task, seed).exists()]
    for first in range(0, len(left), setting.cores):
        running = [_start_full(setting, task, seed) for seed in left[first : first + setting.cores]]
        for process in running:
            _, error = process.communicate()
            if process.returncode:
                raise SystemExit(f"full fine-tuning of {task} failed: {error}")
        say(f"{task}: full fine-tuning, {first + len(running)} of {len(left)} runs")


def _start_full(setting: GlueSetting, task: str, seed: int) -> "subprocess.Popen[str]":
    script = Path(__file__).with_name("trainer_baseline.py")
    command = [
        sys.executable, str(script), "--model", str(setting.model), "--data", str(setting.data), "--task", task,
        "--frozen", "none", "--seed", str(seed), "--epochs", str(setting.epochs), "--threads", "1",
        "--learning-rate", str(setting.full_rate), "--out", str(setting.full_file(task, seed)),
    ]  # fmt: skip
    if setting.limit_rows:
        command += ["--limit-rows", str(setting.limit_rows)]
    return subprocess.Popen(  # noqa: S603 - our own command
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=end_command_with_parent
    )


def report(setting: GlueSetting, *, markdown: bool) -> None:
    runs = {task: finished_runs(setting, task) for task in setting.tasks}
    cells = {
        task: task_cells(
            found, on_all_dev, backbone_layers=setting.backbone_layers, full=full_cell(setting, task)
        )
        for task, found in runs.items()
    }  # fmt: skip
    for statistic in STATISTICS if setting.seeds > 1 else ("max",):
        show(_table_1(setting, cells, statistic), markdown=markdown)
        show(_table_2(setting, cells, statistic), markdown=markdown)
        show(_held_out_table(setting, runs, statistic), markdown=markdown)
    for task in setting.tasks:
        show(_student_table(setting, task, cells[task]), markdown=markdown)


def _table_1(setting: GlueSetting, cells: Mapping[str, TaskCells], statistic: str) -> Table:
    table = Table("L", *(f"{task} ({TASKS[task].metric})" for task in cells))
    table.title = f"Table 1, metric by L: {statistic} of the runs in brackets"
    for layers in setting.layers:
        found = [of.teachers.get(layers) for of in cells.values()]
        if any(found):
            table.add_row(
                str(layers),
                *(f"{cell.reported(statistic):.1f} ({len(cell.scores)})" if cell else "" for cell in found),
            )
    return table


def _table_2(setting: GlueSetting, cells: Mapping[str, TaskCells], statistic: str) -> Table:
    table = Table("", *cells, "average", "layers", "count")
    seeds = f"{statistic} of up to {setting.seeds} seeds"
    table.title = f"Table 2: {seeds}, full fine-tuning of up to {setting.full_seeds}; (k, l); all of dev"
    missing = []
    for row in table_2(setting, cells, statistic):
        if isinstance(row, str):
            missing.append(row)
            continue
        tied = [row.branches[task] for task in cells]
        trunk = max(branch.frozen_depth for branch in tied)
        table.add_row(
            row.name,
            *(f"{row.reported[t]:.1f} ({row.branches[t].frozen_depth},{row.branches[t].task_layers})" for t in cells),
            f"{row.average:.2f}",
            f"{trunk} + {sum(branch.task_layers for branch in tied)}"
            if trunk
            else f"{setting.backbone_layers} × {len(tied)}",
            str(row.count),
        )
    table.caption = "; ".join(missing) or None
    return table


def _held_out_table(setting: GlueSetting, runs: Mapping[str, Sequence[FinishedRun]], statistic: str) -> Table | None:
    """Table 2 with a half of dev that chooses and another that is reported, over several cuts."""
    found: dict[str, list[Chosen]] = {}
    for split in range(setting.splits):
        cells = {
            task: task_cells(
                of_task, on_halves(setting, task, split), backbone_layers=setting.backbone_layers, full=None
            )
            for task, of_task in runs.items()
        }
        for row in table_2(setting, cells, statistic):
            if isinstance(row, Chosen):
                found.setdefault(row.name, []).append(row)
    if not found or setting.splits < 2:
        return None
    table = Table("", *runs, "average", "count", "against the row above", "splits won")
    table.title = (
        f"Table 2 again, {statistic} of up to {setting.seeds} seeds: chosen on one half of dev, figures of the other, "
        f"mean of {setting.splits} splits (of the average ± their standard deviation)"
    )
    for name, rows in found.items():
        gains = [row.average - row.beside.average for row in rows if row.beside is not None]
        table.add_row(
            name,
            *(f"{fmean(row.reported[task] for row in rows):.1f}" for task in runs),
            _mean_and_deviation([row.average for row in rows]),
            f"{fmean(row.count for row in rows):.1f}",
            _mean_and_deviation(gains, sign="+") if gains else "",
            f"{sum(gain > 0 for gain in gains)} of {len(gains)}" if gains else "",
        )
    return table


def _mean_and_deviation(values: Sequence[float], sign: str = "") -> str:
    return f"{fmean(values):{sign}.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def _student_table(setting: GlueSetting, task: str, cells: TaskCells) -> Table | None:
    """What free depth chooses from: metric by (k', l)."""
    if not cells.taught:
        return None
    table = Table("teacher's L", "k'", *(f"l = {few}" for few in setting.students))
    table.title = f"{task}: students, max / mean of the runs in brackets"
    for layers, of in sorted(cells.taught.items()):
        for depth in sorted({depth for depth, _ in of}):
            found = [of.get((depth, few)) for few in setting.students]
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
    parser.add_argument("--full-rate", type=float, default=5e-5, help="learning rate of full fine-tuning")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--student-epochs", type=int, default=10)
    parser.add_argument("--splits", type=int, default=50, help="how often dev is cut in two")
    parser.add_argument("--limit-rows", type=int, help="of train and of dev, for trying it out")
    parser.add_argument("--report", action="store_true", help="run nothing, print what is there")
    parser.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()
    parts = [part.strip() for part in arguments.parts.split(",")]
    if unknown := sorted(set(parts) - set(PARTS)):
        raise SystemExit(f"unknown parts {', '.join(unknown)}: choose from {', '.join(PARTS)}")
    names = ("model", "data", "layers", "teacher_layers", "students", "student_depths", "seeds", "full_seeds",
             "full_rate", "epochs", "student_epochs", "splits", "limit_rows")  # fmt: skip
    setting = GlueSetting(
        home=Home(arguments.home.resolve()),
        tasks=tuple(task_names(arguments.tasks)),
        cores=own_cores(),
        **{name: getattr(arguments, name) for name in names},
    )
    end_on_request()
    if not arguments.report:
        setting.home.register(setting.model, [setting.spec(task) for task in setting.tasks])
        run = {"teachers": run_teachers, "students": run_students, "full": run_full}
        for part in PARTS:
            for task in setting.tasks if part in parts else ():
                run[part](setting, task)
    report(setting, markdown=arguments.markdown)


if __name__ == "__main__":
    main()
