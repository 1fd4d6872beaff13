"""What is not computing: HTTP with a model that computes nothing, and the 99th percentile while releases are swapped.

    .venv/bin/python benchmarks/serving/around_the_model.py --home FOLDER [--model FOLDER] [--data FOLDER]

*Nothing*: requests a second, and milliseconds of one request at a time, for all tasks of each text; asked by `wrk`
where it is installed. *Swaps*: Poisson arrivals at half of saturation, without swaps and with one every few seconds to
a release that differs in one task and back, in turn.
"""

import argparse
import sys
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import beside  # noqa: F401
from hosting import free_port, hosted
from load import has_wrk, poisson, questions, saturated, wrk_saturated
from printed_tables import show
from rich.table import Table
from setting import MIXED, Layout, Setting, add_layout_options, add_options, opened
from texts import add_options as add_text_options
from texts import chosen


def command(setting: Setting, digest: str, port: int, *options: str) -> list[str]:
    server = str(Path(__file__).parent / "altered_server.py")
    return [sys.executable, server, digest, "--home", str(setting.home), "--port", str(port), *options]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    add_text_options(parser)
    add_layout_options(parser, len(MIXED))
    parser.set_defaults(lengths="mixed", texts=192)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two swaps")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()
    setting = opened(arguments)
    (texts,) = chosen(arguments, setting.text_encoder)
    asked = questions(texts.texts)
    layout = setting.layout(arguments.layout, arguments.tasks)
    digest = setting.release(layout)
    title = f"{setting.title}, {len(layout)} tasks, {arguments.precision}, {texts.title}; {datetime.now(UTC):%Y-%m-%d}"

    port, table = free_port(), Table("open requests", "requests/s", "P50 / P95 / P99 ms", title=f"Nothing: {title}")
    with hosted(command(setting, digest, port, "--nothing", "--precision", arguments.precision), port) as server:
        for connections in (1, 64):
            if has_wrk():
                found = wrk_saturated(server, asked, connections=connections, seconds=arguments.seconds / 2)
                rate, percentiles = found.rate, found.percentiles
            else:
                load = saturated(server, asked, connections=connections, seconds=arguments.seconds / 2)
                rate, percentiles = load.rate, load.percentiles(first=False)
            table.add_row(str(connections), f"{rate:.0f}", milliseconds(percentiles))
    show(table, markdown=arguments.markdown)

    other = setting.release(one_changed(layout, setting.backbone.layer_count))
    table = Table("", "texts/s", "last answer, P50 / P95 / P99 ms", "errors", title=f"Swaps: {title}")
    for _ in range(arguments.rounds):
        rate = 0.0
        for what, options in (
            ("no swap", ()),
            (f"a swap every {arguments.every:g} s", ("--swap-with", other, "--every", str(arguments.every))),
        ):
            port = free_port()
            with hosted(command(setting, digest, port, "--precision", arguments.precision, *options), port) as server:
                warm = saturated(server, asked, connections=64, seconds=arguments.seconds / 2)
                rate = rate or warm.rate / 2
                before = swaps(server)
                load = poisson(server, asked, rate=rate, seconds=max(arguments.seconds, 2.5 * arguments.every))
                if options and swaps(server) == before:
                    raise SystemExit(f"no swap in {load.seconds:.0f} s, one was meant every {arguments.every:g} s")
            table.add_row(what, f"{load.rate:.1f}", milliseconds(load.percentiles(first=False)), str(load.errors))
    show(table, markdown=arguments.markdown)


def one_changed(layout: Layout, backbone_layers: int) -> Layout:
    """The layout with another number of layers of the last task."""
    depth, own = layout[-1]
    return [*layout[:-1], (depth, own + 1 if depth + own < backbone_layers else own - 1)]


def swaps(server: str) -> int:
    """How many the server has done."""
    with urllib.request.urlopen(f"{server}/metrics") as answer:  # noqa: S310 - our own server
        lines = answer.read().decode().splitlines()
    (line,) = (one for one in lines if one.startswith('trunkline_swaps_total{result="done"}'))
    return int(float(line.rpartition(" ")[2]))


def milliseconds(percentiles: tuple[float, ...]) -> str:
    return " / ".join(f"{1000 * one:.1f}" for one in percentiles)


if __name__ == "__main__":
    main()
