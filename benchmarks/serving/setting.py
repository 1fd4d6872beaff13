"""What is served in these benchmarks: releases of n tasks on one encoder, in an artifact root of their own.

The paper's mixed layout (Wei et al., 2021, table 2): 8 tasks, 7 shared layers and 26 of the tasks' own, 33 instead of
96. Beside it the same tasks as separate models, (k, l) = (0, N), so that sharing can be measured with identical
kernels: one release of all eight, which is asked like the merged one, and one release a task.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import beside  # noqa: F401
import torch
from merged_vs_separate import real_texts
from release_scale import shapes, write_encoder

from modeling.backbone import load_text_encoder, load_trunk
from modeling.batching import row_outputs
from modeling.multitask import MergedModel
from modeling.task_module import copy_backbone_layers, module_bytes, new_task_module
from modeling.text import TextEncoder
from registry.artifacts.atomic_file import write_atomically
from registry.artifacts.backbone_files import store_backbone
from registry.artifacts.local_store import LocalArtifactStore
from registry.domain.golden_examples import GoldenExample, GoldenExamples
from registry.domain.manifests import BranchManifest, HeadConfig, Manifest, parse_manifest
from registry.domain.records import NewBackbone
from registry.domain.task_specs import InputForm, TagScheme, TaskType

Layout = Sequence[tuple[int, int]]
"""(frozen depth k, task layers l) of each task."""

MIXED: Layout = ((2, 3), (7, 5), (2, 1), (4, 3), (6, 2), (7, 3), (4, 8), (4, 1))
INDUSTRIAL: Layout = tuple(shapes(21, 8, 32))
"""21 tasks in 40 layers, 8 of them shared (appendix E)."""

LAYOUTS = ("mixed", "separate", "industrial")

LABEL_COUNTS = (2, 3, 5, 7, 10, 13, 16, 20)
ENTITIES = ("person", "place", "organisation", "product")
MAX_LENGTH = 128
GOLDEN = 4


@dataclass(frozen=True)
class Encoder:
    """The size of an encoder with random weights, beside a real tokenizer of 30,522 pieces."""

    layers: int = 12
    width: int = 768


@dataclass(frozen=True)
class Setting:
    """An encoder as model files, pinned in an artifact store; releases are added to it when they are asked for.

    All of it is in one folder, and what is there already is not made again: the same seeds give the same digests.
    """

    home: Path
    folder: Path
    """The encoder as transformers reads it."""
    backbone: NewBackbone

    @classmethod
    def open(cls, home: Path, model: Path | None, random: Encoder | None = None) -> Self:
        """Args:
        home: where the store, the random encoder and whatever is exported from it lie.
        model: a folder of a real encoder; None: one with random weights.
        random: its size; None: BERT-base.
        """
        home.mkdir(parents=True, exist_ok=True)
        folder = model or home / "encoder"
        if not folder.exists():
            size = random or Encoder()
            write_encoder(folder, size.layers, size.width)
        known = home / "backbone.json"
        if known.exists():
            backbone = NewBackbone.model_validate_json(known.read_bytes())
            if backbone.source != str(folder.resolve()):
                raise SystemExit(f"{home} holds what was made of {backbone.source}; choose another --home")
        else:
            store = LocalArtifactStore(home / "artifacts")
            backbone = store_backbone(folder, name="measured", max_length=MAX_LENGTH, store=store)
            write_atomically(known, backbone.model_dump_json().encode())
        return cls(home, folder, backbone)

    @property
    def root(self) -> Path:
        """The artifact root: what a server is started from."""
        return self.home / "artifacts"

    @property
    def store(self) -> LocalArtifactStore:
        return LocalArtifactStore(self.root)

    @property
    def text_encoder(self) -> TextEncoder:
        return load_text_encoder(self.backbone, self.store)

    @property
    def title(self) -> str:
        return f"{self.backbone.layer_count} layers x {self.backbone.hidden_size}"

    def release(self, layout: Layout, *, first_task: int = 0, token_tasks: int = 0) -> str:
        """The manifest's digest of a release in this layout. Golden answers are those of each module alone.

        Args:
            first_task: number of the first task: labels, weights of the head and name follow the number.
            token_tasks: how many of the last ones label words, not texts.
        """
        known = self.home / "releases.json"
        digests: dict[str, str] = json.loads(known.read_text()) if known.exists() else {}
        key = json.dumps([list(map(list, layout)), first_task, token_tasks])
        if key not in digests:
            branches = {}
            for place, shape in enumerate(layout):
                number = first_task + place
                branches[f"task-{number:02}"] = self._branch(number, shape, place >= len(layout) - token_tasks)
            trunk = self.backbone.trunk(max(depth for depth, _ in layout))
            digests[key] = self.store.put(Manifest(trunk=trunk, tasks=branches).to_bytes())
            write_atomically(known, json.dumps(digests, indent=1).encode())
        return digests[key]

    def separate_release(self, tasks: int) -> str:
        """All tasks in one release that shares only the embeddings: (k, l) = (0, N) each."""
        return self.release([(0, self.backbone.layer_count)] * tasks)

    def one_task_releases(self, tasks: int) -> list[str]:
        """The same modules, one release a task."""
        return [self.release([(0, self.backbone.layer_count)], first_task=number) for number in range(tasks)]

    def growing(self, tasks: int) -> Layout:
        """The mixed layout's shapes in turn, for so many tasks."""
        return [self.mixed[number % len(self.mixed)] for number in range(tasks)]

    @property
    def mixed(self) -> Layout:
        """The paper's layout; on an encoder of fewer layers, one that shares in the same way."""
        layers = self.backbone.layer_count
        if layers >= max(depth + own for depth, own in MIXED):
            return MIXED
        return [(max(1, depth * layers // 12), max(1, own * layers // 24)) for depth, own in MIXED]

    def layout(self, name: str, tasks: int) -> Layout:
        """One of `LAYOUTS`; the industrial one has a number of tasks of its own."""
        made = {
            "mixed": lambda: self.growing(tasks),
            "separate": lambda: [(0, self.backbone.layer_count)] * tasks,
            "industrial": lambda: INDUSTRIAL,
        }
        return made[name]()

    def manifest(self, digest: str) -> Manifest:
        return parse_manifest(self.store.read(digest), f"manifest {digest[:12]}")

    def _branch(self, number: int, shape: tuple[int, int], of_words: bool) -> BranchManifest:
        depth, own = shape
        head, labels, scheme = task_head(number, of_words)
        store = self.store
        module = new_task_module(config=self.backbone.config, head=head, task_layers=own, seed=number)
        copy_backbone_layers(module, first_layer=depth + 1, layer_blobs=self.backbone.layers, store=store)
        trunk = load_trunk(
            config=self.backbone.config,
            embeddings=self.backbone.embeddings,
            layers=self.backbone.layers[:depth],
            store=store,
        )
        alone = MergedModel(trunk, {"alone": (depth, module.eval())})
        encoder = self.text_encoder
        examples = []
        for text in real_texts(GOLDEN):
            rows = encoder.encode([(text, None)])
            with torch.inference_mode():
                (answer,) = row_outputs(alone(encoder.collate(rows), {"alone": None})["alone"], rows)
            outputs = (answer,) if answer.dim() == 1 else answer
            examples.append(GoldenExample(text=text, outputs=tuple(tuple(row.tolist()) for row in outputs)))
        return BranchManifest(
            version=1,
            type=head.type,
            input_form=InputForm.SINGLE,
            labels=labels,
            tag_scheme=scheme,
            frozen_depth=depth,
            task_layers=own,
            prefix_digest=self.backbone.prefix_digests[depth],
            spec_digest="0" * 64,
            head=head,
            module=store.put(module_bytes(module)),
            golden=store.put(GoldenExamples(examples=tuple(examples)).to_bytes()),
        )


def task_labels(number: int) -> tuple[str, ...]:
    return tuple(f"label-{label:02}" for label in range(LABEL_COUNTS[number % len(LABEL_COUNTS)]))


def task_head(number: int, of_words: bool) -> tuple[HeadConfig, tuple[str, ...], TagScheme | None]:
    if of_words:
        labels = ("O", *(f"{prefix}-{label}" for label in ENTITIES for prefix in "BI"))
        return HeadConfig(type=TaskType.TOKEN_CLASSIFICATION, outputs=len(labels)), labels, TagScheme.BIO
    labels = task_labels(number)
    return HeadConfig(type=TaskType.CLASSIFICATION, outputs=len(labels)), labels, None


def add_options(parser: argparse.ArgumentParser) -> None:
    """Which encoder, and where what is made of it lies."""
    parser.add_argument("--model", type=Path, help="folder of a real encoder (default: BERT-base with random weights)")
    parser.add_argument("--layers", type=int, default=12, help="of the random encoder")
    parser.add_argument("--width", type=int, default=768, help="of the random encoder")
    parser.add_argument(
        "--home", type=Path, required=True, help="folder for releases and exports; they are kept for the next run"
    )


def add_layout_options(parser: argparse.ArgumentParser, tasks: int) -> None:
    parser.add_argument("--layout", choices=LAYOUTS, default="mixed", help="industrial: 21 tasks in 40 layers")
    parser.add_argument("--tasks", type=int, default=tasks, help="of the mixed layout, in turn, or separate")


def opened(arguments: argparse.Namespace) -> Setting:
    return Setting.open(arguments.home, arguments.model, Encoder(arguments.layers, arguments.width))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    add_layout_options(parser, len(MIXED))
    parser.add_argument("--token-tasks", type=int, default=0)
    arguments = parser.parse_args()
    setting = opened(arguments)
    layout = setting.layout(arguments.layout, arguments.tasks)
    digest = setting.release(layout, token_tasks=arguments.token_tasks)
    manifest = setting.manifest(digest)
    print(f"{digest} in {setting.root}: {manifest.layers_in_use} layers, {manifest.layers_if_separate} if separate")


if __name__ == "__main__":
    main()
