"""A segment of the trunk by ONNX Runtime, beside the same segment as the program computes it.

    .venv/bin/python benchmarks/serving/segments.py --home FOLDER [--model FOLDER] [--depths 2,7]

A segment is the embeddings and the layers up to a depth, in fp32 on one thread, over batches of several kinds. Ours has
the rows of a batch on one line without padding. ONNX Runtime pads, so a batch is cut for it into smaller ones of rows
of like length, by whichever of `BUDGETS` is fastest. Laying out rows and padding them is in both times; that branches
would have to take what is no padding out of ONNX Runtime's states is not. Both in turn, the median of the rounds.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import beside  # noqa: F401
import numpy as np
import torch
from layers import BATCHES, rates_in_turn
from onnx_graphs import INPUTS, session, write_graph
from peers import Rows, Values, padded
from printed_tables import say, show
from rich.table import Table
from setting import Setting, add_options, opened
from torch import Tensor, nn
from transformers import AutoModel
from transformers.utils import logging

from modeling.backbone import load_trunk
from modeling.batching import token_batches
from modeling.inference import Form, InferenceTrunk
from modeling.inference_layers import scores_a_group
from modeling.packing import Packed
from modeling.products import use_threads
from modeling.text import EncodedText

BUDGETS = (128, 256, 512, 1024)
"""Most padded pieces of one of ONNX Runtime's batches."""
FORM = Form("fp32", torch.device("cpu"))


class Segment(nn.Module):
    """transformers' encoder up to a depth: hidden states [B, T, H]."""

    def __init__(self, folder: Path, depth: int) -> None:
        super().__init__()
        self.encoder = AutoModel.from_pretrained(
            folder,
            add_pooling_layer=False,
            attn_implementation="eager",
            dtype=torch.float32,
            num_hidden_layers=depth,
        ).eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        hidden: Tensor = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        ).last_hidden_state
        return hidden


class OnnxSegment:
    def __init__(self, setting: Setting, depth: int) -> None:
        folder = setting.home / "onnx"
        folder.mkdir(exist_ok=True)
        graph = folder / f"segment-{depth}.onnx"
        if not graph.exists():
            logging.set_verbosity_error()  # that the layers above are not there is meant
            logging.disable_progress_bar()
            module = Segment(setting.folder, depth)
            write_graph(module, graph, setting, output="hidden", axes={0: "rows", 1: "pieces"}, layers=depth)
        self._session = session(str(graph), threads=1)
        self._pad = setting.backbone.config.get("pad_token_id", 0)

    def states(self, rows: Rows) -> Values:
        """Hidden states [B, T, H] of one padded batch."""
        ids, mask = padded(rows, self._pad)
        (hidden,) = self._session.run(None, dict(zip(INPUTS, (ids, mask, np.zeros_like(ids)), strict=True)))
        return hidden

    def in_batches(self, rows: Rows, budget: int) -> Callable[[], Any]:
        batches = [[rows[place] for place in batch] for batch in token_batches(list(map(len, rows)), tokens=budget)]
        return lambda: [self.states(batch) for batch in batches]


class OwnSegment:
    def __init__(self, setting: Setting, depth: int) -> None:
        backbone = setting.backbone
        layers = backbone.layers[:depth]
        trunk = load_trunk(config=backbone.config, embeddings=backbone.embeddings, layers=layers, store=setting.store)
        self._trunk = InferenceTrunk.of(trunk, FORM)

    @torch.inference_mode()
    def states(self, rows: Rows) -> tuple[Tensor, Packed]:
        """Hidden states [P, H] on a line, and the line."""
        encoded = [EncodedText(tuple(row), (0,) * len(row), (), (), 0) for row in rows]
        cost = scores_a_group(FORM.dtype, FORM.device)
        packed = Packed(encoded, range(len(encoded)), device=FORM.device, scores_a_group=cost)
        embeddings = self._trunk.embeddings
        ids, types, positions = packed.inputs(first_position=embeddings.first_position)
        hidden = embeddings.embedded(ids[None], types[None], positions[None])[0]
        for layer in self._trunk.layers:
            hidden = layer(hidden, packed)
        return hidden, packed


def largest_difference(ours: OwnSegment, theirs: OnnxSegment, rows: Rows) -> float:
    """Between any row's first piece in one and in the other; all pieces of a row have a part in it."""
    hidden, packed = ours.states(rows)
    first = packed.read(hidden, "first", range(len(rows))).numpy()
    return float(np.abs(first - theirs.states(rows)[:, 0]).max())


def drawn_rows(lengths: Sequence[int]) -> Rows:
    """Pieces of any kind: time does not depend on which."""
    generator = np.random.default_rng(0)
    return [generator.integers(5, 1000, length).tolist() for length in lengths]


def compared(setting: Setting, depth: int, rounds: int) -> list[str]:
    """A batch of `BATCHES` each: "our / ONNX Runtime's milliseconds: how many times as fast ours is (range)"."""
    ours, theirs = OwnSegment(setting, depth), OnnxSegment(setting, depth)
    difference = largest_difference(ours, theirs, drawn_rows([16, 9, 30]))
    if difference > 1e-4:
        raise SystemExit(
            f"the two segments of {depth} layers differ by {difference:.1e}; if {setting.home / 'onnx'} is of another "
            "encoder, take another --home"
        )
    cells = []
    for name, lengths in BATCHES.items():
        rows = drawn_rows(lengths)
        ways: list[tuple[Callable[[], object], float]] = [(lambda: ours.states(rows), 1.0)]  # noqa: B023 - called here
        ways += [(theirs.in_batches(rows, budget), 1.0) for budget in BUDGETS]
        mine, *others = rates_in_turn(ways, rounds)
        best = max(others, key=statistics.median)
        ratios = sorted(one / other for one, other in zip(mine, best, strict=True))
        cells.append(
            f"{1e3 / statistics.median(mine):.1f} / {1e3 / statistics.median(best):.1f}: "
            f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"
        )
        say(f"{depth} layers, {name}: {cells[-1]}, {BUDGETS[others.index(best)]} pieces")
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--depths", type=lambda text: [int(one) for one in text.split(",")], default=[2, 7])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()
    use_threads(1)
    setting = opened(arguments)
    if outside := [depth for depth in arguments.depths if not 1 <= depth <= setting.backbone.layer_count]:
        raise SystemExit(f"--depths {outside}: the encoder has layers 1 to {setting.backbone.layer_count}")
    title = (
        f"Milliseconds of a segment on one thread, ours / ONNX Runtime: how many times as fast ours is; {setting.title}"
    )
    table = Table("layers", *BATCHES, title=f"{title}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}")
    for depth in arguments.depths:
        table.add_row(str(depth), *compared(setting, depth, arguments.rounds))
    show(table, markdown=arguments.markdown)


if __name__ == "__main__":
    main()
