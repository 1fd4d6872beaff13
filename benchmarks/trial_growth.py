"""Where the time of a whole trial goes, and how time and memory grow with its data: 1x, 4x, 16x.

    .venv/bin/python benchmarks/trial_growth.py --model FOLDER --data FOLDER [--task sst2] [--rows 250] [--layers 4]
        [--epochs 5] [--precision fp32|bf16]

A teacher with nothing cached, from the start of the process to its files' bytes, one thread. The dev data do not grow.
Seconds are those on the processor, so that what others take of a shared machine is left out. Stages:

    start     the interpreter and the libraries, reading and hashing the data
    dev rows  the trunk's weights; tokenising the rows, the frozen layers, the cache
    rows      the same of the training data
    steps     of all epochs
    scoring   after each epoch
    saving    the state that a killed trial goes on from, after each epoch
    the end   the proof that nothing frozen has changed, answers to the dev rows, golden answers
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

import torch
from benchmark_tasks import TaskFiles, Workshop
from printed_tables import say, show
from rich.table import Table

from pipelines.data.dataset import load_dataset
from pipelines.training.recipes import make_recipe
from pipelines.training.trial_run import open_trial
from pipelines.training.trials import Trial
from registry import fault_points
from registry.domain.manifests import HeadConfig

GROWTH = (1, 4, 16)
STAGES = ("start", "dev rows", "rows", "steps", "scoring", "saving", "the end")
_ENDED_BY = {
    "train.trial-held": "start",
    "train.dev-rows-cached": "dev rows",
    "train.training-rows-cached": "rows",
    "train.epoch-scored": "scoring",
    "train.state-saved": "saving",
}
"""What was being done when one of these places is reached."""


class Stopwatch:
    """Adds the time on the processor since the last look to a stage; its first look is at the process's start."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self._at = 0.0

    def look(self, stage: str) -> None:
        now = time.process_time()
        self.spent[stage] += now - self._at
        self._at = now

    def at_place(self, place: str) -> None:
        if place in _ENDED_BY:
            self.look(_ENDED_BY[place])

    def at_report(self, stage: str, done: int, total: int) -> None:  # noqa: ARG002 - what reports are called with
        if stage.startswith("epoch"):
            self.look("steps")


def one_trial(arguments: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Seconds by stage, and the peak of this process's memory in MB."""
    watch = Stopwatch()
    torch.set_num_threads(1)
    fault_points.arm(watch.at_place)
    workshop = Workshop(folder)
    files = TaskFiles.read(arguments.task, arguments.data, folder / "data", limit_rows=None)
    spec = files.spec(train=files.train[: arguments.rows], dev=files.dev[: arguments.dev_rows], called="grown")
    backbone = workshop.backbone
    trial = Trial(
        spec=spec,
        spec_revision=1,
        backbone=backbone,
        train=load_dataset(spec, "train"),
        dev=load_dataset(spec, "dev"),
        frozen_depth=backbone.layer_count - arguments.layers,
        task_layers=arguments.layers,
        recipe=make_recipe(
            "default",
            hidden_size=backbone.hidden_size,
            precision=arguments.precision,
            learning_rate=None,
            epochs=arguments.epochs,
            distillation=None,
        ),
        seed=0,
        head=HeadConfig(type=spec.type, outputs=spec.output_count),
    )
    with tempfile.TemporaryDirectory(dir=folder) as work, open_trial(trial, Path(work)) as held:
        held.run(store=workshop.store, device=torch.device("cpu"), report=watch.at_report)
    watch.look("the end")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return {**watch.spent, "peak": peak}


def in_a_process(rows: int, folder: Path) -> dict[str, float]:
    command = [sys.executable, __file__, *sys.argv[1:], "--rows", str(rows), "--inside", str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603 - this file
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of a BERT encoder")
    parser.add_argument("--data", type=Path, required=True, help="folder of data sets")
    parser.add_argument("--task", default="sst2")
    parser.add_argument("--rows", type=int, default=250, help="at 1x")
    parser.add_argument("--dev-rows", type=int, default=250)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        print(json.dumps(one_trial(arguments, arguments.inside)))
        return
    title = (
        f"{arguments.task}, L = {arguments.layers}, {arguments.epochs} epochs, {arguments.precision}, one thread, "
        f"seconds on the processor; torch {torch.__version__}, {datetime.now(UTC):%Y-%m-%d}"
    )
    table = Table("rows", *STAGES, "all", "against 1x", "peak MB", title=title)
    with tempfile.TemporaryDirectory() as folder:
        files = TaskFiles.read(arguments.task, arguments.data, Path(folder), limit_rows=None)
        if len(files.train) < (most := arguments.rows * max(GROWTH)):
            raise SystemExit(f"{arguments.task} has {len(files.train):,} training rows, fewer than {most:,}")
        Workshop(Path(folder)).pin(arguments.model)
        first = 0.0
        for growth in GROWTH:
            found = in_a_process(arguments.rows * growth, Path(folder))
            seconds = [found[stage] for stage in STAGES]
            first = first or sum(seconds)
            table.add_row(
                f"{arguments.rows * growth:,}",
                *(f"{one:.1f}" for one in seconds),
                f"{sum(seconds):.1f}",
                f"{sum(seconds) / first:.1f}",
                f"{found['peak']:,.0f}",
            )
            say(f"{growth}x measured")
    show(table, markdown=arguments.markdown)


if __name__ == "__main__":
    main()
