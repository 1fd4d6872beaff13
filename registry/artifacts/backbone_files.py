"""From a folder of model files to a backbone in the store: checked whole, cut layer by layer, hashed.

Nothing is stored before everything has been checked, so a refused folder leaves no blob.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from registry.artifacts.safetensors_file import SafetensorsFile, safetensors_bytes
from registry.artifacts.store import ArtifactStore
from registry.domain.digests import TensorBytes, prefix_digests, prefix_root, tensors_digest, tokenizer_digest
from registry.domain.families import BackboneFamily, family_of
from registry.domain.plain_data import canonical_json
from registry.domain.records import NewBackbone
from registry.domain.references import check_name
from registry.errors import InvalidInput, InvalidWeights, UsageError
from registry.fault_points import reached

DEFAULT_MAX_LENGTH = 128
SHORTEST_MAX_LENGTH = 3  # one piece between the two special tokens

_SHOWN_PROBLEMS = 20
_EXACT_IN_FP32 = frozenset({"F32", "F16", "BF16"})
_NUMBERED = re.compile(r"(?P<number>0|[1-9][0-9]{0,5})\.(?P<rest>.+)")
_PICKLED_FILES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.ckpt.index", "tf_model.h5")


class _Parts(NamedTuple):
    embeddings: list[TensorBytes]
    layers: list[list[TensorBytes]]


def store_backbone(folder: Path, *, name: str, max_length: int | None, store: ArtifactStore) -> NewBackbone:
    """Reads `config.json`, `tokenizer.json` and the safetensors weights, stores their blobs, and describes them.

    One blob holds the embeddings, one each layer, with names relative to them and the dtype of the file; one holds
    the tokenizer as canonical JSON without padding and truncation. `max_length` is counted in tokens; None means
    128, or all positions when there are fewer.

    Raises:
        UsageError: the name is not one, or `max_length` is not between 3 and the number of positions.
        InvalidInput: a file is missing, unreadable, or of an unsupported kind of model.
        InvalidWeights: the weights are damaged, or not those of the model that `config.json` describes.
        StorageError: a blob could not be written.
    """
    check_name("backbone", name)
    _check_files(folder)
    config_path = folder / "config.json"
    config = _json_object(config_path)
    family = family_of(config, str(config_path))
    _check_sizes(family, config, str(config_path))
    length = _max_length(max_length, limit=family.longest_input(config))
    tokenizer = _tokenizer(folder / "tokenizer.json", vocabulary=family.setting(config, "vocab_size"))
    layer_count = family.setting(config, family.layer_count_field)
    with ExitStack() as open_files:
        parts = _cut(list(_tensors(folder, open_files)), family, layer_count, str(folder))
        layer_digests = tuple(tensors_digest(layer) for layer in parts.layers)
        root = prefix_root(
            model_type=family.model_type,
            config=family.function_config(config),
            max_length=length,
            embeddings=tensors_digest(parts.embeddings),
            tokenizer=tokenizer_digest(tokenizer),
        )
        reached("pin.files-checked")
        return NewBackbone(
            name=name,
            model_type=family.model_type,
            layer_count=len(parts.layers),
            hidden_size=family.setting(config, family.hidden_size_field),
            max_length=length,
            config=config,
            prefix_root=root,
            layer_digests=layer_digests,
            prefix_digests=prefix_digests(root, layer_digests),
            tokenizer=store.put(tokenizer),
            embeddings=store.put(safetensors_bytes(parts.embeddings)),
            layers=tuple(store.put(safetensors_bytes(layer)) for layer in parts.layers),
            source=str(folder.resolve()),
        )


def _check_files(folder: Path) -> None:
    if not folder.is_dir():
        raise InvalidInput(
            str(folder), ["is not a folder: name one that holds config.json, tokenizer.json and model.safetensors"]
        )
    present = sorted(path.name for path in folder.iterdir() if path.is_file())
    problems = [f"{name} is missing" for name in ("config.json", "tokenizer.json") if name not in present]
    if not {"model.safetensors", "model.safetensors.index.json"} & set(present):
        problem = "model.safetensors is missing"
        if pickled := [name for name in _PICKLED_FILES if name in present]:
            problem += (
                f"; {pickled[0]} is there, but Trunkline reads only safetensors: load the model where you trust it "
                "and save it again with transformers' save_pretrained"
            )
        problems.append(problem)
    if problems:
        raise InvalidInput(str(folder), [*problems, f"it holds: {', '.join(present) or 'no files'}"])


def _json_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
        canonical_json(content)
    except OSError as error:
        raise InvalidInput(str(path), [f"cannot be read: {error.strerror}"]) from error
    except (ValueError, RecursionError) as error:
        raise InvalidInput(str(path), [f"is not JSON: {error}"]) from None
    if not isinstance(content, dict):
        raise InvalidInput(str(path), ["is not a JSON object"])
    return content


def _check_sizes(family: BackboneFamily, config: Mapping[str, Any], subject: str) -> None:
    least = {family.layer_count_field: 1, family.hidden_size_field: 1, family.position_field: 1, "vocab_size": 1}
    least["pad_token_id"] = 0
    problems = []
    for field, smallest in least.items():
        value = family.setting(config, field)
        if type(value) is not int or value < smallest:
            problems.append(f"{field} is {value!r}: it must be a whole number from {smallest}")
    if not problems and family.longest_input(config) < SHORTEST_MAX_LENGTH:
        problems.append(f"{family.position_field} leaves no room for {SHORTEST_MAX_LENGTH} tokens")
    if not problems and family.setting(config, "pad_token_id") >= family.setting(config, "vocab_size"):
        problems.append("pad_token_id is not below vocab_size: no embedding stands for padding")
    if problems:
        raise InvalidInput(subject, problems)


def _max_length(wanted: int | None, *, limit: int) -> int:
    length = min(DEFAULT_MAX_LENGTH, limit) if wanted is None else wanted
    if not SHORTEST_MAX_LENGTH <= length <= limit:
        raise UsageError(f"max_length {length}: this backbone takes {SHORTEST_MAX_LENGTH} to {limit} tokens")
    return length


def _tokenizer(path: Path, *, vocabulary: int) -> bytes:
    """The tokenizer's blob: its bytes have the digest that `digests.tokenizer_digest` gives for the file."""
    content = _json_object(path)
    content.pop("padding", None)
    content.pop("truncation", None)
    largest = max(_token_ids(content), default=-1)
    if largest < 0:
        raise InvalidInput(str(path), ["holds no vocabulary (model.vocab): it is not a tokenizer of this model"])
    if largest >= vocabulary:
        # An id beyond the embeddings would fail only when somebody's text first contains that piece.
        raise InvalidInput(str(path), [f"has token id {largest}, but config.json has vocab_size {vocabulary}"])
    match content:
        case {"model": {"dropout": float() | int() as dropout}} if dropout:
            raise InvalidInput(
                str(path), [f"has model.dropout {dropout}: it reads a text differently each time; make it null"]
            )
    return canonical_json(content)


def _token_ids(content: Mapping[str, Any]) -> Iterator[int]:
    """Ids of the pieces (a mapping to ids, or a list in the order of the ids) and of the added tokens."""
    match content:
        case {"model": {"vocab": dict() as pieces}}:
            yield from (number for number in pieces.values() if type(number) is int)
        case {"model": {"vocab": list() as pieces}}:
            yield from range(len(pieces))
    match content:
        case {"added_tokens": list() as added}:
            yield from (token["id"] for token in added if isinstance(token, dict) and type(token.get("id")) is int)


def _tensors(folder: Path, open_files: ExitStack) -> Iterator[TensorBytes]:
    """Every tensor of the weights file, or of all the files that the index names."""
    if (folder / "model.safetensors").is_file():
        file = open_files.enter_context(SafetensorsFile(folder / "model.safetensors"))
        yield from map(file.tensor, file.entries)
        return
    index = folder / "model.safetensors.index.json"
    shards = _shards(index)
    for shard, expected in sorted(shards.items()):
        file = open_files.enter_context(SafetensorsFile(folder / shard))
        if differing := sorted(expected ^ file.entries.keys()):
            raise InvalidWeights(f"{folder / shard}: does not hold what {index.name} says: {', '.join(differing[:5])}")
        yield from map(file.tensor, file.entries)


def _shards(index: Path) -> dict[str, set[str]]:
    weight_map = _json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InvalidInput(str(index), ["has no weight_map"])
    shards: dict[str, set[str]] = {}
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise InvalidInput(str(index), [f"weight_map: {tensor} names {shard!r}, which is no file of this folder"])
        shards.setdefault(shard, set()).add(tensor)
    return shards


def _cut(tensors: list[TensorBytes], family: BackboneFamily, layer_count: int, subject: str) -> _Parts:
    """Sorts the tensors into embeddings and layers, with relative names; lists everything that does not fit."""
    prefix = _checkpoint_prefix(tensors, family)
    parts = _Parts([], [[] for _ in range(layer_count)])
    problems: list[str] = []
    for tensor in tensors:
        if not tensor.name.startswith(prefix):  # a head, beside the encoder
            continue
        if tensor.name.removeprefix(prefix).startswith(family.ignored_tensors):
            continue
        layer, name = _place(tensor.name.removeprefix(prefix), family)
        if name is None:
            problems.append(f"{tensor.name} belongs neither to the embeddings nor to a layer")
        elif tensor.dtype not in _EXACT_IN_FP32:
            problems.append(f"{tensor.name} is {tensor.dtype}: only F32, F16 and BF16 weights can be pinned")
        elif layer is None:
            parts.embeddings.append(tensor._replace(name=name))
        elif layer >= layer_count:
            problems.append(f"{tensor.name} is beyond the {layer_count} layers of config.json")
        else:
            parts.layers[layer].append(tensor._replace(name=name))
    if not parts.embeddings:
        problems.append(f"no tensor begins with {prefix + family.embeddings_prefix}: the embeddings are missing")
    problems += _repeated_names(parts) + _uneven_layers(parts.layers)
    if problems:
        shown = [*problems[:_SHOWN_PROBLEMS], f"and {len(problems) - _SHOWN_PROBLEMS} more"]
        listed = "".join(f"\n  - {line}" for line in (shown if len(problems) > _SHOWN_PROBLEMS else problems))
        raise InvalidWeights(f"{subject}: its weights are not those of its config.json{listed}")
    return parts


def _place(name: str, family: BackboneFamily) -> tuple[int | None, str | None]:
    """Where a tensor belongs: (layer from 0, or None for the embeddings; its name there, or None for nowhere)."""
    for old, new in family.renamed_tensors.items():
        if name.endswith(old):
            name = name.removesuffix(old) + new
    if name.startswith(family.embeddings_prefix):
        return None, name.removeprefix(family.embeddings_prefix)
    if family.embedding_projection and name.startswith(f"{family.embedding_projection}."):
        return None, name
    numbered = _NUMBERED.fullmatch(name.removeprefix(family.layer_prefix))
    if not name.startswith(family.layer_prefix) or numbered is None:
        return None, None
    return int(numbered["number"]), numbered["rest"]


def _checkpoint_prefix(tensors: list[TensorBytes], family: BackboneFamily) -> str:
    for prefix in family.checkpoint_prefixes:
        if any(tensor.name.startswith(prefix + family.embeddings_prefix) for tensor in tensors):
            return prefix
    return ""


def _repeated_names(parts: _Parts) -> list[str]:
    problems = []
    groups = {"the embeddings": parts.embeddings, **{f"layer {n}": layer for n, layer in enumerate(parts.layers, 1)}}
    for place, tensors in groups.items():
        names = [tensor.name for tensor in tensors]
        problems += [f"{name} occurs twice in {place}" for name in sorted({n for n in names if names.count(n) > 1})]
    return problems


def _uneven_layers(layers: list[list[TensorBytes]]) -> list[str]:
    """Every layer has the same tensors with the same shapes: one that differs has lost or gained something."""
    shapes: dict[str, tuple[int, ...]] = {}
    problems = []
    for number, layer in enumerate(layers, 1):
        for tensor in layer:
            expected = shapes.setdefault(tensor.name, tensor.shape)
            if tensor.shape != expected:
                problems.append(f"layer {number}: {tensor.name} has shape {list(tensor.shape)}, not {list(expected)}")
    for number, layer in enumerate(layers, 1):
        missing = sorted(shapes.keys() - {tensor.name for tensor in layer})
        if not layer:
            problems.append(f"layer {number} is missing")
        else:
            problems += [f"layer {number}: {name} is missing" for name in missing]
    return problems
