"""How long a text waits for its answers, under load that comes at random times.

    .venv/bin/python benchmarks/serving/latency.py --home FOLDER --sides "ours fp32,onnx-fp32" [--model FOLDER]

Of each side its own saturation is measured first, with so many questions open; then questions arrive as a Poisson
process at 50 % and 80 % of that, and a question's time counts from the moment it was meant to be sent. A peer is asked
in both ways: one request for all tasks, and one a task, all sent at that moment; ours for all tasks, and for each when
its branch is done (`/predict/stream`). The first answer is the first bytes of any, the last answer the end of all.

`--shares` are of each side's own saturation; `--rate` adds a rate for all, so that they bear the same load. For swaps
see `around_the_model.py`.
"""

import argparse
import json
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import beside  # noqa: F401
import peers
from hosting import free_port, hosted, our_command, peer_command
from load import Load, Question, poisson, questions, saturated
from peers import Way
from printed_tables import say, show
from rich.table import Table
from setting import Layout, Setting, add_layout_options, add_options, opened
from texts import add_options as add_text_options
from texts import chosen


def command_of(setting: Setting, side: str, way: Way, layout: Layout, options: Sequence[str], port: int) -> list[str]:
    if side in peers.PEERS:
        return peer_command(setting, side, way, tasks=len(layout), copies=len(layout), port=port)
    what, _, precision = side.partition(" ")
    digest = setting.separate_release(len(layout)) if what == "apart" else setting.release(layout)
    return our_command(setting, digest, precision, way, port=port, options=options)


def add_row(table: Table, side: str, load: str, found: Load) -> None:
    def milliseconds(first: bool) -> str:
        return " / ".join(f"{1000 * one:.0f}" for one in found.percentiles(first=first))

    table.add_row(side, load, f"{found.rate:.1f}", milliseconds(True), milliseconds(False), str(found.errors))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    add_text_options(parser)
    parser.set_defaults(lengths="mixed")
    parser.add_argument("--sides", default="ours fp32,onnx-fp32", help="ours or apart with a precision, or peers")
    add_layout_options(parser, peers.TASKS)
    parser.add_argument("--way", default="2,1,256", help="lanes, threads, pieces of a batch, as throughput.py found")
    parser.add_argument("--shares", default="0.5,0.8", help="of saturation")
    parser.add_argument("--rate", type=float, action="append", default=[], help="texts/s for all sides")
    parser.add_argument("--connections", type=int, default=64, help="questions open at saturation")
    parser.add_argument("--seconds", type=float, default=60.0, help="of arrivals at each rate")
    parser.add_argument("--serve-options", default="", help="further ones of `trunkline serve`")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--json", type=Path, help="file for all numbers")
    arguments = parser.parse_args()
    setting = opened(arguments)
    way = Way(*map(int, arguments.way.split(",")))
    layout = setting.layout(arguments.layout, arguments.tasks)
    names = [f"task-{task:02}" for task in range(len(layout))]
    kept: dict[str, object] = {}
    for texts in chosen(arguments, setting.text_encoder):
        title = f"{setting.title}, {texts.title}; {way}; {datetime.now(UTC):%Y-%m-%d}"
        table = Table(
            "side", "load", "texts/s", "first answer, P50 / P95 / P99 ms", "last answer", "errors", title=title
        )
        for side in arguments.sides.split(","):
            port = free_port()
            options = shlex.split(arguments.serve_options)
            is_peer = side in peers.PEERS
            asked: dict[str, Sequence[Question]] = {side: questions(texts.texts)}
            if is_peer:
                asked[f"{side}, one a task"] = questions(texts.texts, names)
            else:
                asked[f"{side}, streamed"] = questions(texts.texts, path="/predict/stream")
            with hosted(command_of(setting, side, way, layout, options, port), port) as server:
                for how, of_side in asked.items():
                    most = saturated(server, of_side, connections=arguments.connections, seconds=arguments.seconds / 3)
                    add_row(table, how, "saturation", most)
                    kept[f"{texts.name}: {how}: saturation"] = most.plain()
                    loads = {f"{float(share):.0%}": float(share) * most.rate for share in arguments.shares.split(",")}
                    for load, rate in (loads | {f"{rate:g} texts/s": rate for rate in arguments.rate}).items():
                        found = poisson(server, of_side, rate=rate, seconds=arguments.seconds)
                        add_row(table, how, load, found)
                        kept[f"{texts.name}: {how}: {load}"] = found.plain()
                        say(f"{how}: {load}")
        show(table, markdown=arguments.markdown)
        if arguments.json:
            arguments.json.write_text(json.dumps(kept, indent=1))


if __name__ == "__main__":
    main()
