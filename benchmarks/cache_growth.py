"""What the activation cache costs as data grow 1x, 4x, 16x: time, memory and disk.

    .venv/bin/python benchmarks/cache_growth.py --model FOLDER --data FOLDER [--rows 2000] [--depths 2-8]
        [--threads 1] [--precision bf16|fp32] [--max-length 128] [--cache FOLDER] [--json]

FOLDER of data is that of one task, with train.jsonl.gz: a JSON object a line with a "text". Rows are the first half of
one sentence and the second half of another, all distinct, so that 16 times the data is no repetition of the same rows.
Every step runs in a process of its own, so that its peak of memory is its own:

    fill      all depths, nothing there: one pass through the trunk
    open      all depths, everything there: look up, verify every byte, map
    changed   all depths, 1 % of the rows are new
    read      one epoch's batches of the deepest depth, from the cache
    compute   the same batches, without a cache: as training would without room for it
"""

import argparse
import gzip
import hashlib
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from modeling.backbone import load_text_encoder, load_trunk
from pipelines.training.activation_cache import ActivationCache, EncodedRows, computing_in
from pipelines.training.batches import epoch_batches
from registry.artifacts.backbone_files import store_backbone
from registry.artifacts.local_store import LocalArtifactStore
from registry.domain.records import NewBackbone
from registry.progress import silent

GROWTH = (1, 4, 16)
STEPS = ("fill", "open", "changed", "read", "compute")
CHANGED_SHARE = 0.01
CONSOLE = Console()


def recombined(sentences: Sequence[str], count: int, *, seed: int) -> list[str]:
    """Distinct rows: the first half of one sentence, the second half of another."""
    draw = random.Random(seed)  # noqa: S311 - a selection, not a secret
    halves = [(words[: len(words) // 2], words[len(words) // 2 :]) for words in map(str.split, sentences)]
    made: dict[str, None] = {}
    while len(made) < count:
        made[" ".join(draw.choice(halves)[0] + draw.choice(halves)[1])] = None
    return list(made)


def real_sentences(data: Path) -> list[str]:
    with gzip.open(data / "train.jsonl.gz", "rt", encoding="utf-8") as file:
        return [text for line in file if len((text := json.loads(line)["text"]).split()) > 1]


def step(job: dict[str, Any]) -> dict[str, float]:
    """One step in this process: seconds, those of them on a core, and the peak of memory above its start in MB."""
    torch.set_num_threads(job["threads"])
    backbone = NewBackbone.model_validate(job["backbone"])
    store = LocalArtifactStore(Path(job["store"]))
    depths = tuple(job["depths"])
    encoder = load_text_encoder(backbone, store)
    trunk = load_trunk(
        config=backbone.config,
        embeddings=backbone.embeddings,
        layers=backbone.layers[: max(depths)],
        store=store,
    )
    cache = ActivationCache(
        Path(job["cache"], "none" if job["step"] == "compute" else "kept"),
        trunk,
        encoder,
        backbone.prefix_digests,
        torch.device("cpu"),
        silent,
        depths=depths,
        limit_bytes=0 if job["step"] == "compute" else None,
    )
    sentences = real_sentences(Path(job["data"]))
    texts = recombined(sentences, job["rows"], seed=0)
    if job["step"] == "changed":
        new = set(recombined(sentences, 2 * job["rows"], seed=1)) - {*texts}
        for row, text in zip(range(0, len(texts), round(1 / CHANGED_SHARE)), sorted(new), strict=False):
            texts[row] = text
    rows = EncodedRows(
        encoder.encode([(text, None) for text in texts]), [hashlib.sha256(text.encode()).hexdigest() for text in texts]
    )
    passed = [0]
    trunk.register_forward_pre_hook(lambda _, inputs: passed.__setitem__(0, passed[0] + len(inputs[0].input_ids)))
    with torch.no_grad(), computing_in(job["precision"], cache.device):  # kernels are made on their first use
        trunk(encoder.collate(rows.encoded[:32]), depths)
    passed[0] = 0
    asked = depths if job["step"] in {"fill", "open", "changed"} else depths[-1:]
    begin, on_core, before = time.perf_counter(), time.process_time(), peak_bytes()
    found = [
        cache.frozen(rows, depth=depth, precision=job["precision"], stage=job["step"]) for depth in reversed(asked)
    ]
    if job["step"] in {"read", "compute"}:
        begin, on_core = time.perf_counter(), time.process_time()
        for batch in epoch_batches(rows.lengths, batch_size=32, seed=0, epoch=1):
            torch.cat(found[0].rows(batch))
    return {
        "seconds": time.perf_counter() - begin,
        "core_seconds": time.process_time() - on_core,
        "peak_mb": (peak_bytes() - before) / 1e6,
        "tokens": sum(rows.lengths),
        "rows_computed": passed[0],
    }


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def in_a_process(job: dict[str, Any]) -> dict[str, float]:
    done = subprocess.run(  # noqa: S603 - this file
        [sys.executable, "-P", __file__, "--step", json.dumps(job)], check=True, stdout=subprocess.PIPE, text=True
    )
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def measure(job: dict[str, Any], folder: Path) -> dict[str, dict[str, float]]:
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        steps = {}
        for name in STEPS:
            steps[name] = in_a_process({**job, "cache": cache, "step": name})
            steps[name]["disk_mb"] = sum(path.stat().st_size for path in Path(cache).rglob("*.safetensors")) / 1e6
    return steps


def table(found: dict[int, dict[str, dict[str, float]]]) -> Table:
    first = found[min(found)]
    shown = Table(
        "growth", "rows", "tokens", "step", "seconds", "against 1x", "peak above start, MB", "disk, MB", "rows run"
    )
    for growth, steps in found.items():
        for name, one in steps.items():
            ratio = one["core_seconds"] / first[name]["core_seconds"]
            shown.add_row(
                f"{growth}x",
                f"{one['rows']:,.0f}",
                f"{one['tokens']:,.0f}",
                name,
                f"{one['seconds']:.2f}",
                f"{one['core_seconds']:.2f}",
                f"{ratio:.1f}",
                f"{one['peak_mb']:,.0f}",
                f"{one['disk_mb']:,.0f}",
                f"{one['rows_computed']:,.0f}",
            )
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of a backbone")
    parser.add_argument("--data", type=Path, help="folder of a task with texts")
    parser.add_argument("--rows", type=int, default=2000, help="at 1x")
    parser.add_argument("--depths", default="2-8", help="frozen depths: the top 4 to 10 of 12 layers")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument(
        "--threads", type=int, default=1, help="one: then seconds on a core mean something on a busy machine"
    )
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--cache", type=Path, help="where there is room; default: the temporary folder")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(step(json.loads(options.step))))
        return
    if not (options.model and options.data):
        parser.error("--model and --data are needed")
    first, last = map(int, options.depths.split("-"))
    with tempfile.TemporaryDirectory(dir=options.cache) as folder:
        store = LocalArtifactStore(Path(folder, "store"))
        backbone = store_backbone(options.model, name="grown", max_length=options.max_length, store=store)
        found = {}
        for growth in GROWTH:
            job = {
                "backbone": backbone.model_dump(mode="json"),
                "store": str(Path(folder, "store")),
                "data": str(options.data),
                "depths": list(range(first, last + 1)),
                "precision": options.precision,
                "rows": options.rows * growth,
                "threads": options.threads,
            }
            found[growth] = measure(job, Path(folder))
            for one in found[growth].values():
                one["rows"] = job["rows"]
            if not options.json:
                CONSOLE.print(f"{growth}x measured")
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        CONSOLE.print(table(found))


if __name__ == "__main__":
    main()
