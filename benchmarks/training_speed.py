"""How near a training step on cached activations comes to the matrix-product peak, and what holds the rest.

Useful work is what a step must multiply, counted from the texts' own lengths, without padding: of every task layer the
forward products, the gradients of their weights and of their inputs (none for what the first layer reads, which is
frozen), and attention's own. The head reads the first piece only, so that our last layer counts what that takes; the
plain loop's counts whole, as it computes it.
The peak is that of a layer's products alone (forward, both gradients) at the step's own number of pieces, in the same
precision on the same threads, measured in turn with the steps.

*Own products*: what all products of the step take alone, each at its own shape, over what the step takes. A last
layer's have one row a text, and no processor multiplies 32 rows as fast as 384.

*All steps of a default search*: the same shares of all the steps that `trunkline search` runs, teachers' and students',
from the cheapest to the dearest L that may win; computed from the steps that were measured (`search_steps.py`).

    .venv/bin/python benchmarks/training_speed.py --model FOLDER --data FOLDER

The data folder holds `NAME/train.jsonl.gz` with `text`, perhaps `text_pair`. `own` is a step as trials run it; `plain`
the loop that one writes first: transformers' layers whole, SDPA attention, autocast, torch's clipping and AdamW.

Times are the least of several rounds. With one thread they are time on the processor, so that what others take of a
shared machine is left out; with two threads they are wall time.
"""

import argparse
import gzip
import itertools
import json
import multiprocessing
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.table import Table
from search_steps import Step, default_search, search_steps
from torch import Tensor, nn
from torch.optim import AdamW
from torch.profiler import ProfilerActivity, profile

from cli.search_options import default_layers
from modeling.backbone import attention_mask, load_text_encoder, load_trunk
from modeling.inference import DTYPES
from modeling.task_module import TaskModule, copy_backbone_layers, new_task_module
from pipelines.training.activation_cache import EncodedRows, computing_in
from pipelines.training.batches import cached_batch, epoch_batches
from pipelines.training.objectives import Objective
from pipelines.training.optimisation import TrainingRows, new_optimiser, training_step
from pipelines.training.packed_rows import PackedRows
from pipelines.training.recipes import Precision, Recipe
from registry.artifacts.backbone_files import store_backbone
from registry.artifacts.local_store import LocalArtifactStore
from registry.domain.manifests import HeadConfig
from registry.domain.task_specs import TaskType

CONSOLE = Console(width=150)
CPU = torch.device("cpu")
BATCH_SIZE, TEXTS = 32, 3200
HEAD = HeadConfig(type=TaskType.CLASSIFICATION, outputs=2)

PARTS = {
    "products": ("aten::addmm", "aten::mm"),
    "attention": ("aten::bmm", "aten::_softmax", "aten::_softmax_backward_data"),
    "GELU": ("aten::gelu", "aten::gelu_backward"),
    "layer norm": ("aten::native_layer_norm", "aten::native_layer_norm_backward"),
    "dropout, residual": ("aten::addcmul", "aten::mul", "aten::randint", "aten::add", "aten::add_"),
    "casts, copies": ("aten::copy_", "aten::cat", "aten::stack"),
    "bias gradients": ("aten::sum",),
    "optimiser": ("aten::_fused_adamw_",),
    "clipping": ("aten::_foreach_norm", "aten::linalg_vector_norm", "aten::_foreach_mul_"),
}
"""Kernels by what they are for; all others, and torch's and Python's own time, are the rest."""


@dataclass(frozen=True)
class Setting:
    model: str
    data: str
    sets: tuple[str, ...]
    layers: tuple[int, ...]
    precision: Precision
    threads: int
    rounds: int


def clock(threads: int) -> Callable[[], float]:
    return time.process_time if threads == 1 else time.perf_counter


def texts_of(path: Path) -> list[tuple[str, str | None]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in itertools.islice(lines, TEXTS)]
    return [(row["text"], row.get("text_pair")) for row in rows]


def step_flops(
    lengths: Sequence[int], layers: int, *, width: int, inner: int, heads: int, first_piece_only: bool
) -> float:
    """Floating-point operations of one step's products over texts of these lengths; the head's are left out."""
    rows, pieces, pairs = len(lengths), sum(lengths), sum(length**2 for length in lengths)
    whole = 2 * pieces * (4 * width**2 + 2 * width * inner) + 4 * pairs * width
    seen = 4 * heads * pieces * width  # scores of a row's one query a head, and what it saw, on the states themselves
    last = 2 * rows * (4 * width**2 + 2 * width * inner) + seen
    reduced = first_piece_only and layers == 1
    frozen = 2 * width**2 * rows + seen if reduced else 6 * width**2 * pieces
    return 3 * ((layers - 1) * whole + (last if first_piece_only else whole)) - frozen


@dataclass(frozen=True)
class Product:
    """x [batch, rows, inputs] by a weight [batch, inputs, outputs], and the gradients of them that a step computes."""

    rows: int
    inputs: int
    outputs: int
    batch: int = 1
    gradients: tuple[Literal["x", "weight"], ...] = ("x", "weight")

    @property
    def flops(self) -> float:
        return 2.0 * self.batch * self.rows * self.inputs * self.outputs * (1 + len(self.gradients))


def layer_products(pieces: int, width: int, inner: int) -> list[Product]:
    """A layer's products with its weights: query, key and value, attention's output, expansion, contraction."""
    return [Product(pieces, n, m) for n, m in ((width, 3 * width), (width, width), (width, inner), (inner, width))]


def step_products(
    texts: int, length: int, layers: int, *, width: int, inner: int, heads: int, pieces: int | None = None
) -> list[Product]:
    """All products of a step over texts of this length whose head reads the first piece only; the head's are left out.

    Args:
        pieces: of all texts, where they are not of one length: attention is then as wide as the longest.
    """
    pieces, size = pieces or texts * length, width // heads
    attention = [Product(length, size, length, texts * heads), Product(length, length, size, texts * heads)]
    whole = [*layer_products(pieces, width, inner), *attention]
    query, output, expansion, contraction = [
        Product(texts, n, m) for n, m in ((width, width), (width, width), (width, inner), (inner, width))
    ]
    keys, values = Product(texts, size, width, heads), Product(texts, width, size, heads)
    scores, seen = Product(heads, width, length, texts), Product(heads, length, width, texts)
    if layers == 1:
        query = replace(query, gradients=("weight",))
        scores, seen = (replace(one, gradients=("x",)) for one in (scores, seen))
    last = [query, keys, scores, seen, values, output, expansion, contraction]
    if layers > 1:
        first = [replace(whole[0], gradients=("weight",)), *whole[1:]]
        return [*first, *whole * (layers - 2), *last]
    return last


def multiplying(products: Sequence[Product], dtype: torch.dtype) -> Callable[[], object]:
    """What multiplies them, one after the other, forward and backward; weights lie as those of linear layers do."""
    tensors = []
    for one in products:
        shapes = ((one.rows, one.inputs), (one.outputs, one.inputs), (one.rows, one.outputs))
        batch = () if one.batch == 1 else (one.batch,)
        tensors.append((one, *(torch.randn(*batch, *shape).to(dtype) for shape in shapes)))

    def run() -> None:
        for one, x, weight, gradient in tensors:
            torch.matmul(x, weight.mT)
            if "x" in one.gradients:
                torch.matmul(gradient, weight)
            if "weight" in one.gradients:
                torch.matmul(gradient.mT, x)

    return run


def plain_step(module: TaskModule, optimiser: AdamW, train: TrainingRows, batch: Sequence[int], recipe: Recipe) -> None:
    cached = cached_batch(train.activations, train.rows.encoded, batch, CPU)
    targets = torch.cat([train.targets[row] for row in batch])
    with computing_in(recipe.precision, CPU):
        hidden, mask = cached.hidden, attention_mask(module.config, cached.hidden, cached.mask)
        for layer in module.layers:
            hidden = layer(hidden, mask)
        outputs = module.head(hidden[:, 0], cached.word_tokens)
    nn.functional.cross_entropy(outputs.float(), targets).backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), recipe.clip_norm)
    optimiser.step()
    optimiser.zero_grad()


class Measured:
    """The encoder that steps are measured on: pinned in a store of its own, its trunk loaded."""

    def __init__(self, model: Path, store: LocalArtifactStore) -> None:
        self.store = store
        self.backbone = store_backbone(model, name="measured", max_length=None, store=store)
        self.encoder = load_text_encoder(self.backbone, store)
        self.trunk = load_trunk(
            config=self.backbone.config, embeddings=self.backbone.embeddings, layers=[], store=store
        )

    @property
    def sizes(self) -> dict[str, int]:
        config = self.trunk.config
        return {
            "width": config.hidden_size,
            "inner": config.intermediate_size,
            "heads": config.num_attention_heads,
        }

    def module(self, layers: int) -> TaskModule:
        """A classifier on so many of the encoder's last layers."""
        made = new_task_module(config=self.backbone.config, head=HEAD, task_layers=layers, seed=0)
        first = self.backbone.layer_count - layers + 1
        copy_backbone_layers(made, first_layer=first, layer_blobs=self.backbone.layers, store=self.store)
        return made

    def training_rows(self, rows: EncodedRows, used: Sequence[int], dtype: torch.dtype) -> TrainingRows:
        """With what the trunk gives for the rows that are used, as a cache would hold it."""
        encoded = rows.encoded
        values: dict[int, Tensor] = {
            row: self.trunk(self.encoder.collate([encoded[row]]), [0])[0][0, : rows.lengths[row]].to(dtype)
            for row in used
        }
        lengths = [rows.lengths[row] if row in values else 0 for row in range(len(encoded))]
        return TrainingRows(
            activations=PackedRows(torch.cat([values[row] for row in used]), [0, *itertools.accumulate(lengths)]),
            rows=rows,
            targets=[torch.tensor([row % 2]) for row in range(len(encoded))],
            objective=Objective(type=HEAD.type, target_scale=1.0),
            teacher_outputs=None,
        )


def three_batches(rows: EncodedRows) -> list[list[int]]:
    """Batches of an epoch at a quarter, a half and three quarters of their order by pieces."""
    by_size = sorted(
        epoch_batches(rows.lengths, batch_size=BATCH_SIZE, seed=0, epoch=1),
        key=lambda batch: sum(rows.lengths[row] for row in batch),
    )
    return [list(by_size[len(by_size) * part // 4]) for part in (1, 2, 3)]


def measure(setting: Setting) -> list[dict[str, object]]:
    """One result a text set and number of layers; run in a process of its own."""
    torch.set_num_threads(setting.threads)
    results: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as scratch:
        measured = Measured(Path(setting.model), LocalArtifactStore(Path(scratch)))
        for name in setting.sets:
            encoded = measured.encoder.encode(texts_of(Path(setting.data) / name / "train.jsonl.gz"))
            rows = EncodedRows(encoded, [str(number) for number in range(len(encoded))])
            batches = three_batches(rows)
            train = measured.training_rows(
                rows, sorted({row for batch in batches for row in batch}), DTYPES[setting.precision]
            )
            pieces = sum(rows.lengths[row] for batch in batches for row in batch) / len(batches) / BATCH_SIZE
            for layers in setting.layers:
                found = measure_steps(setting, measured, train, batches, layers)
                described = {"set": name, "pieces_a_text": pieces, "layers": layers}
                results.append(described | {"backbone_layers": measured.backbone.layer_count} | found)
    return results


def measure_steps(
    setting: Setting, measured: Measured, train: TrainingRows, batches: Sequence[Sequence[int]], layers: int
) -> dict[str, object]:
    """Own steps, plain ones and the products alone, in turn over the batches; milliseconds are a step's."""
    recipe = Recipe(learning_rate=1e-5, precision=setting.precision)
    own, plain = measured.module(layers), measured.module(layers)
    fused, usual = new_optimiser(own, recipe), AdamW(plain.parameters(), lr=recipe.learning_rate)
    sides: dict[str, list[Callable[[], object]]] = defaultdict(list)
    flops: dict[str, float] = defaultdict(float)
    sizes = measured.sizes
    for batch in batches:
        lengths = [train.rows.lengths[row] for row in batch]
        flops["own"] += step_flops(lengths, layers, **sizes, first_piece_only=True)
        flops["plain"] += step_flops(lengths, layers, **sizes, first_piece_only=False)
        dtype = DTYPES[setting.precision]
        of_a_layer = layer_products(sum(lengths), sizes["width"], sizes["inner"])
        flops["peak"] += sum(one.flops for one in of_a_layer)
        sides["peak"].append(multiplying(of_a_layer, dtype))
        of_a_step = step_products(len(lengths), max(lengths), layers, pieces=sum(lengths), **sizes)
        sides["products"].append(multiplying(of_a_step, dtype))
        sides["own"].append(partial(training_step, own, fused, train, batch, recipe=recipe, seed=1, device=CPU))
        sides["plain"].append(partial(plain_step, plain, usual, train, batch, recipe))
    least = least_seconds(sides, setting.rounds, clock(setting.threads))
    peak = flops["peak"] / least["peak"]
    return {
        "peak_gflops": peak / 1e9,
        **{f"{side}_ms": 1000 * least[side] / len(batches) for side in ("own", "plain")},
        **{f"{side}_share": flops[side] / least[side] / peak for side in ("own", "plain")},
        "products_share": least["products"] / least["own"],
        "parts": breakdown(sides["own"][1], setting.rounds) if setting.threads == 1 else None,
    }


def least_seconds(
    sides: dict[str, list[Callable[[], object]]], rounds: int, now: Callable[[], float]
) -> dict[str, float]:
    """Of every side the least time of each of its runs, summed; the sides take turns."""
    least = {side: [float("inf")] * len(runs) for side, runs in sides.items()}
    for _ in range(rounds + 1):
        for side, runs in sides.items():
            for place, run in enumerate(runs):
                begin = now()
                run()
                least[side][place] = min(least[side][place], now() - begin)
    return {side: sum(times) for side, times in least.items()}


def breakdown(step: Callable[[], object], rounds: int) -> dict[str, float]:
    """Share of a step's time by part: of every kernel call the least time over several runs of the same step."""
    runs = []
    for _ in range(rounds):
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            step()
        runs.append([(event.name, event.self_cpu_time_total) for event in profiled.events()])
    usual = [run for run in runs if len(run) == len(runs[-1])]
    part_of = {kernel: part for part, kernels in PARTS.items() for kernel in kernels}
    parts: dict[str, float] = dict.fromkeys([*PARTS, "rest"], 0.0)
    for calls in zip(*usual, strict=True):
        parts[part_of.get(calls[0][0], "rest")] += min(seconds for _, seconds in calls)
    return {part: spent / sum(parts.values()) for part, spent in parts.items()}


def measure_in_processes(setting: Setting, processes: int) -> list[dict[str, object]]:
    """The first process's results; the others run the same beside it."""
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return pool.map(measure, [setting] * processes, chunksize=1)[0]


def show(results: Sequence[dict[str, object]], title: str) -> None:
    table = Table(
        "texts", "pieces", "layers", "peak GFLOP/s", "plain ms", "own ms", "faster", "plain share", "own share",
        "own products", title=title,
    )  # fmt: skip
    for r in results:
        table.add_row(
            f"{r['set']}", f"{r['pieces_a_text']:.0f}", f"{r['layers']}", f"{r['peak_gflops']:.0f}",
            f"{r['plain_ms']:.1f}", f"{r['own_ms']:.1f}", f"{r['plain_ms'] / r['own_ms']:.2f}",
            f"{r['plain_share']:.0%}", f"{r['own_share']:.0%}", f"{r['products_share']:.0%}",
        )  # fmt: skip
    CONSOLE.print(table)
    if parted := [r for r in results if r["parts"]]:
        parts = Table("texts", "layers", *parted[0]["parts"], title="where the time of a step goes")
        for r in parted:
            parts.add_row(f"{r['set']}", f"{r['layers']}", *(f"{share:.0%}" for share in r["parts"].values()))
        CONSOLE.print(parts)
    if len(measured := {r["layers"] for r in results}) > 1 and 1 in measured:
        CONSOLE.print(steps_of_searches(results))


def steps_of_searches(results: Sequence[dict[str, Any]]) -> Table:
    table = Table("texts", "own share", "own products", "time in steps of one layer")
    for name in dict.fromkeys(r["set"] for r in results):
        of_set = [r for r in results if r["set"] == name]
        steps = {
            r["layers"]: Step(r["own_ms"], {"own": r["own_share"], "products": r["products_share"]}) for r in of_set
        }
        backbone_layers = of_set[0]["backbone_layers"]
        winners = default_layers(backbone_layers)
        table.title = f"all steps of a default search, whichever L wins, {winners[0]} to {winners[-1]}"
        found = [search_steps(default_search(backbone_layers, peak=peak), steps) for peak in winners]
        columns = [[one.shares["own"] for one in found], [one.shares["products"] for one in found]]
        columns.append([one.one_layer for one in found])
        table.add_row(name, *(f"{min(column):.0%} to {max(column):.0%}" for column in columns))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a BERT encoder")
    parser.add_argument("--data", required=True, help="folder of text sets")
    parser.add_argument("--sets", default="cola,mrpc,rte", help="short, medium, long")
    parser.add_argument("--layers", default="1,2,4,8")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--threads", default="1,2x1,2", help="2x1: two processes of one thread each")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = {}
    for way in arguments.threads.split(","):
        processes, _, threads = way.rpartition("x")
        setting = Setting(
            model=arguments.model,
            data=arguments.data,
            sets=tuple(arguments.sets.split(",")),
            layers=tuple(int(one) for one in arguments.layers.split(",")),
            precision=arguments.precision,
            threads=int(threads),
            rounds=arguments.rounds,
        )
        found[way] = measure_in_processes(setting, int(processes or 1))
        if not arguments.json:
            title = f"{way} threads, {setting.precision}, torch {torch.__version__}, {datetime.now(UTC):%Y-%m-%d}"
            show(found[way], title)
    if arguments.json:
        print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
