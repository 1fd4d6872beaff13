"""A release as a folder that transformers loads by itself: weights, tokenizer, its own code beside them, and a card."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tokenizers
import transformers
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from modeling.multitask import MergedModel, load_merged_model
from pipelines.export import bundled
from registry.artifacts.store import ArtifactStore
from registry.domain.families import BackboneFamily, family_of
from registry.domain.manifests import BranchManifest, Manifest, TrunkManifest
from registry.domain.task_specs import InputForm
from registry.errors import StorageError

_CODE = ("configuration_trunkline", "modeling_trunkline")

USE = """\
## Use

```python
from transformers import AutoModel, AutoTokenizer

model = AutoModel.from_pretrained(FOLDER, trust_remote_code=True).eval()
tokenizer = AutoTokenizer.from_pretrained(FOLDER, trust_remote_code=True)
inputs = tokenizer({texts}, padding=True, truncation=True, return_tensors="pt")
logits = model(**inputs, tasks=["{task}"]).logits["{task}"]
```

Needs torch and transformers 5; the code is in this folder. `model.config.tasks` says of each task what its outputs
stand for; tasks whose `input_form` is pair read `tokenizer(first_texts, second_texts, …)`. A task that answers words
has one row of logits a piece: `model.tags(task, logits[row], pieces)` are a text's tags, `pieces` being the place of
each word's first piece.
"""


def write_transformers_folder(manifest: Manifest, folder: Path, *, card: str, store: ArtifactStore) -> None:
    """Writes the folder, a new one; all weights fp32.

    Args:
        card: what README.md says above how to use it.
    Raises:
        InvalidWeights, ArtifactMissing, ArtifactDamaged: a blob cannot be used.
        StorageError, OSError: the folder cannot be written.
    """
    model = load_merged_model(manifest, store)
    folder.mkdir()
    weights = dict(_renamed(model, family_of(manifest.trunk.config, "backbone config")))
    try:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    except SafetensorError as error:  # what a full disk comes out as
        raise StorageError(f"cannot write {folder.name}: {error}; free some space or name another place") from error
    for file, content in _texts(manifest, store.read(manifest.trunk.tokenizer), card):
        (folder / file).write_text(content, encoding="utf-8")
    for module in _CODE:
        shutil.copyfile(Path(bundled.__path__[0]) / f"{module}.py", folder / f"{module}.py")


def _renamed(model: MergedModel, family: BackboneFamily) -> Iterator[tuple[str, Tensor]]:
    """The trunk's parts under the names of transformers' whole model, the branches as they are."""
    embeddings = family.embeddings_prefix
    for name, tensor in model.state_dict().items():
        part = name
        if name.startswith("trunk.layers."):
            part = f"encoder.{family.layer_prefix}{name.removeprefix('trunk.layers.')}"
        elif family.embedding_projection and name.startswith(f"trunk.embeddings.{family.embedding_projection}."):
            part = f"encoder.{name.removeprefix('trunk.embeddings.')}"
        elif name.startswith("trunk.embeddings."):
            part = f"encoder.{embeddings}{name.removeprefix('trunk.embeddings.')}"
        yield part, tensor


def _texts(manifest: Manifest, tokenizer: bytes, card: str) -> Iterator[tuple[str, str]]:
    """Every other file with its content."""
    yield "config.json", json.dumps(_config(manifest), indent=2, sort_keys=True)
    yield "tokenizer.json", tokenizer.decode()
    yield "tokenizer_config.json", json.dumps(_tokenizer_config(manifest.trunk, tokenizer), indent=2, sort_keys=True)
    task, branch = next(iter(manifest.tasks.items()))
    texts = '["a text"], ["its pair"]' if branch.input_form is InputForm.PAIR else '["a text"]'
    yield "README.md", f"{card}\n\n{USE.format(task=task, texts=texts)}"


def _config(manifest: Manifest) -> dict[str, Any]:
    trunk = manifest.trunk
    family = family_of(trunk.config, "backbone config")
    encoder = {**family.own_names(trunk.config), **family.built_with, family.layer_count_field: trunk.depth}
    return {
        "model_type": "trunkline",
        "architectures": ["TrunklineModel"],
        "auto_map": {
            "AutoConfig": "configuration_trunkline.TrunklineConfig",
            "AutoModel": "modeling_trunkline.TrunklineModel",
        },
        "dtype": "float32",
        "transformers_version": transformers.__version__,
        "trunkline_manifest": manifest.digest(),
        "longest_input": trunk.max_length,
        "encoder": encoder,
        "layout": {
            "embeddings": family.embeddings_prefix.rstrip("."),
            "projection": _projection(family, trunk.config),
            "layers": family.layers_attribute,
            "layer_count": family.layer_count_field,
            "types": family.type_count_field is not None,
        },
        "tasks": {task: _task(branch) for task, branch in manifest.tasks.items()},
    }


def _projection(family: BackboneFamily, config: Mapping[str, Any]) -> str | None:
    """transformers makes one only where the widths differ."""
    if family.setting(config, "embedding_size") == family.setting(config, family.hidden_size_field):
        return None
    return family.embedding_projection


def _task(branch: BranchManifest) -> dict[str, Any]:
    return {
        "version": branch.version,
        "type": branch.type,
        "input_form": branch.input_form,
        "labels": list(branch.labels),
        "frozen_depth": branch.frozen_depth,
        "task_layers": branch.task_layers,
        "outputs": branch.head.outputs,
        "reading": branch.head.reading,
        "mixes": branch.head.gather == "mix",
        "crf": branch.head.crf,
    }


def _tokenizer_config(trunk: TrunkManifest, tokenizer: bytes) -> dict[str, Any]:
    """Special pieces that are spelled out in a text are read as text, as Trunkline reads them."""
    family = family_of(trunk.config, "backbone config")
    padding = tokenizers.Tokenizer.from_str(tokenizer.decode()).id_to_token(
        family.setting(trunk.config, "pad_token_id")
    )
    types = ["token_type_ids"] if family.type_count(trunk.config) > 1 else []
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": trunk.max_length,
        "model_input_names": ["input_ids", *types, "attention_mask"],
        "pad_token": padding,
        "split_special_tokens": True,
    }
