"""How the cores are best used: lanes, threads of each, and pieces of a batch, all in turn in one run.

    .venv/bin/python benchmarks/serving/lanes.py --home FOLDER [--model FOLDER] [--data FOLDER] [--ways 2,1,256 …]

All texts wait in the engine, all tasks are asked, so this is throughput; what a larger batch does to waiting texts is
for `latency.py`. A ratio is over the first of the ways, in the same round.
"""

import argparse
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import cast

import beside  # noqa: F401
import engine_side
import torch
from peers import Way
from printed_tables import say, show
from rich.table import Table
from setting import MIXED, add_layout_options, add_options, opened
from texts import add_options as add_text_options
from texts import chosen

from modeling.inference import Precision
from serving.served_release import ServedRelease

WAYS = ("2,1,1024", "2,1,512", "2,1,256", "2,1,128", "1,2,1024", "1,2,256", "1,1,1024", "2,2,1024", "4,1,1024")


def rates_by_way(
    release: ServedRelease, texts: Sequence[str], ways: Sequence[Way], *, rounds: int
) -> Mapping[Way, list[float]]:
    """Texts a second, one a round, after a warm-up of each way."""
    for way in ways:
        engine_side.answer_all([release], texts[:32], way)
    rates: dict[Way, list[float]] = {way: [] for way in ways}
    for number in range(rounds):
        for way, found in rates.items():
            found.append(len(texts) / engine_side.answer_all([release], texts, way))
        say(f"round {number + 1} of {rounds}")
    return rates


def table_of(rates: Mapping[Way, Sequence[float]], title: str) -> Table:
    first = next(iter(rates.values()))
    table = Table("lanes", "threads of each", "pieces of a batch", "texts/s", "over the first", "range", title=title)
    for way, found in rates.items():
        shares = [mine / theirs for mine, theirs in zip(found, first, strict=True)]
        middle, low, high = statistics.median(shares), min(shares), max(shares)
        table.add_row(
            *map(str, way), f"{statistics.median(found):.1f}", f"{middle:.2f}", f"{low:.2f}-{high:.2f}"
        )  # fmt: skip
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    add_layout_options(parser, len(MIXED))
    add_text_options(parser)
    parser.set_defaults(texts=192, lengths="mixed")
    parser.add_argument("--precisions", default="fp32,bf16")
    parser.add_argument("--ways", nargs="+", default=WAYS, help="lanes, threads of each, pieces of a batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()
    setting = opened(arguments)
    layout = setting.layout(arguments.layout, arguments.tasks)
    ways = [Way(*map(int, way.split(","))) for way in arguments.ways]
    for texts in chosen(arguments, setting.text_encoder):
        for precision in cast("list[Precision]", arguments.precisions.split(",")):
            release = engine_side.load_served(setting, setting.release(layout), precision)
            rates = rates_by_way(release, texts.texts, ways, rounds=arguments.rounds)
            title = (
                f"{setting.title}, {len(layout)} tasks, {precision}, {texts.title}; torch {torch.__version__}, "
                f"{datetime.now(UTC):%Y-%m-%d}"
            )
            show(table_of(rates, title), markdown=arguments.markdown)


if __name__ == "__main__":
    main()
