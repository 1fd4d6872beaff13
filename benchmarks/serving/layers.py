"""What one layer makes of a core: its products, and how much of their peak is left for texts.

    .venv/bin/python benchmarks/serving/layers.py --home FOLDER [--model FOLDER] [--precisions fp32,bf16]

*Products*: GFLOP/s of a layer's products on one thread in every way of `modeling/products.py` that multiplies in that
precision, alone and with GELU behind it; all ways in turn, the median of the rounds.

*Attention*: milliseconds of one layer's, over 1,024 pieces in blocks of several widths, as two batched products and by
torch's fused kernel; in turn, the median of the rounds.

*A last layer*, of which only each row's first piece is read, with keys and values of all pieces and on their states,
over batches of several kinds: its time as a share of a whole layer's, all three in turn.

*A layer*: useful operations a second of a whole layer over batches of several kinds, as a share of the peak, which is
the widest product of the first table with 1,024 rows in the way that layers take, measured in turn with it. Operations
are those of `floor.py`.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import cast

import beside  # noqa: F401
import torch
from floor import PEAK_ROWS, layer_operations
from printed_tables import say, show
from rich.table import Table
from setting import Setting, add_options, opened
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.activations import GELUActivation

from modeling.backbone import load_trunk
from modeling.inference import DTYPES, Form, Precision, inference_layer
from modeling.inference_layers import (
    FirstPieceLayer,
    FirstPieceLayerOnStates,
    InferenceLayer,
    attention_by_products,
    fused_attention,
    scores_a_group,
)
from modeling.packing import Packed
from modeling.products import WAYS, PreparedLinear, best_linear, use_threads
from modeling.text import EncodedText

CPU = torch.device("cpu")
BLOCK_WIDTHS = (16, 32, 64, 128)
_AT_LEAST = 0.05
"""Seconds of one measurement."""

_drawn = random.Random(0)  # noqa: S311
BATCHES: Mapping[str, Sequence[int]] = {
    "32 texts of 32 pieces": [32] * 32,
    "80 texts of 6-20": [_drawn.randint(6, 20) for _ in range(80)],
    "32 texts of 4-128": [_drawn.randint(4, 128) for _ in range(32)],
    "4 texts of 16-48": [16, 24, 32, 48],
    "1 text of 16": [16],
}
"""Lengths in pieces."""


Way = tuple[Callable[[], object], float]
"""What is called, and how many operations that is."""


def rates_in_turn(ways: Sequence[Way], rounds: int) -> list[list[float]]:
    """Of each way: operations a second, one a round."""
    found: list[list[float]] = [[] for _ in ways]
    with torch.inference_mode():
        for call, _ in ways:
            call()
        for _ in range(rounds):
            for rates, (call, operations) in zip(found, ways, strict=True):
                calls, begun = 0, time.perf_counter()
                while (seconds := time.perf_counter() - begun) < _AT_LEAST:
                    call()
                    calls += 1
                rates.append(operations * calls / seconds)
    return found


def product_ways(
    linear: type[PreparedLinear], rows: int, inputs: int, outputs: int, precision: Precision
) -> tuple[Way, Way]:
    """Alone, and with GELU."""
    dtype = DTYPES[precision]
    x, weight, bias = torch.randn(rows, inputs).to(dtype), torch.randn(outputs, inputs) * 0.02, torch.zeros(outputs)
    alone = linear(weight, bias, dtype=dtype, device=CPU)
    with_gelu = linear(weight, bias, dtype=dtype, device=CPU, activation=GELUActivation())
    operations = 2.0 * rows * inputs * outputs
    return (lambda: alone(x), operations), (lambda: with_gelu(x), operations)


def products(width: int, precisions: Sequence[Precision], rounds: int) -> Table:
    measured = [(precision, way) for precision in precisions for way in WAYS if way.works(DTYPES[precision], CPU)]
    columns = [f"{precision}, {way.__name__}" for precision, way in measured]
    title = f"GFLOP/s on one thread, alone / with GELU, {_machine()}"
    table = Table("product", *columns, title=title)
    shapes = ((PEAK_ROWS, width, 3 * width), (PEAK_ROWS, width, 4 * width), (PEAK_ROWS, 4 * width, width))
    for shape in (*shapes, (256, width, 4 * width), (32, width, 4 * width)):
        ways = [way for precision, linear in measured for way in product_ways(linear, *shape, precision)]
        medians = [statistics.median(rates) / 1e9 for rates in rates_in_turn(ways, rounds)]
        rows, inputs, outputs = shape
        pairs = zip(medians[::2], medians[1::2], strict=True)
        table.add_row(f"{rows} rows, {inputs} → {outputs}", *(f"{alone:.0f} / {gelu:.0f}" for alone, gelu in pairs))
        say(f"{rows} rows, {inputs} → {outputs}")
    return table


def attention(width: int, heads: int, precisions: Sequence[Precision], rounds: int) -> Table:
    columns = [f"{precision}, {way}" for precision in precisions for way in ("products", "fused")]
    table = Table("blocks", *columns, title=f"Milliseconds of a layer's attention on one thread, {_machine()}")
    for block in BLOCK_WIDTHS:
        cells = []
        for precision in precisions:
            shape, dtype = (PEAK_ROWS // block, block, 3, heads, width // heads), DTYPES[precision]
            query, key, value = torch.randn(shape).to(dtype).permute(2, 0, 3, 1, 4).unbind(0)
            halves = torch.arange(block) < block // 2
            apart = halves[:, None] != halves
            bias = torch.zeros(apart.shape).masked_fill_(apart, torch.finfo(torch.float32).min)
            bias = bias.expand(shape[0], 1, block, block)
            ways = [
                (lambda: attention_by_products(query, key, value, bias), 1.0),  # noqa: B023 - asked here
                (lambda: fused_attention(query, key, value, bias), 1.0),  # noqa: B023
            ]
            cells += [f"{1e3 / statistics.median(rates):.2f}" for rates in rates_in_turn(ways, rounds)]
        table.add_row(f"{PEAK_ROWS // block} of {block} pieces", *cells)
        say(f"attention in blocks of {block}")
    return table


def batches(width: int, precision: Precision) -> Iterator[tuple[str, Packed, Tensor]]:
    """Each of `BATCHES`: its name, its line and a state of it."""
    for name, lengths in BATCHES.items():
        rows = [EncodedText((5,) * length, (0,) * length, (), (), 0) for length in lengths]
        cost = scores_a_group(DTYPES[precision], CPU)
        packed = Packed(rows, range(len(rows)), device=CPU, scores_a_group=cost)
        yield name, packed, torch.randn(packed.pieces, width).to(DTYPES[precision])


def last_layers(setting: Setting, precision: Precision, rounds: int) -> list[str]:
    """Share of a whole layer's time with keys and values, and on states, one a batch: "16% / 5%"."""
    source, config = first_layer(setting)
    ways = (InferenceLayer, FirstPieceLayer, FirstPieceLayerOnStates)
    layers = [way(source, config, dtype=DTYPES[precision], device=CPU) for way in ways]
    cells = []
    for name, packed, hidden in batches(setting.backbone.hidden_size, precision):
        whole, *last = rates_in_turn([(partial(layer, hidden, packed), 1.0) for layer in layers], rounds)
        medians = [statistics.median(a / b for a, b in zip(whole, rates, strict=True)) for rates in last]
        cells.append(" / ".join(f"{share:.0%}" for share in medians))
        say(f"last layer, {precision}, {name}: {cells[-1]}")
    return cells


def shares(setting: Setting, precision: Precision, rounds: int) -> list[str]:
    """Of the peak, one a batch of `BATCHES`: "median (lowest-highest)"."""
    width = setting.backbone.hidden_size
    layer = inference_layer(*first_layer(setting), Form(precision, CPU))
    peak, _ = product_ways(best_linear(DTYPES[precision], CPU), PEAK_ROWS, width, 4 * width, precision)
    cells = []
    for name, packed, hidden in batches(width, precision):
        operations = sum(layer_operations(width, length) for length in packed.lengths)
        most, ours = rates_in_turn([peak, (partial(layer, hidden, packed), operations)], rounds)
        found = sorted(mine / theirs for mine, theirs in zip(ours, most, strict=True))
        cells.append(f"{statistics.median(found):.0%} ({found[0]:.0%}-{found[-1]:.0%})")
        say(f"{precision}, {name}: {cells[-1]}")
    return cells


def first_layer(setting: Setting) -> tuple[nn.Module, PreTrainedConfig]:
    """As transformers has it."""
    backbone = setting.backbone
    trunk = load_trunk(
        config=backbone.config, embeddings=backbone.embeddings, layers=backbone.layers[:1], store=setting.store
    )
    return trunk.layers[0], trunk.config


def _machine() -> str:
    return f"torch {torch.__version__}, {datetime.now(UTC):%Y-%m-%d}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--precisions", default="fp32,bf16")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()
    use_threads(1)
    setting = opened(arguments)
    precisions = cast("list[Precision]", arguments.precisions.split(","))
    show(products(setting.backbone.hidden_size, precisions, arguments.rounds), markdown=arguments.markdown)
    heads = setting.backbone.config["num_attention_heads"]
    table = attention(setting.backbone.hidden_size, heads, precisions, arguments.rounds)
    show(table, markdown=arguments.markdown)
    for title, row in (
        ("A last layer's time of a whole one's on one thread, keys and values / on states", last_layers),
        ("A layer on one thread, share of the peak", shares),
    ):
        table = Table("precision", *BATCHES, title=f"{title}; {setting.title}, {_machine()}")
        for precision in precisions:
            table.add_row(precision, *row(setting, precision, arguments.rounds))
        show(table, markdown=arguments.markdown)


if __name__ == "__main__":
    main()
