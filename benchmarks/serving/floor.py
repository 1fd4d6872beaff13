"""How near the engine is to what the machine can multiply, and what one task alone takes.

    .venv/bin/python benchmarks/serving/floor.py --home FOLDER [--model FOLDER] [--data FOLDER] [--precisions fp32,bf16]

*Saturation*: all texts waiting in the engine, all tasks asked. Useful operations are those of the texts' own pieces:
2 · 12 · H² a piece and layer, 4 · T · H for attention in a text of T pieces; a layer of which only the first piece is
read needs 24 · H² a text, and 4 · T · H for each head (`modeling/inference_layers.py`). There are two peaks, both of
1,024 rows, multiplied as layers do, on as many threads at once as the engine uses: that of a layer's widest product, H
by 4 · H, and that of its four products one after the other, without the GELU. Engine and peaks are measured in turn,
and a share is that of one round.

*One task*: the seconds of a batch asked for one task of the merged release, over those of the same task as a model of
its own, (k, l) = (0, N), with the same kernels, in turn; beside it (k + l) / N.
"""

import argparse
import statistics
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import beside  # noqa: F401
import engine_side
import torch
from peers import Way
from printed_tables import say, show
from rich.table import Table
from setting import MIXED, Layout, Setting, add_layout_options, add_options, opened
from texts import Texts, chosen
from texts import add_options as add_text_options

from modeling.inference import DTYPES, Precision
from modeling.products import best_linear, use_threads
from serving.served_release import ServedRelease

PEAK_ROWS = 1024
_PEAK_SECONDS = 1.0


def layer_operations(width: int, length: int) -> float:
    """Of one text of so many pieces."""
    return 24.0 * width**2 * length + 4.0 * length**2 * width


def first_piece_operations(width: int, heads: int, length: int) -> float:
    """The same of a layer that is computed for the first piece alone, on the states of all."""
    return 24.0 * width**2 + 4.0 * heads * length * width


def useful_operations(release: ServedRelease, lengths: Sequence[int]) -> float:
    """Of one pass of all texts for all tasks."""
    config = release.model.trunk.embeddings.config
    width, heads = config.hidden_size, config.num_attention_heads
    branches = release.model.branches.values()
    firsts = sum(branch.head.first_piece_only for branch in branches)
    whole = release.manifest.layers_in_use - firsts
    total = 0.0
    for length in lengths:
        layer = layer_operations(width, length)
        total += whole * layer + firsts * first_piece_operations(width, heads, length)
    return total


def own_products(width: int) -> list[tuple[int, int]]:
    """(inputs, outputs) of a layer's products: queries, keys and values; attention's output; expansion; contraction."""
    return [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]


def peak(products: Sequence[tuple[int, int]], precision: Precision, lanes: int, threads: int) -> float:
    """Operations a second of these products, one after the other, on so many lanes at once.

    Args:
        products: (inputs, outputs) of each.
    """
    dtype = DTYPES[precision]
    cpu = torch.device("cpu")
    work = [
        (
            torch.randn(PEAK_ROWS, inputs).to(dtype),
            best_linear(dtype, cpu)(torch.randn(outputs, inputs), torch.zeros(outputs), dtype=dtype, device=cpu),
        )
        for inputs, outputs in products
    ]
    done = [0] * lanes
    end = time.perf_counter() + _PEAK_SECONDS

    def multiply(lane: int) -> None:
        use_threads(threads)
        while time.perf_counter() < end:
            for x, linear in work:
                linear(x)
            done[lane] += 1

    begun = time.perf_counter()
    workers = [threading.Thread(target=multiply, args=(lane,)) for lane in range(lanes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    operations = sum(2.0 * PEAK_ROWS * inputs * outputs for inputs, outputs in products)
    return sum(done) * operations / (time.perf_counter() - begun)


def saturation(
    setting: Setting, layout: Layout, precisions: Sequence[str], texts: Texts, way: Way, *, rounds: int, repeats: int
) -> list[list[str]]:
    rows = []
    for precision in precisions:
        release = engine_side.load_served(setting, setting.release(layout), precision)
        operations = useful_operations(release, texts.lengths)
        engine_side.answer_all([release], texts.texts[:32], way)
        width = setting.backbone.hidden_size
        found: list[tuple[float, float, float]] = []
        for _ in range(rounds):
            seconds = engine_side.answer_all([release], list(texts.texts) * repeats, way)
            widest = peak([(width, 4 * width)], precision, way.lanes, way.threads)
            own = peak(own_products(width), precision, way.lanes, way.threads)
            found.append((operations * repeats / seconds, widest, own))
        medians = [f"{statistics.median(rates) / 1e9:.0f}" for rates in zip(*found, strict=True)]
        of_widest, of_own = (_share([one[0] / one[kind] for one in found]) for kind in (1, 2))
        rows.append([texts.name, precision, *medians[:2], of_widest, medians[2], of_own])
        say(f"saturation, {texts.name}, {precision}: {of_widest} of the widest product, {of_own} of all four")
    return rows


def _share(shares: Sequence[float]) -> str:
    return f"{statistics.median(shares):.0%} ({min(shares):.0%}-{max(shares):.0%})"


def one_task(setting: Setting, layout: Layout, precision: str, texts: Texts, rounds: int) -> list[list[str]]:
    merged = engine_side.load_served(setting, setting.release(layout), precision)
    layers = setting.backbone.layer_count
    batch = merged.encoder.encode([(text, None) for text in texts.texts[:32]])
    rows = []
    for number, (depth, own) in enumerate(layout):
        task = f"task-{number:02}"
        alone_digest = setting.release([(0, layers)], first_task=number)
        alone = engine_side.load_served(setting, alone_digest, precision)
        ratios = []
        for _ in range(rounds + 1):
            ours, theirs = (_seconds(release, task, batch) for release in (merged, alone))
            ratios.append(ours / theirs)
        ratio, expected = statistics.median(ratios[1:]), (depth + own) / layers
        rows.append([task, f"{depth}, {own}", f"{ratio:.2f}", f"{expected:.2f}", f"{ratio / expected - 1:+.0%}"])
        say(f"{task}: {ratio:.2f}")
    return rows


def _seconds(release: ServedRelease, task: str, batch: Sequence[object]) -> float:
    """The least of three passes of a batch for one task."""
    least = float("inf")
    for _ in range(3):
        begun = time.perf_counter()
        for _answer in release.model.one_pass(batch, {task: range(len(batch))}):
            pass
        least = min(least, time.perf_counter() - begun)
    return least


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    add_layout_options(parser, len(MIXED))
    add_text_options(parser)
    parser.set_defaults(texts=192)
    parser.add_argument("--precisions", default="fp32,bf16")
    parser.add_argument("--way", default="2,1,1024", help="lanes, threads of each, pieces of a batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--repeats",
        type=int,
        default=4,
        help="times that all texts are asked, so that the last batches count for little",
    )
    parser.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()
    setting, precisions = opened(arguments), arguments.precisions.split(",")
    layout = setting.layout(arguments.layout, arguments.tasks)
    way = Way(*map(int, arguments.way.split(",")))
    when = f"{setting.title}, {way}; torch {torch.__version__}, {datetime.now(UTC):%Y-%m-%d}"
    columns = ("texts", "precision", "useful GFLOP/s", "widest product", "share", "its own four", "share")
    table = Table(*columns, title=f"Saturation, {len(layout)} tasks, {when}")
    several = chosen(arguments, setting.text_encoder)
    for texts in several:
        for row in saturation(
            setting, layout, precisions, texts, way, rounds=arguments.rounds, repeats=arguments.repeats
        ):
            table.add_row(*row)
    show(table, markdown=arguments.markdown)
    table = Table(
        "task", "k, l", "of its own model's time", "(k + l) / N", "", title=f"One task asked, 32 texts, {when}"
    )
    for row in one_task(setting, layout, precisions[-1], several[-1], arguments.rounds):
        table.add_row(*row)
    show(table, markdown=arguments.markdown)


if __name__ == "__main__":
    main()
