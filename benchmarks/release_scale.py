"""What a release of the paper's industrial size costs to make, and what changing one task of it does.

21 tasks on an encoder of BERT-base's size (768 × 12), 8 shared layers and 32 of their own: 40 instead of 252 (Wei et
al., 2021, appendix E). The weights are random; the command that is timed does not know.

    .venv/bin/python benchmarks/release_scale.py

Each command runs in a process of its own, as a user runs it: `release assemble` of all tasks, then `release update` of
one (with the gates that hold it to the live release), then `release try` of the same. Told are the time, the most
memory (resident, sampled; the part that is no file's apart) over one copy of the model in fp32, and the bytes that are
new on the disk over those of the module that changed.

The floor of the time: every blob read once and hashed once, and the golden answers computed (alone and in mixed
batches, for an update also by both models in the non-interference gate), at the matrix-product peak.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import torch
from merged_vs_separate import minilm_folder, real_texts
from printed_tables import say, show
from rich.table import Table
from safetensors.torch import save_file
from transformers import AutoModel, BertConfig

from modeling.backbone import load_text_encoder, load_trunk
from modeling.batching import row_outputs
from modeling.multitask import MergedModel
from modeling.task_module import copy_backbone_layers, module_bytes, new_task_module
from pipelines.assembly.non_interference_gate import texts_a_task
from pipelines.data.predictions import DevPredictions
from registry.artifacts.local_store import LocalArtifactStore
from registry.database.engine import Database
from registry.domain.golden_examples import GoldenExample, GoldenExamples
from registry.domain.manifests import HeadConfig
from registry.domain.records import Backbone, NewVersion, VersionKind
from registry.domain.task_specs import TaskType
from registry.services.backbones import get_backbone
from registry.services.blobs import refer_to
from registry.services.versions import register_version

LABELS = ("no", "yes")
HEAD = HeadConfig(type=TaskType.CLASSIFICATION, outputs=len(LABELS))
GOLDEN, DEV_ROWS, MAX_LENGTH = 16, 500, 128


@dataclass(frozen=True)
class Run:
    """One command, as it was seen from outside."""

    seconds: float
    most_bytes: int
    """Resident."""
    most_own_bytes: int
    """Resident and of no file."""
    written: int
    """Bytes of the files that are new, the database left out."""
    files: int


def shapes(tasks: int, shared: int, task_layers: int) -> list[tuple[int, int]]:
    """(frozen depth, task layers) a task, the layers spread evenly and the depths over the upper half of the trunk."""
    more = task_layers - tasks
    layers = [1 + more // tasks + (number < more % tasks) for number in range(tasks)]
    return [(shared - number % max(1, shared // 2), count) for number, count in enumerate(layers)]


def write_encoder(folder: Path, layers: int, width: int) -> None:
    """Random weights of this size beside a real tokenizer of 30,522 pieces."""
    folder.mkdir(parents=True)
    config = BertConfig(
        num_hidden_layers=layers, hidden_size=width, intermediate_size=4 * width, num_attention_heads=width // 64
    )
    torch.manual_seed(0)
    model = AutoModel.from_config(config, add_pooling_layer=False)
    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config.to_dict() | {"model_type": "bert"}))
    shutil.copyfile(minilm_folder() / "tokenizer.json", folder / "tokenizer.json")


def register(
    home: Path, backbone: Backbone, task: str, shape: tuple[int, int], *, seed: int, texts: Sequence[str]
) -> int:
    """A version as training would leave it: its golden answers are its own. Returns the module's bytes."""
    depth, layers = shape
    store = LocalArtifactStore(home / "artifacts")
    module = new_task_module(config=backbone.config, head=HEAD, task_layers=layers, seed=seed)
    copy_backbone_layers(module, first_layer=depth + 1, layer_blobs=backbone.layers, store=store)
    trunk = load_trunk(
        config=backbone.config, embeddings=backbone.embeddings, layers=backbone.layers[:depth], store=store
    )
    encoder = load_text_encoder(backbone, store)
    alone = MergedModel(trunk, {task: (depth, module.eval())})
    examples = []
    for text in texts[:GOLDEN]:
        rows = encoder.encode([(text, None)])
        with torch.inference_mode():
            (answer,) = row_outputs(alone(encoder.collate(rows), {task: None})[task], rows)
        examples.append(GoldenExample(text=text, outputs=(tuple(answer.tolist()),)))
    drawn = torch.Generator().manual_seed(seed)
    gold = [LABELS[number % 2] for number in range(DEV_ROWS)]
    right = (torch.rand(DEV_ROWS, generator=drawn) < 0.9).tolist()
    predicted = [label if is_right else LABELS[label == "no"] for label, is_right in zip(gold, right, strict=True)]
    data = module_bytes(module)
    database = Database.open(f"sqlite:///{home / 'registry.db'}")
    new = NewVersion(
        task=task,
        spec_revision=1,
        backbone=backbone.name,
        kind=VersionKind.TEACHER,
        frozen_depth=depth,
        task_layers=layers,
        prefix_digest=backbone.prefix_digests[depth],
        head=HEAD,
        module=store.put(data),
        golden=store.put(GoldenExamples(examples=tuple(examples)).to_bytes()),
        dev_predictions=store.put(DevPredictions(gold, predicted).to_bytes()),
        metrics={"accuracy": sum(right) / DEV_ROWS},
        statistic="drawn at random",
        train_digest="3" * 64,
        dev_digest="4" * 64,
        recipe={},
        seed=seed,
        environment={},
        trial_key=sha256(f"{task} {seed}".encode()).hexdigest(),
    )
    with database.write() as session:
        refer_to(session, store, new.blobs)
        register_version(session, new, actor="benchmark", at=datetime.now(UTC))
    database.close()
    return len(data)


def command(home: Path, *arguments: str) -> list[str]:
    return [str(Path(sys.executable).parent / "trunkline"), "--home", str(home), *arguments]


def do(home: Path, *arguments: str) -> None:
    subprocess.run(command(home, *arguments), check=True, capture_output=True, text=True)  # noqa: S603


def measured(home: Path, *arguments: str) -> Run:
    """Runs a command; memory is sampled every 5 ms."""
    before = file_sizes(home)
    most = {"VmRSS": 0, "RssAnon": 0}
    begin = time.perf_counter()
    process = subprocess.Popen(command(home, *arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # noqa: S603

    def sample() -> None:
        while process.poll() is None:
            for name, size in _memory(process.pid):
                most[name] = max(most.get(name, 0), size)
            time.sleep(0.005)

    sampler = threading.Thread(target=sample)
    sampler.start()
    output, _ = process.communicate()
    seconds = time.perf_counter() - begin
    sampler.join()
    if process.returncode:
        raise SystemExit(f"trunkline {' '.join(arguments)} ended with {process.returncode}:\n{output}")
    new = {path: size for path, size in file_sizes(home).items() if path not in before}
    return Run(seconds, most["VmRSS"], most["RssAnon"], sum(new.values()), len(new))


def file_sizes(home: Path) -> dict[Path, int]:
    return {path: path.stat().st_size for path in (home / "artifacts").rglob("*") if path.is_file()}


def _memory(process: int) -> Iterator[tuple[str, int]]:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:  # it has just ended
        return
    for line in lines:
        name, _, rest = line.partition(":")
        if name in ("VmRSS", "RssAnon"):
            yield name, 1024 * int(rest.split()[0])


def hash_seconds(folder: Path) -> float:
    """Of reading and hashing every file of the folder once."""
    begin = time.perf_counter()
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                digest = sha256()
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
    return time.perf_counter() - begin


def matmul_peak(width: int) -> float:
    """Operations a second of fp32 products of the encoder's own shape, a batch of 16 texts of 32 pieces."""
    left, right = torch.randn(512, width), torch.randn(width, 4 * width)
    for _ in range(3):
        left @ right
    rounds = []
    for _ in range(20):
        begin = time.perf_counter()
        left @ right
        rounds.append(time.perf_counter() - begin)
    return 2 * left.numel() * right.shape[1] / min(rounds)


def answer_operations(layout: Sequence[tuple[int, int]], width: int, pieces: float) -> dict[str, float]:
    """Of the golden answers of one task each, and of the mixed batches: 2 × 12·H² a piece and layer (attention's own
    products, which are few at this length, left out)."""
    a_layer = 24 * width**2 * pieces
    one_task = sum((depth + layers) * GOLDEN for depth, layers in layout)
    trunk = max(depth for depth, _ in layout)
    mixed = len(layout) * GOLDEN * trunk + sum(layers * GOLDEN for _, layers in layout)
    unchanged = len(layout) - 1
    asked = unchanged * min(GOLDEN, texts_a_task(unchanged))
    every = asked * (trunk + sum(layers for _, layers in layout))
    return {"parity": a_layer * (one_task + mixed), "both": a_layer * 2 * every}


def prepare(
    home: Path, layout: Sequence[tuple[int, int]], *, layers: int, width: int, texts: Sequence[str]
) -> Backbone:
    write_encoder(home / "encoder", layers, width)
    do(home, "backbone", "pin", "base", str(home / "encoder"), "--max-length", str(MAX_LENGTH))
    do(home, "team", "create", "all")
    for split in ("train", "dev"):
        (home / f"{split}.jsonl").write_text('{"text": "a", "label": "no"}\n{"text": "b", "label": "yes"}\n')
    database = Database.open(f"sqlite:///{home / 'registry.db'}")
    with database.read() as session:
        backbone = get_backbone(session, "base")
    database.close()
    for number, shape in enumerate(layout):
        task = f"task-{number:02}"
        (home / f"{task}.yaml").write_text(
            f"task: {task}\ntype: classification\nlabels: ['no', 'yes']\nmetric: accuracy\n"
            "data: {train: train.jsonl, dev: dev.jsonl}\n"
        )
        do(home, "task", "register", str(home / f"{task}.yaml"), "--team", "all")
        register(home, backbone, task, shape, seed=number, texts=texts)
        do(home, "task", "promote", f"{task}/1", "--alias", "champion")
        say(f"{task}: k = {shape[0]}, l = {shape[1]}")
    return backbone


def report(runs: Mapping[str, Run], *, model_bytes: int, module: int, floors: Mapping[str, float], title: str) -> Table:
    table = Table(
        "command", "seconds", "floor", "most memory", "of one copy", "not of files", "new files", "bytes",
        "of the module", title=title,
    )  # fmt: skip
    for name, run in runs.items():
        table.add_row(
            name, f"{run.seconds:.1f}", f"{floors[name]:.1f}", f"{run.most_bytes / 1e9:.2f} GB",
            f"{run.most_bytes / model_bytes:.2f}", f"{run.most_own_bytes / model_bytes:.2f}", str(run.files),
            f"{run.written:,}", f"{run.written / module:.4f}",
        )  # fmt: skip
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=21)
    parser.add_argument("--shared", type=int, default=8, help="layers of the trunk")
    parser.add_argument("--task-layers", type=int, default=32, help="of all tasks together")
    parser.add_argument("--layers", type=int, default=12, help="of the encoder")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()
    os.environ["TRUNKLINE_ACTOR"] = "benchmark"
    layout = shapes(arguments.tasks, arguments.shared, arguments.task_layers)
    if (deepest := max(depth + count for depth, count in layout)) > arguments.layers:
        raise SystemExit(f"a task would begin as layers up to {deepest}, and the encoder has {arguments.layers}")
    texts = real_texts(200)
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        backbone = prepare(home, layout, layers=arguments.layers, width=arguments.width, texts=texts)
        runs = {"assemble all": measured(home, "release", "assemble", "--select", "champion")}
        say(f"{sum(file_sizes(home).values()) / 1e9:.2f} GB of blobs")
        do(home, "channel", "create", "production", "--takes", "verified")
        do(home, "release", "promote", "r1", "--channel", "production")
        before = {path for path in (home / "artifacts").rglob("*") if path.is_file()}
        module = register(home, backbone, "task-00", layout[0], seed=1000, texts=texts)
        of_version = sum(
            path.stat().st_size for path in (home / "artifacts").rglob("*") if path.is_file() and path not in before
        )
        change = ("--channel", "production", "--task", "task-00/2", "--tolerance", "100")
        runs["try one task"] = measured(home, "release", "try", *change)
        runs["update one task"] = measured(home, "release", "update", *change)
        store = LocalArtifactStore(home / "artifacts")
        manifest = json.loads(subprocess.run(  # noqa: S603
            command(home, "release", "show", "r2", "--json"), check=True, capture_output=True, text=True
        ).stdout)["manifest"]  # fmt: skip
        blobs = [manifest["trunk"]["embeddings"], *manifest["trunk"]["layers"]]
        blobs += [branch["module"] for branch in manifest["tasks"].values()]
        model_bytes = sum(store.fetch(blob).stat().st_size for blob in blobs)
        hashing = hash_seconds(home / "artifacts")
        encoder = load_text_encoder(backbone, store)
        pieces = sum(len(row.input_ids) for row in encoder.encode([(text, None) for text in texts[:GOLDEN]])) / GOLDEN
        peak = matmul_peak(arguments.width)
        operations = answer_operations(layout, arguments.width, pieces)
    once = hashing + operations["parity"] / peak
    floors = {"assemble all": once} | dict.fromkeys(
        ("try one task", "update one task"), once + operations["both"] / peak
    )
    title = (
        f"{arguments.tasks} tasks, {arguments.layers} × {arguments.width}, {arguments.shared} shared layers and "
        f"{arguments.shared + arguments.task_layers} in all; one copy {model_bytes / 1e9:.2f} GB in fp32; "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, {datetime.now(UTC):%Y-%m-%d}"
    )
    show(report(runs, model_bytes=model_bytes, module=module, floors=floors, title=title), markdown=arguments.markdown)
    print(
        f"Registering the new version of one task wrote {of_version:,} bytes, its module {module:,}. Hashing all blobs "
        f"takes {hashing:.1f} s, the products of the parity gate {operations['parity'] / peak:.1f} s, of "
        f"non-interference {operations['both'] / peak:.1f} s at {peak / 1e9:.0f} GFLOP/s."
    )


if __name__ == "__main__":
    main()
