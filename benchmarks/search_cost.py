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
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmark_tasks import end_on_request, task_names
from cost_estimates import UnitCosts, extrapolated_searches, search_work, trainer_passes, trainer_seconds
from cost_setting import Setting
from printed_tables import number_list, show
from rich.table import Table
from search_quality import run_quality
from unit_cost_rounds import measure_units
from whole_runs import run_trainer, run_whole, whole_search

from cli.cores import own_cores

PARTS = ("units", "whole", "quality", "trainer")


def report(setting: Setting, tasks: Sequence[str], *, markdown: bool) -> None:
    for task in tasks:
        for table in (_unit_table(setting, task), _time_table(setting, task, whole=task == tasks[0])):
            show(table, markdown=markdown)
        for table in _quality_tables(setting, task):
            show(table, markdown=markdown)
        show(_trainer_table(setting, task), markdown=markdown)


def _unit_table(setting: Setting, task: str) -> Table | None:
    document = setting.kept(f"units-{task}")
    if document is None or not document["seconds"]:
        return None
    sample = document["setting"]
    table = Table(
        "shape", "Trainer: epoch", "evaluation", "Trunkline: epoch", "evaluation", "epoch ratio (range)",
        title=f"{task}: seconds, median of rounds in turn, {sample['rows']} training and {sample['dev_rows']} dev "
        f"rows; {sample['fastest']['trainer']} against {sample['fastest']['trunkline']} (threads, attention)",
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
    tried = ", ".join(f"{name}: {seconds:.2f}" for name, seconds in sample["tried"].items())
    table.caption = (
        f"tried at L = {sample['layers']} (threads, attention: seconds an epoch): {tried}; filling the cache: "
        f"{document['filling'] or math.nan:.1f} s"
    )
    return table


def _time_table(setting: Setting, task: str, *, whole: bool) -> Table | None:
    theirs = trainer_seconds(setting, task, student_epochs=setting.student_epochs)
    if theirs is None:
        return None
    table = Table("protocol", "seconds", "layer passes an example", "time ratio", title=f"{task}: cost")
    middle = setting.layers[len(setting.layers) // 2]
    passes = trainer_passes(setting, task, teacher_layers=middle)
    table.add_row(
        f"exhaustive, Trainer: extrapolated from unit costs (students at k = {setting.backbone_layers - middle})",
        f"{theirs:,.0f}", f"{passes:,.0f}", "1",
    )  # fmt: skip
    fewer = trainer_seconds(setting, task, student_epochs=setting.epochs)
    assert fewer is not None  # noqa: S101 - as above
    table.add_row(f"the same with {setting.epochs} epochs a student", f"{fewer:,.0f}", "", f"{fewer / theirs:.3f}")
    search = whole_search(setting, task) if whole else None
    clock = setting.kept(f"whole-{task}")
    if search is not None and clock is not None:
        work = search_work(setting, task, search.trials)
        spent = sum(clock["seconds"])
        state = "measured" if clock["finished"] else "measured so far, not finished"
        starts = len(clock["seconds"])
        table.add_row(
            f"default search: wall time, {state} ({starts} start{'s' if starts > 1 else ''})",
            f"{spent:,.0f}", f"{work.passes:,.0f}", f"{spent / theirs:.3f} ({spent / fewer:.3f} of the second)",
        )  # fmt: skip
        trial_seconds = sum(trial.seconds for trial in search.trials)
        table.add_row(
            f"  of that: {len(search.trials)} trials in {setting.cores} processes, each one's own seconds summed",
            f"{trial_seconds:,.0f}", f"{sum(trial.layer_passes for trial in search.trials):,.0f} in steps", "",
        )  # fmt: skip
        if work.seconds is not None:
            table.add_row("  the same by unit costs", f"{work.seconds:,.0f}", "", f"{work.seconds / theirs:.3f}")
    for layers, extrapolated in extrapolated_searches(setting, task).items():
        for how, work in zip(("clearly", "barely"), extrapolated, strict=True):
            if work.seconds is not None:
                table.add_row(
                    f"default search: extrapolated from unit costs, where L = {layers} wins {how}",
                    f"{work.seconds:,.0f}", f"{work.passes:,.0f}", f"{work.seconds / theirs:.3f}",
                )  # fmt: skip
    return table


def _quality_tables(setting: Setting, task: str) -> Iterator[Table]:
    document = setting.kept(f"quality-{task}")
    if document is None:
        return
    table = Table(
        "chosen", "default / exhaustive", "95 % interval", "repetitions",
        title=f"{task}: quality of what was chosen on one half of dev, on the other half; ratio of means",
    )  # fmt: skip
    for name, found in document["ratios"].items():
        value, low, high = found["interval"]
        reaches = "its end reaches" if high >= 0.995 else "its end stays below"
        table.add_row(name, f"{value:.4f}", f"{low:.4f}-{high:.4f}, {reaches} 0.995", str(found["of"]))
    yield table
    table = Table(
        "repetition",
        "search",
        "L",
        "layer passes, both by Trunkline",
        "one run each, on the other half",
        title=f"{task}: repetitions",
    )
    for row in document["repetitions"]:
        for side in ("default", "exhaustive"):
            one = row[side]
            scores = ", ".join(f"{name} {100 * value:.2f}" for name, value in one["scores"].items())
            table.add_row(str(row["repetition"]), side, str(one["L"]), f"{one['passes']:,.0f}", scores)
    yield table


def _trainer_table(setting: Setting, task: str) -> Table | None:
    found, document = setting.kept(f"trainer-{task}"), setting.kept(f"units-{task}")
    if not found or document is None or not document["seconds"]:
        return None
    files, costs = setting.files(task), UnitCosts.of(document, "trainer")
    scored = setting.epochs - setting.recipe.evaluate_from + 1
    table = Table("run", "seconds", "by unit costs", "ratio", "metric, best epoch", title=f"{task}: whole Trainer runs")
    for one in found:
        spent = one["total_seconds"] / one["lanes"]
        expected = setting.epochs * costs.epoch.at(one["layers"]) * len(files.train)
        expected += scored * costs.evaluation.at(one["layers"]) * len(files.dev)
        table.add_row(
            f"L = {one['layers']}, seed {one['seed']}", f"{spent:.1f}", f"{expected:.1f}", f"{spent / expected:.2f}",
            f"{100 * max(one['scores'].values()):.2f}, one run",
        )  # fmt: skip
    return table


def measure_all_units(setting: Setting, tasks: Sequence[str]) -> None:
    for task in tasks:
        measure_units(setting, task)


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
    names = ("layers", "measured_layers", "students", "seeds", "pool_seeds", "repetitions", "epochs",
             "student_epochs", "sample_rows", "repeats", "limit_rows")  # fmt: skip
    setting = Setting(
        home=arguments.home.resolve(),
        model=arguments.model.resolve(),
        data=arguments.data.resolve(),
        cores=own_cores(),
        **{name: getattr(arguments, name) for name in names},
    )
    end_on_request()
    setting.refuse_other_home(begin=not arguments.report)
    if not arguments.report:
        work: dict[str, Callable[[], None]] = {
            "units": lambda: measure_all_units(setting, tasks),
            "whole": lambda: run_whole(setting, tasks[0]),
            "quality": lambda: run_quality(setting, tasks[0]),
            "trainer": lambda: run_trainer(setting, tasks[0], arguments.trainer_runs),
        }
        for part in PARTS:
            if part in parts:
                work[part]()
    report(setting, tasks, markdown=arguments.markdown)


if __name__ == "__main__":
    main()
