"""How long a request of several texts takes on an idle machine: shared out among the lanes, or computed by one.

    .venv/bin/python benchmarks/serving/lists.py --home FOLDER [--model FOLDER] [--data FOLDER] [--counts 1,2,4,8]

All tasks are asked of every text; the time is that until the last answer. The least shares are tried in turn, with
other texts each round, and a ratio is that of one round to `never`, where one lane takes the whole list.
"""

import argparse
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import cast

import beside  # noqa: F401
import engine_side
import torch
from peers import Way
from printed_tables import number_list, say, show
from rich.table import Table
from setting import MIXED, add_layout_options, add_options, opened
from texts import add_options as add_text_options
from texts import chosen

from modeling.inference import Precision
from serving.engine import Engine, EngineSettings
from serving.questions import Text
from serving.served_release import ServedRelease

NEVER = 1 << 30
"""A least share that no list of texts reaches."""
_BEHIND_SECONDS = 0.01


def seconds_of_a_list(engine: Engine, texts: Sequence[str], *, lanes: int, behind: str | None = None) -> float:
    """Until the last answer to one request of these texts, of an engine that is idle before and after.

    Args:
        behind: a text that is asked for as soon as lanes have taken from the list; then it is that one's last answer.
    """
    answered = _asked(engine, texts)
    if behind is not None:
        time.sleep(_BEHIND_SECONDS)
        answered_behind = _asked(engine, [behind])
    seconds = answered()
    if behind is not None:
        seconds = answered_behind()
    while engine.working and engine.idle_lanes < lanes:  # the last lane is still on its way back
        time.sleep(0.001)
    return seconds


def _asked(engine: Engine, texts: Sequence[str]) -> Callable[[], float]:
    """Asks, and returns what waits for the last answer and tells the seconds."""
    ends, failed, done = list[float](), list[Exception](), threading.Event()

    def ended(error: Exception | None) -> None:
        if error is not None:
            failed.append(error)
        ends.append(time.perf_counter())
        done.set()

    def wait() -> float:
        done.wait()
        if failed:
            raise failed[0]
        return ends[0] - begin

    begin = time.perf_counter()
    engine.ask([Text(text) for text in texts], None, timeout=600.0, on_answers=lambda _: None, on_end=ended)
    return wait


def seconds_by_share(
    release: ServedRelease,
    texts: Sequence[str],
    *,
    way: Way,
    shares: Sequence[int],
    counts: Sequence[int],
    rounds: int,
    behind: bool = False,
) -> Mapping[int, Mapping[int, Sequence[float]]]:
    """Count of texts -> least share -> seconds, one a round.

    Args:
        behind: of a single text that comes right after the list.
    """
    engines = {
        share: Engine(
            release,
            EngineSettings(
                lanes=way.lanes, threads=way.threads, batch_pieces=way.budget, least_share=share, cache_bytes=0
            ),
        )
        for share in shares
    }
    for engine in engines.values():
        seconds_of_a_list(engine, texts[: max(counts)], lanes=way.lanes)
    found: dict[int, dict[int, list[float]]] = {count: {share: [] for share in shares} for count in counts}
    for number in range(rounds):
        for count, by_share in found.items():
            begin = number * count % max(1, len(texts) - count + 1)
            first = number % len(shares)  # else one of them would always meet the texts first
            for share in [*shares[first:], *shares[:first]]:
                some, one = texts[begin : begin + count], texts[number % len(texts)] if behind else None
                by_share[share].append(seconds_of_a_list(engines[share], some, lanes=way.lanes, behind=one))
        say(f"round {number + 1} of {rounds}")
    for engine in engines.values():
        engine.close(timeout=10.0)
    return found


def table_of(found: Mapping[int, Mapping[int, Sequence[float]]], title: str) -> Table:
    table = Table("texts", "least share", "ms", "over one lane", "range", title=title)
    for count, by_share in found.items():
        for share, seconds in by_share.items():
            ratios = [mine / alone for mine, alone in zip(seconds, by_share[NEVER], strict=True)]
            table.add_row(
                str(count),
                "never" if share == NEVER else str(share),
                f"{1000 * statistics.median(seconds):.1f}",
                f"{statistics.median(ratios):.2f}",
                f"{min(ratios):.2f}-{max(ratios):.2f}",
            )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    add_layout_options(parser, len(MIXED))
    add_text_options(parser)
    parser.set_defaults(lengths="mixed")
    parser.add_argument("--precisions", default="fp32,bf16")
    parser.add_argument("--way", default="2,1,1024", help="lanes, threads of each, pieces of a batch")
    parser.add_argument("--shares", default="16,64", help="least shares, in pieces")
    parser.add_argument("--counts", default="1,2,4,8,16,32", help="texts of a request")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--behind", action="store_true", help="time a single text that comes right after the list")
    parser.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()
    if max(number_list(arguments.counts)) > arguments.texts:
        parser.error("--counts asks for more texts than --texts gives")
    setting = opened(arguments)
    layout = setting.layout(arguments.layout, arguments.tasks)
    for texts in chosen(arguments, setting.text_encoder):
        for precision in cast("list[Precision]", arguments.precisions.split(",")):
            found = seconds_by_share(
                engine_side.load_served(setting, setting.release(layout), precision),
                texts.texts,
                way=Way(*map(int, arguments.way.split(","))),
                shares=[NEVER, *number_list(arguments.shares)],
                counts=number_list(arguments.counts),
                rounds=arguments.rounds,
                behind=arguments.behind,
            )
            what = "one text behind a list" if arguments.behind else "a list of texts"
            title = (
                f"{what}; {setting.title}, {len(layout)} tasks, {precision}, {texts.title}; "
                f"torch {torch.__version__}, {datetime.now(UTC):%Y-%m-%d}"
            )
            show(table_of(found, title), markdown=arguments.markdown)


if __name__ == "__main__":
    main()
