import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from modeling.backbone import Attention, Trunk, attention_mask, load_text_encoder, load_trunk
from modeling.text import Batch
from registry.errors import ArtifactDamaged, ArtifactMissing, InvalidInput, InvalidWeights
from tests.conftest import Pinned, small_config

ATTENTIONS: tuple[Attention, ...] = ("sdpa", "eager")


def trunk_of(pinned: Pinned, depth: int | None = None, attention: Attention = "sdpa") -> Trunk:
    backbone = pinned.backbone
    return load_trunk(
        config=backbone.config,
        embeddings=backbone.embeddings,
        layers=backbone.layers[:depth],
        store=pinned.store,
        attention=attention,
    )


def random_batch(vocabulary: int, lengths: list[int], *, types: int = 2, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths))
    return Batch(
        input_ids=torch.randint(0, vocabulary, shape, generator=generator),
        type_ids=torch.randint(0, types, shape, generator=generator),
        mask=torch.arange(shape[1]) < torch.tensor(lengths)[:, None],
        word_tokens=torch.zeros(len(lengths), 0, dtype=torch.int64),
    )


@torch.no_grad()
def transformers_states(pinned: Pinned, batch: Batch, attention: str) -> tuple[Tensor, ...]:
    pinned.model.set_attn_implementation(attention)
    states: tuple[Tensor, ...] = pinned.model(
        input_ids=batch.input_ids,
        token_type_ids=batch.type_ids,
        attention_mask=batch.mask.long(),
        output_hidden_states=True,
    ).hidden_states
    return states


def assert_every_depth_equals_transformers(pinned: Pinned, batch: Batch, attention: Attention) -> None:
    trunk = trunk_of(pinned, attention=attention)
    expected = transformers_states(pinned, batch, attention)
    found = trunk(batch, range(trunk.depth + 1))
    assert sorted(found) == list(range(len(expected)))
    for depth, state in enumerate(expected):
        assert found[depth].shape == state.shape
        assert found[depth].dtype == torch.float32
        # Padding positions too: they are computed alike, and nothing reads them.
        torch.testing.assert_close(found[depth], state, rtol=0, atol=1e-5, msg=lambda m, d=depth: f"layer {d}: {m}")


def varied_config(seed: int) -> dict[str, Any]:
    choose = random.Random(seed).choice
    heads = choose([1, 2, 3, 5])
    return {
        "num_attention_heads": heads,
        "hidden_size": heads * choose([4, 7, 16]),
        "intermediate_size": choose([13, 64]),
        "num_hidden_layers": choose([1, 2, 3, 5]),
        "hidden_act": choose(["gelu", "gelu_new", "relu", "silu", "gelu_pytorch_tanh"]),
        "layer_norm_eps": choose([1e-12, 1e-5, 1e-3]),
        "type_vocab_size": choose([1, 2, 3]),
        "max_position_embeddings": choose([17, 40]),
        "pad_token_id": choose([0, 1]),
        "hidden_dropout_prob": choose([0.0, 0.1, 0.5]),
        "attention_probs_dropout_prob": choose([0.0, 0.3]),
    }


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("seed", range(8))
def test_every_depth_of_a_random_model_equals_transformers(
    pin_model: Callable[..., Pinned], seed: int, attention: Attention
) -> None:
    changes = varied_config(seed)
    pinned = pin_model(seed=seed, **changes)
    lengths = random.Random(seed).choices(range(1, changes["max_position_embeddings"] + 1), k=4)
    batch = random_batch(160, lengths, types=changes["type_vocab_size"], seed=seed)
    assert_every_depth_equals_transformers(pinned, batch, attention)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_every_depth_equals_transformers_without_padding(pinned: Pinned, attention: Attention) -> None:
    assert_every_depth_equals_transformers(pinned, random_batch(160, [9, 9, 9]), attention)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_every_depth_of_minilm_equals_transformers(minilm: Pinned, attention: Attention) -> None:
    encoder = load_text_encoder(minilm.backbone, minilm.store)
    rows = encoder.encode(
        [
            ("A trunk line is a railway's main line.", None),
            ("Branches leave it", "at different stations: 東京, 3.5 km on."),
            ("word " * 300, "another " * 20),
        ]
    )
    assert_every_depth_equals_transformers(minilm, encoder.collate(rows), attention)


def test_sdpa_and_eager_agree(pinned: Pinned) -> None:
    batch = random_batch(160, [3, 12, 7])
    first, second = (trunk_of(pinned, attention=attention)(batch, [4])[4] for attention in ATTENTIONS)
    torch.testing.assert_close(first[batch.mask], second[batch.mask], rtol=0, atol=1e-5)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_the_answer_to_a_row_does_not_depend_on_its_padding(pinned: Pinned, attention: Attention) -> None:
    batch = random_batch(160, [5, 12])
    alone = Batch(batch.input_ids[:1, :5], batch.type_ids[:1, :5], batch.mask[:1, :5], batch.word_tokens[:1])
    trunk = trunk_of(pinned, attention=attention)
    torch.testing.assert_close(trunk(alone, [4])[4], trunk(batch, [4])[4][:1, :5], rtol=0, atol=1e-5)


def test_the_mask_is_made_even_when_nothing_is_padded(pinned: Pinned) -> None:
    batch = random_batch(160, [4, 4])
    trunk = trunk_of(pinned)
    assert attention_mask(trunk.config, trunk(batch, [0])[0], batch.mask).shape == (2, 1, 4, 4)


@pytest.mark.parametrize(("attention", "dtype"), [("sdpa", torch.bool), ("eager", torch.float32)])
def test_the_attention_asked_for_is_the_one_that_runs(pinned: Pinned, attention: Attention, dtype: torch.dtype) -> None:
    batch = random_batch(160, [4, 2])
    trunk = trunk_of(pinned, attention=attention)
    assert attention_mask(trunk.config, trunk(batch, [0])[0], batch.mask).dtype == dtype
    assert trunk.layers[0].attention.self.config._attn_implementation == attention


def test_only_the_layers_down_to_the_deepest_asked_are_run(pinned: Pinned) -> None:
    trunk = trunk_of(pinned)
    calls: list[int] = []
    for number, layer in enumerate(trunk.layers, start=1):
        layer.register_forward_hook(lambda *_, number=number: calls.append(number))
    found = trunk(random_batch(160, [4]), {0, 2})
    assert sorted(found) == [0, 2]
    assert calls == [1, 2]
    assert trunk(random_batch(160, [4]), []) == {}
    assert calls == [1, 2]


@pytest.mark.parametrize("depth", [-1, 3])
def test_a_depth_outside_the_trunk_is_refused(pinned: Pinned, depth: int) -> None:
    trunk = trunk_of(pinned, depth=2)
    with pytest.raises(ValueError, match="layers 0 to 2"):
        trunk(random_batch(160, [4]), [1, depth])
    with pytest.raises(ValueError, match="layers 0 to 2"):
        next(trunk.hidden_states(random_batch(160, [4]), depth))


def test_a_trunk_may_be_the_embeddings_alone(pinned: Pinned) -> None:
    trunk = trunk_of(pinned, depth=0)
    batch = random_batch(160, [4])
    assert trunk.depth == 0
    assert torch.equal(trunk(batch, [0])[0], trunk_of(pinned)(batch, [0])[0])


def test_a_trunk_repeats_its_answer_whatever_mode_it_is_told(pin_model: Callable[..., Pinned]) -> None:
    trunk = trunk_of(pin_model(hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5))
    batch = random_batch(160, [4, 9])
    expected = trunk(batch, [4])[4]
    torch.nn.Sequential(trunk).train()
    assert not any(module.training for module in trunk.modules())
    assert torch.equal(trunk(batch, [4])[4], expected)


def test_a_trunk_gives_no_gradient_even_when_its_parameters_are_told_to(pinned: Pinned) -> None:
    trunk = trunk_of(pinned)
    assert not any(parameter.requires_grad for parameter in trunk.parameters())
    trunk.requires_grad_(True)
    assert not trunk(random_batch(160, [4]), [4])[4].requires_grad


def test_gradients_stay_enabled_for_whoever_reads_the_hidden_states(pinned: Pinned) -> None:
    for hidden in trunk_of(pinned).hidden_states(random_batch(160, [4]), 2):
        assert torch.is_grad_enabled()
        assert not hidden.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_cast_exactly(pin_model: Callable[..., Pinned], dtype: torch.dtype) -> None:
    pinned = pin_model(dtype=dtype)
    stored = load_file(pinned.store.fetch(pinned.backbone.layers[0]))
    assert {tensor.dtype for tensor in stored.values()} == {dtype}
    layer = trunk_of(pinned).layers[0].state_dict()
    assert {tensor.dtype for tensor in layer.values()} == {torch.float32}
    assert all(torch.equal(layer[name].to(dtype), tensor) for name, tensor in stored.items())
    assert_every_depth_equals_transformers(pinned, random_batch(160, [3, 8]), "sdpa")


def test_a_dtype_in_the_config_does_not_decide_that_of_the_trunk(pin_model: Callable[..., Pinned]) -> None:
    pinned = pin_model(dtype=torch.float16)
    config = {**pinned.backbone.config, "torch_dtype": "float16", "dtype": "float16"}
    trunk = load_trunk(
        config=config, embeddings=pinned.backbone.embeddings, layers=pinned.backbone.layers, store=pinned.store
    )
    assert trunk(random_batch(160, [4]), [4])[4].dtype == torch.float32


def test_loading_draws_no_random_number(pinned: Pinned) -> None:
    before = torch.get_rng_state()
    trunk_of(pinned)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loaded_trunk_does_not_depend_on_its_files(pin_model: Callable[..., Pinned]) -> None:
    pinned = pin_model()
    trunk = trunk_of(pinned)
    batch = random_batch(160, [4])
    expected = trunk(batch, [4])[4]
    for blob in pinned.backbone.layers:
        path = pinned.store.fetch(blob)
        path.chmod(0o644)
        path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(trunk(batch, [4])[4], expected)


Change = Callable[[dict[str, Tensor]], None]


def without_key_bias(tensors: dict[str, Tensor]) -> None:
    del tensors["attention.self.key.bias"]


def with_a_pooler(tensors: dict[str, Tensor]) -> None:
    tensors["pooler.dense.weight"] = torch.zeros(2, 2)


def misshapen(tensors: dict[str, Tensor]) -> None:
    tensors["output.dense.bias"] = torch.zeros(23)


def doubled_precision(tensors: dict[str, Tensor]) -> None:
    tensors["output.dense.bias"] = tensors["output.dense.bias"].double()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (without_key_bias, r"tensor attention\.self\.key\.bias is missing"),
        (with_a_pooler, r"tensor pooler\.dense\.weight does not belong there"),
        (misshapen, r"tensor output\.dense\.bias has shape \[23\], not \[24\]"),
        (doubled_precision, r"tensor output\.dense\.bias is F64, not F32 or F16 or BF16"),
    ],
)
def test_a_layer_that_is_not_exactly_its_tensors_is_refused(pinned: Pinned, change: Change, problem: str) -> None:
    tensors = load_file(pinned.store.fetch(pinned.backbone.layers[1]))
    change(tensors)
    layers = [pinned.backbone.layers[0], pinned.store.put(save(tensors))]
    with pytest.raises(InvalidWeights, match=rf"weights of the backbone's layer 2: {problem}"):
        load_trunk(
            config=pinned.backbone.config, embeddings=pinned.backbone.embeddings, layers=layers, store=pinned.store
        )


def test_embeddings_of_another_vocabulary_are_refused(pinned: Pinned) -> None:
    with pytest.raises(InvalidWeights, match=r"embeddings: tensor word_embeddings\.weight has shape \[160, 24\]"):
        load_trunk(
            config={**pinned.backbone.config, "vocab_size": 161},
            embeddings=pinned.backbone.embeddings,
            layers=[],
            store=pinned.store,
        )


def test_a_blob_that_is_no_safetensors_file_is_refused(pinned: Pinned) -> None:
    layers = [pinned.store.put(b"\x80\x04pickled" + bytes(100))]
    with pytest.raises(InvalidWeights, match=r"weights of the backbone's layer 1: .*pickled"):
        load_trunk(
            config=pinned.backbone.config, embeddings=pinned.backbone.embeddings, layers=layers, store=pinned.store
        )


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def test_a_bit_flipped_layer_is_refused(pin_model: Callable[..., Pinned]) -> None:
    pinned = pin_model()
    flip_a_bit(pinned.store.fetch(pinned.backbone.layers[3]))
    with pytest.raises(ArtifactDamaged, match=pinned.backbone.layers[3]):
        trunk_of(pinned)


def test_a_layer_that_the_store_does_not_hold_is_reported(pinned: Pinned) -> None:
    with pytest.raises(ArtifactMissing):
        load_trunk(
            config=pinned.backbone.config,
            embeddings=pinned.backbone.embeddings,
            layers=["0" * 64],
            store=pinned.store,
        )


@pytest.mark.parametrize(
    "changes",
    [{"model_type": "gpt2"}, {"hidden_size": 25}, {"hidden_act": "nonsense"}, {"hidden_size": "wide"}],
)
def test_a_config_that_makes_no_backbone_is_refused(pinned: Pinned, changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="backbone config"):
        load_trunk(
            config={**small_config(), **changes},
            embeddings=pinned.backbone.embeddings,
            layers=pinned.backbone.layers,
            store=pinned.store,
        )


def test_the_text_encoder_of_a_backbone_knows_its_length_and_padding(pin_model: Callable[..., Pinned]) -> None:
    pinned = pin_model(pad_token_id=1)
    encoder = load_text_encoder(pinned.backbone, pinned.store)
    assert (encoder.max_length, encoder.pad_id) == (40, 1)
    assert load_text_encoder(pinned.backbone.trunk(2), pinned.store).encode([("hello", None)]) == encoder.encode(
        [("hello", None)]
    )
