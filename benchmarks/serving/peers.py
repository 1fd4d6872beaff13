"""Eight separate 12-layer models, as a careful practitioner would host them today: torch and ONNX Runtime.

Every peer answers a batch of rows for one task: transformers' own encoder with a linear head on the first piece. What
is done for ours is done for them: no gradient, rows of similar length together, padded to the longest of the batch
only, all cores, warmed up, the batch size that is best for each.

* `torch-fp32`, `torch-bf16`: transformers, SDPA, inference mode.
* `torch-compiled-fp32`: the same through `torch.compile`, dynamic shapes, weights frozen, so that products run on
  weights laid out for oneDNN. Needs a C++ compiler.
* `onnx-fp32`: exported, then fused by onnxruntime's optimiser for BERT.
* `onnx-int8`: that, its weights quantised by channel, activations as they come.

    .venv/bin/python benchmarks/serving/peers.py --home FOLDER [--model FOLDER] [--data FOLDER]

prints how far each peer's outputs are from torch's in fp32, and texts a second for all tasks by batch size.
"""

import argparse
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import beside  # noqa: F401
import numpy as np
import torch
from onnx_graphs import session, write_graph
from printed_tables import say, show
from rich.table import Table
from setting import Setting, add_options, opened, task_labels
from texts import add_options as add_text_options
from texts import chosen
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoModel
from transformers.utils import logging

from modeling.batching import token_batches

Values = np.ndarray[Any, Any]
Rows = Sequence[Sequence[int]]
"""Piece ids, one row a text, not padded."""

TASKS = 8
BUDGETS = (128, 256, 512, 1024, 2048)
"""Most padded pieces of a batch."""
TRIES = 2
"""Of each way to use the cores, the faster of which counts."""


class Way(NamedTuple):
    """How the cores are used, and how much is computed at once."""

    lanes: int
    """Batches that are computed at the same time, each in a thread of its own."""
    threads: int
    """Of each batch's products."""
    budget: int
    """Most padded pieces of a batch."""

    def __str__(self) -> str:
        return f"{self.lanes} x {self.threads} threads, {self.budget} pieces"


def ways(budgets: Sequence[int] = BUDGETS) -> list[Way]:
    """One batch on all cores, or one a core."""
    cores = os.cpu_count() or 1
    uses = sorted({(1, cores), (cores, 1)})
    return [Way(*use, budget) for use in uses for budget in budgets]


class Peer(Protocol):
    """So many separate models."""

    tasks: int

    def answer(self, task: int, rows: Rows) -> Values:
        """Raw outputs of one task's model, [rows, outputs] fp32."""


class Head(NamedTuple):
    weight: Values
    """[outputs, H] fp32."""
    bias: Values


def head_of(task: int, hidden_size: int) -> Head:
    """From the seed alone."""
    generator = np.random.default_rng(task)
    outputs = len(task_labels(task))
    return Head(
        generator.normal(0, 0.02, (outputs, hidden_size)).astype(np.float32), np.zeros(outputs, dtype=np.float32)
    )


class PeerTokenizer:
    """The backbone's tokenizer, used as transformers' fast tokenizers use it, without their wrapping."""

    def __init__(self, folder: Path, max_length: int) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length)

    def rows(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]


class _FirstPiece(nn.Module):
    """The encoder, and of its last state the first piece: [B, H]."""

    def __init__(self, folder: Path, attention: str) -> None:
        super().__init__()
        self.encoder = AutoModel.from_pretrained(
            folder, add_pooling_layer=False, attn_implementation=attention, dtype=torch.float32
        ).eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        return hidden.last_hidden_state[:, 0]


class TorchPeer:
    """Args:
    copies: how many sets of encoder weights there are; with fewer than tasks, tasks take them in turn. Time does not
        depend on the values, but one set of small weights might stay in the processor's cache.
    threads: of a batch's products; a caller sets them in its own thread too.
    compiled: one set serves all tasks, for compiling one takes up to a minute.
    """

    def __init__(
        self, setting: Setting, *, tasks: int, copies: int, threads: int, dtype: torch.dtype, compiled: bool = False
    ) -> None:
        self.tasks = tasks
        self._pad = setting.backbone.config.get("pad_token_id", 0)
        size = setting.backbone.hidden_size
        heads = [head_of(task, size) for task in range(tasks)]
        self._heads = [tuple(torch.from_numpy(part).to(dtype) for part in head) for head in heads]
        count = 1 if compiled else min(copies, tasks)
        self._encoders = [_FirstPiece(setting.folder, "sdpa").to(dtype) for _ in range(count)]
        self._encode: list[Callable[..., Tensor]] = list(self._encoders)
        if compiled:
            torch.set_num_threads(threads)  # the generated code keeps the number
            self._encode = [_compiled(self._encoders[0])]
            for shape in ((3, 20), (1, 20)):  # unequal sizes, or they would be taken for one; one row is a case apart
                self.answer(0, [[5] * shape[1]] * (shape[0] - 1) + [[5] * (shape[1] - 1)])

    def answer(self, task: int, rows: Rows) -> Values:
        ids, mask = padded(rows, self._pad)
        with torch.inference_mode():
            batch = torch.from_numpy(ids)
            first = self._encode[task % len(self._encode)](batch, torch.from_numpy(mask), torch.zeros_like(batch))
            outputs = nn.functional.linear(first, *self._heads[task])
        return outputs.float().numpy()


def _compiled(module: nn.Module) -> Callable[..., Tensor]:
    import torch._inductor.config as settings

    settings.freezing = True
    return torch.compile(module, dynamic=True)


class OnnxPeer:
    """Args:
    model: a graph that gives the first piece's state; every task's head is joined to a copy of its own.
    """

    def __init__(self, model: Path, setting: Setting, *, tasks: int, copies: int, threads: int) -> None:
        import onnx

        self.tasks = tasks
        self._pad = setting.backbone.config.get("pad_token_id", 0)
        graph = onnx.load(str(model))
        heads = [head_of(task, setting.backbone.hidden_size) for task in range(tasks)]
        count = min(copies, tasks)
        shared = [_with_heads(graph, heads[number::count]) for number in range(count)]
        self._sessions = [session(data, threads) for data in shared]
        self._output = [(task % len(shared), f"outputs_{task // len(shared)}") for task in range(tasks)]

    def answer(self, task: int, rows: Rows) -> Values:
        ids, mask = padded(rows, self._pad)
        number, output = self._output[task]
        (outputs,) = self._sessions[number].run(
            [output], {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        )
        return outputs


def padded(rows: Rows, pad_id: int) -> tuple[Values, Values]:
    """Piece ids and mask, [B, T] int64 each, padded to the longest row."""
    width = max(map(len, rows))
    ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.int64)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = row
        mask[number, : len(row)] = 1
    return ids, mask


def _with_heads(graph: Any, heads: Sequence[Head]) -> bytes:
    """The graph with linear heads on `first_piece`; a request for one output computes the others too, which are a few
    products of one piece a row."""
    from onnx import ModelProto, helper, numpy_helper

    model = ModelProto()
    model.CopyFrom(graph)
    del model.graph.output[:]
    for number, head in enumerate(heads):
        weight, bias, output = (f"{part}_{number}" for part in ("head_weight", "head_bias", "outputs"))
        model.graph.initializer.extend(
            [numpy_helper.from_array(head.weight, weight), numpy_helper.from_array(head.bias, bias)]
        )
        model.graph.node.append(helper.make_node("Gemm", ["first_piece", weight, bias], [output], transB=1))
        model.graph.output.append(helper.make_tensor_value_info(output, 1, ["rows", len(head.bias)]))
    return bytes(model.SerializeToString())


def exported(setting: Setting, *, int8: bool) -> Path:
    """The encoder as an optimised ONNX graph, made once and kept beside the store."""
    folder = setting.home / "onnx"
    folder.mkdir(exist_ok=True)
    optimised, quantised = folder / "fp32.onnx", folder / "int8.onnx"
    if not optimised.exists():
        write_graph(
            _FirstPiece(setting.folder, "eager"),
            optimised,
            setting,
            output="first_piece",
            axes={0: "rows"},
            layers=setting.backbone.layer_count,
        )
    if int8 and not quantised.exists():
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic

        written = folder / "writing.onnx"
        # Types are not inferred through the fused operators: what is no weight is a float.
        quantize_dynamic(
            optimised,
            written,
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )
        written.replace(quantised)
    return quantised if int8 else optimised


PEERS: Mapping[str, str] = {
    "torch-fp32": "fp32",
    "torch-compiled-fp32": "fp32",
    "onnx-fp32": "fp32",
    "torch-bf16": "bf16",
    "onnx-int8": "int8",
}
"""The precision of each."""


def compiler() -> str | None:
    """What torch.compile can build with, if anything."""
    return os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")


def load_peer(name: str, setting: Setting, *, threads: int, tasks: int = TASKS, copies: int = TASKS) -> Peer:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if name.startswith("onnx-"):
        model = exported(setting, int8=name == "onnx-int8")
        return OnnxPeer(model, setting, tasks=tasks, copies=copies, threads=threads)
    dtype = torch.bfloat16 if PEERS[name] == "bf16" else torch.float32
    compiled = "compiled" in name
    return TorchPeer(setting, tasks=tasks, copies=copies, threads=threads, dtype=dtype, compiled=compiled)


class Agreement(NamedTuple):
    """With torch's transformers in fp32, over texts and tasks."""

    largest: float
    """Difference of raw outputs."""
    scale: float
    """Standard deviation of raw outputs."""
    decisions: float
    """Share of the same label."""


def agreement(peer: Peer, reference: Peer, rows: Rows) -> Agreement:
    pairs = [(reference.answer(task, rows), peer.answer(task, rows)) for task in range(peer.tasks)]
    same = [one.argmax(1) == other.argmax(1) for one, other in pairs]
    return Agreement(
        largest=max(float(np.abs(one - other).max()) for one, other in pairs),
        scale=float(np.concatenate([one.ravel() for one, _ in pairs]).std()),
        decisions=float(np.concatenate(same).mean()),
    )


def answer_all(peer: Peer, tokenizer: PeerTokenizer, texts: Sequence[str], way: Way) -> float:
    """Seconds for all texts and tasks, tokenising once with them.

    Args:
        way: its threads must be those that the peer was loaded for.
    """
    with ThreadPoolExecutor(way.lanes, initializer=torch.set_num_threads, initargs=(way.threads,)) as lanes:
        list(lanes.map(len, [()] * way.lanes))
        begin = time.perf_counter()
        rows = tokenizer.rows(texts)
        batches = token_batches([len(row) for row in rows], tokens=way.budget)
        # The longest first: what is left for the end, when a lane may have nothing to do, is short.
        work = [(task, [rows[place] for place in batch]) for batch in reversed(batches) for task in range(peer.tasks)]
        list(lanes.map(lambda one: peer.answer(*one), work))
        return time.perf_counter() - begin


class Found(NamedTuple):
    """A peer in the way that is fastest for it."""

    peer: Peer
    way: Way
    rates: Mapping[Way, float]
    """Texts a second for all tasks, the best of repeats."""


def at_its_best(
    name: str,
    setting: Setting,
    texts: Sequence[str],
    *,
    tasks: int = TASKS,
    copies: int = TASKS,
    tried: Sequence[Way] | None = None,
    repeats: int = TRIES,
) -> Found:
    """Tries every way, and loads the peer for the best one."""
    tokenizer = PeerTokenizer(setting.folder, setting.backbone.max_length)
    rates: dict[Way, float] = {}
    loaded: dict[int, Peer] = {}
    for way in tried or ways():
        if way.threads not in loaded:
            loaded.clear()  # one at a time: they are large
            loaded[way.threads] = load_peer(name, setting, threads=way.threads, tasks=tasks, copies=copies)
            answer_all(loaded[way.threads], tokenizer, texts[:32], way)
        seconds = min(answer_all(loaded[way.threads], tokenizer, texts, way) for _ in range(repeats))
        rates[way] = len(texts) / seconds
    best = max(rates, key=rates.__getitem__)
    if best.threads not in loaded:
        loaded[best.threads] = load_peer(name, setting, threads=best.threads, tasks=tasks, copies=copies)
    return Found(loaded[best.threads], best, rates)


def add_budgets(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--budgets",
        type=lambda text: tuple(map(int, text.split(","))),
        default=BUDGETS,
        help="most pieces of a batch, each of which is tried for every side",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    add_text_options(parser)
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--tasks", type=int, default=TASKS)
    parser.add_argument("--copies", type=int, default=2, help="sets of encoder weights, taken in turn by the tasks")
    add_budgets(parser)
    parser.add_argument("--repeats", type=int, default=TRIES)
    parser.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()
    setting = opened(arguments)
    asked = chosen(arguments, setting.text_encoder)
    tokenizer = PeerTokenizer(setting.folder, setting.backbone.max_length)
    some = sorted(tokenizer.rows(asked[-1].texts[:32]), key=len)
    reference = load_peer("torch-fp32", setting, threads=os.cpu_count() or 1, copies=1, tasks=arguments.tasks)
    differences = Table("peer", "largest difference", "deviation of outputs", "same label", title="against torch-fp32")
    tried = ways(arguments.budgets)
    columns = [f"{way.lanes} x {way.threads}: {way.budget}" for way in tried]
    speeds = Table(
        "peer", "texts", *columns, title=f"{setting.title}: texts/s for all tasks, by lanes x threads: pieces"
    )
    for name in arguments.peers.split(","):
        for texts in asked:
            found = at_its_best(
                name,
                setting,
                texts.texts,
                tasks=arguments.tasks,
                copies=arguments.copies,
                tried=tried,
                repeats=arguments.repeats,
            )
            speeds.add_row(name, texts.name, *(f"{rate:.1f}" for rate in found.rates.values()))
            say(f"{name}, {texts.name}: {max(found.rates.values()):.1f} texts/s with {found.way}")
        same = agreement(found.peer, reference, some)
        differences.add_row(name, f"{same.largest:.1e}", f"{same.scale:.2f}", f"{same.decisions:.1%}")
    for texts in asked:
        print(texts.title)
    show(differences, markdown=arguments.markdown)
    show(speeds, markdown=arguments.markdown)


if __name__ == "__main__":
    main()
