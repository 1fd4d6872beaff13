"""Throughput for all tasks: one merged release against separate models, in one run.

    .venv/bin/python benchmarks/serving/throughput.py --home FOLDER [--model FOLDER] [--data FOLDER]

*engine*: in one process, all texts waiting. *http*: over HTTP, as many questions open as there are connections, until
the last text is answered. Every side is asked in turn, in several rounds, and a ratio is that of one round. Before,
each side is tried with one batch on all cores and one a core, in batches of several sizes, and keeps what is best for
it. No side keeps answers.

* *ours*: a layout in one release, the paper's mixed one or its industrial one of 21 tasks in 40 layers. *apart*: the
  same tasks with N layers each in one release that shares nothing but the embeddings, so with ours' own kernels,
  batches and server: what sharing itself brings, over the layer ratio N × tasks / layer count, is the **sharing
  efficiency**.
* the peers of `peers.py`, over HTTP each asked in both ways: one request for all tasks, and one a task.
"""

import argparse
import gc
import json
import math
import os
import platform
import shlex
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import beside  # noqa: F401
import engine_side
import peers
import torch
from hosting import can_serve, free_port, hosted, our_command, peer_command
from load import Question, all_answered, questions
from peers import PEERS, PeerTokenizer, Way
from printed_tables import say, show
from rich.table import Table
from setting import Layout, Setting, add_layout_options, add_options, opened
from texts import Texts, chosen
from texts import add_options as add_text_options

_LEAST_BATCHES = 3
"""Of each lane, for a way to be judged by more than the end of its run."""

Rates = Mapping[str, Sequence[float]]
"""Side -> texts a second for all tasks, one a round."""


@dataclass(frozen=True)
class Plan:
    setting: Setting
    precisions: Sequence[str]
    peers: Sequence[str]
    layout: Layout
    """Of ours; the others have as many tasks."""
    ways: Sequence[Way]
    sweep_texts: int | None
    """How many texts the best way is found with; None: all of them."""
    rounds: int
    copies: int
    """Sets of encoder weights of a peer in one process; over HTTP each task has its own."""
    connections: int
    repeats: int
    """How often each text is asked, each round."""
    serve_options: Sequence[str]
    """Further ones of `trunkline serve`."""

    @property
    def tasks(self) -> int:
        return len(self.layout)

    @property
    def releases(self) -> dict[str, str]:
        """Digests by what is in them."""
        return {
            "ours": self.setting.release(self.layout),
            "apart": self.setting.separate_release(self.tasks),
        }

    @property
    def layer_ratio(self) -> float:
        manifest = self.setting.manifest(self.releases["ours"])
        return manifest.layers_if_separate / manifest.layers_in_use


def offline(plan: Plan, texts: Texts) -> tuple[Rates, dict[str, Way]]:
    """Every side in this process, in turn, in the way that is best for it."""
    some, asked = texts.texts[: plan.sweep_texts], [*texts.texts] * plan.repeats
    runs: dict[str, Callable[[], float]] = {}
    best: dict[str, Way] = {}
    for precision in plan.precisions:
        for what, digest in plan.releases.items():
            side = f"{what} {precision}"
            release = engine_side.load_served(plan.setting, digest, precision)
            best[side] = engine_side.best_way(release, some, plan.ways)
            runs[side] = partial(engine_side.answer_all, [release], asked, best[side])
            say(f"{texts.name}: {side}: {best[side]}")
    tokenizer = PeerTokenizer(plan.setting.folder, plan.setting.backbone.max_length)
    for name in plan.peers:
        found = peers.at_its_best(name, plan.setting, some, tasks=plan.tasks, copies=plan.copies, tried=plan.ways)
        best[name] = found.way
        runs[name] = partial(peers.answer_all, found.peer, tokenizer, asked, found.way)
        say(f"{texts.name}: {name}: {found.way}")
    rates: dict[str, list[float]] = {side: [] for side in runs}
    for number in range(plan.rounds):
        for side, run in runs.items():
            rates[side].append(len(asked) / run())
        say(f"{texts.name}: engine, round {number + 1} of {plan.rounds}: {latest(rates)}")
    runs.clear()
    gc.collect()
    return rates, best


def texts_missing(lengths: Sequence[int], tried: Sequence[Way]) -> int:
    """How many more texts than these a sweep of the ways needs, so that a lane has a few batches of the largest size.

    With fewer, what a lane stands idle at the end may decide which way is the best.
    """
    needed = _LEAST_BATCHES * max(way.lanes * way.budget for way in tried)
    return max(0, math.ceil((needed - sum(lengths)) * len(lengths) / sum(lengths)))


def connections_missing(lengths: Sequence[int], way: Way, connections: int) -> int:
    """How many more questions must be open at any time, so that twice as many pieces are there as the lanes compute.

    With fewer, a lane that has answered finds only what the others left over: who asked it asks again only then.
    """
    needed = 2 * way.lanes * way.budget * len(lengths) / sum(lengths)
    return max(0, math.ceil(needed) - connections)


def over_http(plan: Plan, texts: Texts, best: Mapping[str, Way]) -> Rates:
    """Every side in a server of its own, started anew each round. Peers in both ways, from one server."""
    names = [f"task-{task:02}" for task in range(plan.tasks)]
    for side, way in best.items():
        if missing := connections_missing(texts.lengths, way, plan.connections):
            say(f"{texts.name}: {side}, {way}: {missing} more --connections would keep its lanes full")
    at_once, one_a_task = questions(texts.texts), questions(texts.texts, names)
    rates: dict[str, list[float]] = {}
    ours = [(what, precision) for precision in plan.precisions for what in plan.releases] if can_serve() else []
    if not ours:
        say("there is no `trunkline serve`: the peers alone are asked over HTTP")
    for number in range(plan.rounds):
        for what, precision in ours:
            side, port = f"{what} {precision}", free_port()
            command = our_command(
                plan.setting, plan.releases[what], precision, best[side], port=port, options=plan.serve_options
            )
            with hosted(command, port) as server:
                rates.setdefault(side, []).append(_rate(plan, server, at_once))
        for name in plan.peers:
            port = free_port()
            command = peer_command(plan.setting, name, best[name], tasks=plan.tasks, copies=plan.tasks, port=port)
            with hosted(command, port) as server:
                rates.setdefault(f"{name}, at once", []).append(_rate(plan, server, at_once))
                rates.setdefault(f"{name}, one a task", []).append(_rate(plan, server, one_a_task))
        say(f"{texts.name}: HTTP, round {number + 1} of {plan.rounds}: {latest(rates)}")
    return rates


def latest(rates: Rates) -> str:
    """Each side's in the last round, to be told at once: a run may be cut off."""
    return ", ".join(f"{side} {found[-1]:.1f}" for side, found in rates.items())


def _rate(plan: Plan, server: str, asked: Sequence[Question]) -> float:
    """Texts a second, each text asked `plan.repeats` times after a warm-up."""
    all_answered(server, asked[: plan.connections], connections=plan.connections)
    load = all_answered(server, [*asked] * plan.repeats, connections=plan.connections)
    if load.errors:
        raise RuntimeError(f"{load.errors} questions were not answered")
    return load.rate


def ratios(rates: Rates, one: str, other: str) -> tuple[float, float, float] | None:
    """Median, lowest and highest over the rounds; None where a side was not measured."""
    if one not in rates or other not in rates:
        return None
    found = [mine / theirs for mine, theirs in zip(rates[one], rates[other], strict=True)]
    return statistics.median(found), min(found), max(found)


def best_peer(rates: Rates, precision: str) -> str | None:
    """The fastest peer of a precision, in the way of asking that is fastest for it."""
    of_precision = [side for side in rates if PEERS.get(side.split(",")[0]) == precision]
    return max(of_precision, key=lambda side: statistics.median(rates[side]), default=None)


def table_of_rates(rates: Rates, best: Mapping[str, Way], title: str) -> Table:
    table = Table("side", "texts/s", "range", "lanes x threads, batch", title=title)
    for side, found in rates.items():
        way = best.get(side.split(",")[0], "")
        table.add_row(side, f"{statistics.median(found):.1f}", f"{min(found):.1f}-{max(found):.1f}", str(way))
    return table


def table_of_ratios(plan: Plan, rates: Rates, title: str) -> Table:
    table = Table("ratio", "of", "over", "median", "range", "of the layer ratio", title=title)
    for precision in plan.precisions:
        ours, rivals = f"ours {precision}", {"sharing, same kernels": f"apart {precision}"}
        if peer := best_peer(rates, precision):
            rivals["over all, best peer"] = peer
        for what, rival in rivals.items():
            if (found := ratios(rates, ours, rival)) is not None:
                median, low, high = found
                table.add_row(
                    what, ours, rival, f"{median:.2f}", f"{low:.2f}-{high:.2f}", f"{median / plan.layer_ratio:.2f}"
                )  # fmt: skip
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    add_text_options(parser)
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--precisions", default="fp32,bf16", help="of ours")
    add_layout_options(parser, peers.TASKS)
    parser.add_argument("--parts", default="engine,http")
    peers.add_budgets(parser)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sweep-texts", type=int, help="those that the best ways are sought with [default: all]")
    parser.add_argument("--copies", type=int, default=2, help="sets of a peer's encoder weights in one process")
    parser.add_argument("--connections", type=int, default=192, help="texts asked about at any time")
    parser.add_argument("--repeats", type=int, default=1, help="how often each text is asked, each round")
    parser.add_argument("--serve-options", default="", help="further ones of `trunkline serve`")
    parser.add_argument("--quick", action="store_true", help="see that it runs, on a tiny encoder")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--json", type=Path, help="file for all rates")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.width, arguments.texts, arguments.rounds = 64, 32, 1
        arguments.connections, arguments.lengths = 8, "mixed"
        arguments.peers, arguments.precisions = "onnx-fp32", "fp32"
        arguments.budgets = (512,)
    setting = opened(arguments)
    plan = Plan(
        setting=setting,
        precisions=arguments.precisions.split(","),
        peers=[name for name in arguments.peers.split(",") if name],
        layout=setting.layout(arguments.layout, arguments.tasks),
        ways=peers.ways(arguments.budgets),
        sweep_texts=arguments.sweep_texts,
        rounds=arguments.rounds,
        copies=arguments.copies,
        connections=arguments.connections,
        repeats=arguments.repeats,
        serve_options=shlex.split(arguments.serve_options),
    )
    machine = (
        f"{setting.title}, {plan.tasks} tasks, layer ratio {plan.layer_ratio:.2f}; {os.cpu_count()} cores, "
        f"torch {torch.__version__}, Python {platform.python_version()}, {datetime.now(UTC):%Y-%m-%d}"
    )
    kept: dict[str, object] = {"setting": machine, "begun": time.time()}
    for texts in chosen(arguments, setting.text_encoder):
        print(texts.title)
        if missing := texts_missing(texts.lengths[: plan.sweep_texts], plan.ways):
            say(f"{texts.name}: too few texts to tell ways apart: {missing} more, or smaller --budgets, would do")
        in_process, best = offline(plan, texts)
        measured: dict[str, Rates] = {}
        kept[texts.name] = {"texts": texts.title, "rates": measured, "ways": {side: str(w) for side, w in best.items()}}
        for part in ("engine", "HTTP"):  # each told as soon as it is known: the next one takes long
            if part.lower() not in {"engine", *arguments.parts.split(",")}:
                continue
            measured[part] = rates = in_process if part == "engine" else over_http(plan, texts, best)
            show(table_of_rates(rates, best, f"{part}, {texts.name}; {machine}"), markdown=arguments.markdown)
            show(table_of_ratios(plan, rates, f"{part}, {texts.name}: ratios"), markdown=arguments.markdown)
            if arguments.json:
                arguments.json.write_text(json.dumps(kept, indent=1))


if __name__ == "__main__":
    main()
