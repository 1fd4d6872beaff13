"""How throughput goes with the number of tasks: one merged release in the mixed layout against separate models.

    .venv/bin/python benchmarks/serving/growth.py --home FOLDER [--model FOLDER] [--data FOLDER] [--tasks 1,2,4,8,16,32]

The layouts take the shapes of the mixed one in turn. In one process, every side in the way that is best for it, in turn
for each number of tasks. What a task adds to the work is its own layers: the layer ratio N × tasks / layer count is
what the ratio over separate models should follow. *MB loaded* is by how much a process grows that loads the release,
libraries that are imported with it included: the difference between two numbers of tasks is what the tasks add.
"""

import argparse
import gc
import json
import multiprocessing
import os
import statistics
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import beside  # noqa: F401
import engine_side
import peers
import torch
from printed_tables import number_list, say, show
from rich.table import Table
from setting import Setting, add_options, opened
from texts import add_options as add_text_options
from texts import chosen
from throughput import Plan, best_peer, offline, ratios

from modeling.inference import Precision


def memory_of(setting: Setting, digest: str, precision: Precision) -> int:
    """Bytes by which a process grows when it loads a release; a new process each time, so that nothing is left over."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(_grown_by_loading, setting, digest, precision).result()


def _grown_by_loading(setting: Setting, digest: str, precision: Precision) -> int:
    before = _resident()
    release = engine_side.load_served(setting, digest, precision)
    gc.collect()
    grown = _resident() - before
    assert release.digest == digest  # noqa: S101 - it is still there
    return grown


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    add_text_options(parser)
    parser.add_argument("--tasks", default="1,2,4,8,16,32")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--peers", default="onnx-fp32", help="of the same precision")
    peers.add_budgets(parser)
    parser.set_defaults(lengths="mixed", texts=96, budgets=(256, 1024))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--copies", type=int, default=2, help="sets of a peer's encoder weights")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--json", type=Path, help="file for all rates")
    arguments = parser.parse_args()
    setting = opened(arguments)
    (texts,) = chosen(arguments, setting.text_encoder)
    when = f"torch {torch.__version__}, {datetime.now(UTC):%Y-%m-%d}"
    title = f"{setting.title}, {arguments.precision}, {texts.title}; {when}"
    columns = ("tasks", "layers", "N × tasks", "MB loaded", "ours, texts/s", "best peer, texts/s", "layer ratio")
    table = Table(*columns, "over the best peer", "over the same kernels", title=title)
    kept = {}
    for tasks in number_list(arguments.tasks):
        plan = Plan(
            setting=setting,
            precisions=[arguments.precision],
            peers=arguments.peers.split(","),
            layout=setting.growing(tasks),
            ways=peers.ways(arguments.budgets),
            sweep_texts=32,
            rounds=arguments.rounds,
            copies=arguments.copies,
            connections=0,
            repeats=1,
            serve_options=(),
        )
        rates, best = offline(plan, texts)
        peer, ours = best_peer(rates, arguments.precision), f"ours {arguments.precision}"
        if peer is None:
            raise SystemExit(f"none of {arguments.peers} is of {arguments.precision}")
        manifest = setting.manifest(plan.releases["ours"])
        memory = memory_of(setting, plan.releases["ours"], arguments.precision)
        over = [ratios(rates, ours, other) for other in (peer, f"apart {arguments.precision}")]
        table.add_row(
            str(tasks), str(manifest.layers_in_use), str(manifest.layers_if_separate), f"{memory / 1e6:.0f}",
            f"{statistics.median(rates[ours]):.1f}", f"{statistics.median(rates[peer]):.1f} ({peer})",
            f"{plan.layer_ratio:.2f}", *(f"{one[0]:.2f} ({one[1]:.2f}-{one[2]:.2f})" for one in over if one),
        )  # fmt: skip
        kept[tasks] = {"rates": rates, "bytes": memory, "ways": {side: str(way) for side, way in best.items()}}
        say(f"{tasks} tasks")
        if arguments.json:
            arguments.json.write_text(json.dumps({"setting": title, "tasks": kept}, indent=1))
    show(table, markdown=arguments.markdown)


if __name__ == "__main__":
    main()
