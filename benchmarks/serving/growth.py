"""How throughput goes with the number of tasks: one merged release in the mixed layout against separate models.

    .venv/bin/python benchmarks/serving/growth.py --home FOLDER [--model FOLDER] [--data FOLDER] [--tasks 1,2,4,8,16,32]

The layouts take the shapes of the mixed one in turn. In one process, every side in the way that is best for it, in turn
for each number of tasks. What a task adds to the work is its own layers: the layer ratio N × tasks / layer count is
what the ratio over separate models should follow.
"""

import argparse
import json
import statistics
from datetime import UTC, datetime
from pathlib import Path

import beside  # noqa: F401
import peers
import torch
from printed_tables import number_list, say, show
from rich.table import Table
from setting import add_options, opened
from texts import add_options as add_text_options
from texts import chosen
from throughput import Plan, best_peer, offline, ratios


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
    columns = ("tasks", "layers", "N × tasks", "ours, texts/s", "best peer, texts/s", "layer ratio")
    table = Table(*columns, "over the best peer", "over the same kernels", title=title)
    kept = {}
    for tasks in number_list(arguments.tasks):
        plan = Plan(
            setting=setting,
            precisions=[arguments.precision],
            peers=arguments.peers.split(","),
            tasks=tasks,
            ways=peers.ways(arguments.budgets),
            sweep_texts=32,
            rounds=arguments.rounds,
            copies=arguments.copies,
            connections=0,
            seconds=0.0,
            serve_options=(),
        )
        rates, best = offline(plan, texts)
        peer, ours = best_peer(rates, arguments.precision), f"ours {arguments.precision}"
        if peer is None:
            raise SystemExit(f"none of {arguments.peers} is of {arguments.precision}")
        manifest = setting.manifest(plan.releases["ours"])
        over = [ratios(rates, ours, other) for other in (peer, f"apart {arguments.precision}")]
        table.add_row(
            str(tasks), str(manifest.layers_in_use), str(manifest.layers_if_separate),
            f"{statistics.median(rates[ours]):.1f}", f"{statistics.median(rates[peer]):.1f} ({peer})",
            f"{plan.layer_ratio:.2f}", *(f"{one[0]:.2f} ({one[1]:.2f}-{one[2]:.2f})" for one in over if one),
        )  # fmt: skip
        kept[tasks] = {"rates": rates, "ways": {side: str(way) for side, way in best.items()}}
        say(f"{tasks} tasks")
        if arguments.json:
            arguments.json.write_text(json.dumps({"setting": title, "tasks": kept}, indent=1))
    show(table, markdown=arguments.markdown)


if __name__ == "__main__":
    main()
