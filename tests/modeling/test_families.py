"""Every family beside BERT, against transformers' own model of the same weights, depth by depth."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
    XLMRobertaTokenizer,
)

from modeling.backbone import Attention, Trunk, load_text_encoder, load_trunk
from modeling.heads import build_head
from modeling.task_module import load_task_module, new_task_module
from modeling.text import Batch
from registry.artifacts.backbone_files import store_backbone
from registry.artifacts.local_store import LocalArtifactStore
from registry.domain.families import FAMILIES
from registry.domain.manifests import HeadConfig
from registry.domain.task_specs import TaskType
from registry.errors import InvalidInput, InvalidWeights
from tests.conftest import TOKENIZERS, Branch, Pinned, byte_level, family_config, pin, randomise, unigram

ATTENTIONS: tuple[Attention, ...] = ("sdpa", "eager")
OTHERS = ("roberta", "xlm-roberta", "electra", "distilbert")

every_family = pytest.mark.parametrize("model_type", list(FAMILIES))
every_other_family = pytest.mark.parametrize("model_type", OTHERS)
both_attentions = pytest.mark.parametrize("attention", ATTENTIONS)


def trunk_of(pinned: Pinned, attention: Attention = "sdpa", depth: int | None = None) -> Trunk:
    backbone = pinned.backbone
    return load_trunk(
        config=backbone.config,
        embeddings=backbone.embeddings,
        layers=backbone.layers[:depth],
        store=pinned.store,
        attention=attention,
    )


def random_batch(pinned: Pinned, lengths: list[int], *, seed: int = 0) -> Batch:
    """Random ids, the padding id among them; random token types where the family has them; padded as texts are."""
    family, config = FAMILIES[pinned.backbone.model_type], pinned.backbone.config
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths))
    mask = torch.arange(shape[1]) < torch.tensor(lengths)[:, None]
    ids = torch.randint(0, config["vocab_size"], shape, generator=generator)
    return Batch(
        input_ids=ids.masked_fill(~mask, config["pad_token_id"]),
        type_ids=torch.randint(0, family.type_count(config), shape, generator=generator),
        mask=mask,
        word_tokens=torch.zeros(len(lengths), 0, dtype=torch.int64),
    )


@torch.no_grad()
def transformers_states(model: PreTrainedModel, batch: Batch, attention: str) -> tuple[Tensor, ...]:
    model.set_attn_implementation(attention)
    types = {"token_type_ids": batch.type_ids} if model.config.model_type in ("bert", "electra") else {}
    states: tuple[Tensor, ...] = model(
        input_ids=batch.input_ids, attention_mask=batch.mask.long(), output_hidden_states=True, **types
    ).hidden_states
    return states


def assert_every_depth_equals_transformers(pinned: Pinned, batch: Batch, attention: Attention = "sdpa") -> None:
    trunk = trunk_of(pinned, attention)
    expected = transformers_states(pinned.model, batch, attention)
    found = trunk(batch, range(trunk.depth + 1))
    assert sorted(found) == list(range(len(expected)))
    for depth, state in enumerate(expected):
        torch.testing.assert_close(found[depth], state, rtol=0, atol=1e-5, msg=lambda m, d=depth: f"layer {d}: {m}")


def varied_changes(model_type: str, seed: int) -> dict[str, Any]:
    """Changes by the names of BERT's fields."""
    choose = random.Random(seed).choice
    heads = choose([1, 2, 3, 5])
    width = heads * choose([4, 7, 16])
    changes = {
        "num_attention_heads": heads,
        "hidden_size": width,
        "intermediate_size": choose([13, 64]),
        "num_hidden_layers": choose([1, 2, 3, 5]),
        "hidden_act": choose(["gelu", "gelu_new", "relu", "silu", "gelu_pytorch_tanh"]),
        "max_position_embeddings": choose([17, 40]),
        "hidden_dropout_prob": choose([0.0, 0.1, 0.5]),
        "pad_token_id": choose([0, 1, 4]),
    }
    if model_type == "distilbert":
        return changes | {"sinusoidal_pos_embds": choose([True, False])}
    if model_type == "electra":
        changes["embedding_size"] = choose([width, 9, 40])
    return changes | {"layer_norm_eps": choose([1e-12, 1e-5, 1e-3]), "type_vocab_size": choose([1, 2, 3])}


NOT_OF_THE_FUNCTION = {
    "model_type", "num_hidden_layers", "n_layers", "use_cache", "is_decoder", "add_cross_attention",
    "hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout", "summary_last_dropout",
    "dropout", "attention_dropout", "qa_dropout", "seq_classif_dropout",
    "initializer_range", "sinusoidal_pos_embds", "bos_token_id", "eos_token_id", "tie_word_embeddings",
    "summary_type", "summary_use_proj", "summary_activation",
}  # fmt: skip


@every_family
def test_every_field_of_transformers_config_is_covered_or_known_not_to_matter(model_type: str) -> None:
    config = AutoConfig.for_model(model_type)
    family = FAMILIES[model_type]
    own_fields = {field for field in type(config).__annotations__ if field not in NOT_OF_THE_FUNCTION}
    assert own_fields - {"attribute_map"} == set(family.function_defaults)
    assert {field: getattr(config, field) for field in family.function_defaults} == family.function_defaults
    assert family.other_names == {other: own for other, own in config.attribute_map.items() if own != other}
    assert hasattr(config, family.dropout_field)


@both_attentions
@pytest.mark.parametrize("seed", range(6))
@every_other_family
def test_every_depth_of_a_random_model_equals_transformers(
    tmp_path: Path, model_type: str, seed: int, attention: Attention
) -> None:
    pinned = pin(tmp_path / "model", family_config(model_type, **varied_changes(model_type, seed)), seed=seed)
    longest = FAMILIES[model_type].longest_input(pinned.backbone.config)
    lengths = [longest, *random.Random(seed).choices(range(1, longest + 1), k=3)]
    assert_every_depth_equals_transformers(pinned, random_batch(pinned, lengths, seed=seed), attention)


@both_attentions
@every_other_family
def test_every_depth_equals_transformers_without_padding(
    pinned_family: Callable[[str], Pinned], model_type: str, attention: Attention
) -> None:
    pinned = pinned_family(model_type)
    assert_every_depth_equals_transformers(pinned, random_batch(pinned, [9, 9, 9]), attention)


def transformers_tokenizer(model_type: str) -> PreTrainedTokenizerFast:
    """transformers' own tokenizer of the family, from the same vocabulary."""
    if model_type == "roberta":
        model = json.loads(byte_level().to_str())["model"]
        return RobertaTokenizer(vocab=model["vocab"], merges=[tuple(merge) for merge in model["merges"]])
    if model_type == "xlm-roberta":
        vocabulary = json.loads(unigram().to_str())["model"]["vocab"]
        return XLMRobertaTokenizer(vocab=[tuple(piece) for piece in vocabulary])
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=TOKENIZERS[model_type](), **names)


TEXTS = [
    ("hello new york", None),
    ("the world saw it", "hello world: 3.5 new"),
    ("a", "the"),
    ("new york hello the world " * 9, "hello world " * 5),
]


@both_attentions
@every_family
def test_texts_and_pairs_come_to_what_transformers_makes_of_them(
    pinned_family: Callable[[str], Pinned], model_type: str, attention: Attention
) -> None:
    pinned = pinned_family(model_type)
    encoder = load_text_encoder(pinned.backbone, pinned.store)
    rows = encoder.encode(TEXTS)
    batch = encoder.collate(rows)
    found = trunk_of(pinned, attention)(batch, [4])[4]
    tokenizer, has_types = transformers_tokenizer(model_type), model_type in ("bert", "electra")
    pinned.model.set_attn_implementation(attention)
    for number, (text, text_pair) in enumerate(TEXTS):
        inputs = tokenizer(
            text,
            text_pair,
            truncation="longest_first",
            max_length=encoder.max_length,
            return_tensors="pt",
            return_token_type_ids=has_types,
        )
        no_types = torch.zeros_like(inputs["input_ids"])
        assert list(rows[number].input_ids) == inputs["input_ids"][0].tolist()
        assert list(rows[number].type_ids) == inputs.get("token_type_ids", no_types)[0].tolist()
        with torch.no_grad():
            expected = pinned.model(**inputs).last_hidden_state[0]
        torch.testing.assert_close(found[number, : len(expected)], expected, rtol=0, atol=1e-5)


HEADS = (
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoModelForQuestionAnswering,
    AutoModelForMultipleChoice,
)


def pin_saved(model: PreTrainedModel, folder: Path) -> Pinned:
    """Pins what transformers' own `save_pretrained` writes."""
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(TOKENIZERS[model.config.model_type]().to_str())
    store = LocalArtifactStore(folder / "store")
    backbone = store_backbone(folder, name="saved", max_length=None, store=store)
    return Pinned(model.base_model, backbone, store, folder / "store")


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.__name__)
@every_family
def test_what_transformers_saves_is_pinned_whatever_its_head(
    tmp_path: Path, pinned_family: Callable[[str], Pinned], model_type: str, head: Any
) -> None:
    config = AutoConfig.for_model(**family_config(model_type, num_hidden_layers=2))
    model = head.from_config(config).eval()
    randomise(model, seed=1)
    pinned = pin_saved(model, tmp_path)
    assert pinned.backbone.layer_count == 2
    assert pinned.backbone.max_length == (38 if "roberta" in model_type else 40)
    assert_every_depth_equals_transformers(pinned, random_batch(pinned, [5, 12, 1]))


@every_family
def test_a_checkpoints_prefix_and_head_do_not_change_the_digests(tmp_path: Path, model_type: str) -> None:
    config = AutoConfig.for_model(**family_config(model_type, num_hidden_layers=2))
    model = AutoModelForSequenceClassification.from_config(config).eval()
    randomise(model, seed=1)
    with_head, bare = pin_saved(model, tmp_path / "with-head"), pin_saved(model.base_model, tmp_path / "bare")
    assert with_head.backbone.prefix_digests == bare.backbone.prefix_digests


@every_family
def test_buffers_and_spellings_of_old_checkpoints_do_not_change_the_digests(tmp_path: Path, model_type: str) -> None:
    pinned = pin(tmp_path / "new", family_config(model_type))
    folder = tmp_path / "old"
    folder.mkdir()
    prefix = FAMILIES[model_type].checkpoint_prefixes[0]
    tensors = load_file(tmp_path / "new" / "model.safetensors")
    old = {
        prefix + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in tensors.items()
    }
    old[f"{prefix}embeddings.position_ids"] = torch.arange(40)[None]
    old[f"{prefix}pooler.dense.weight"] = torch.zeros(24, 24)
    old["lm_head.bias"] = torch.zeros(3)
    old["vocab_transform.weight"] = torch.zeros(3)
    old["discriminator_predictions.dense.weight"] = torch.zeros(3)
    save_file(old, folder / "model.safetensors")
    settings = {"transformers_version": "4.1.0", "gradient_checkpointing": False, "output_past": True}
    config = pinned.backbone.config | settings | {"position_embedding_type": "absolute", "tie_weights_": True}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(TOKENIZERS[model_type]().to_str())
    backbone = store_backbone(folder, name="old", max_length=None, store=pinned.store)
    assert backbone.prefix_digests == pinned.backbone.prefix_digests
    again = Pinned(pinned.model, backbone, pinned.store, pinned.store_folder)
    assert_every_depth_equals_transformers(again, random_batch(again, [3, 8]))


def test_a_distilbert_config_may_use_the_common_names(tmp_path: Path) -> None:
    pinned = pin(tmp_path / "own", family_config("distilbert"))
    common = {own: name for name, own in FAMILIES["distilbert"].other_names.items()}
    config = {common.get(name, name): value for name, value in pinned.backbone.config.items()}
    assert {"hidden_size", "num_hidden_layers", "num_attention_heads"} <= config.keys()
    (tmp_path / "own" / "config.json").write_text(json.dumps(config))
    backbone = store_backbone(tmp_path / "own", name="common", max_length=None, store=pinned.store)
    assert backbone.prefix_digests == pinned.backbone.prefix_digests
    again = Pinned(pinned.model, backbone, pinned.store, pinned.store_folder)
    assert trunk_of(again, depth=2).depth == 2
    assert_every_depth_equals_transformers(again, random_batch(again, [3, 8]))


def test_sinusoidal_positions_are_those_of_the_file(tmp_path: Path) -> None:
    learnt = pin(tmp_path / "learnt", family_config("distilbert"))
    sinusoidal = pin(tmp_path / "sinusoidal", family_config("distilbert", sinusoidal_pos_embds=True))
    assert sinusoidal.backbone.prefix_digests == learnt.backbone.prefix_digests
    batch = random_batch(learnt, [3, 8])
    assert torch.equal(trunk_of(sinusoidal)(batch, [4])[4], trunk_of(learnt)(batch, [4])[4])


@every_other_family
def test_a_feed_forward_in_chunks_takes_any_length(tmp_path: Path, model_type: str) -> None:
    pinned = pin(tmp_path / "model", family_config(model_type, chunk_size_feed_forward=7))
    pinned.model.config.chunk_size_feed_forward = 0
    assert trunk_of(pinned)(random_batch(pinned, [9]), [4])[4].shape == (1, 9, 24)


def test_electras_projection_belongs_to_the_embeddings(pinned_family: Callable[[str], Pinned]) -> None:
    pinned = pinned_family("electra")
    stored = load_file(pinned.store.fetch(pinned.backbone.embeddings))
    assert stored["embeddings_project.weight"].shape == (24, 16)
    assert stored["word_embeddings.weight"].shape[1] == 16
    assert trunk_of(pinned).embeddings.state_dict().keys() == stored.keys()
    assert trunk_of(pinned, depth=0)(random_batch(pinned, [5]), [0])[0].shape == (1, 5, 24)


def test_another_projection_is_another_backbone_from_the_embeddings_on(tmp_path: Path) -> None:
    pinned = pin(tmp_path / "model", family_config("electra"))
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    tensors["embeddings_project.bias"][0] += 1.0
    save_file(tensors, tmp_path / "model" / "model.safetensors")
    other = store_backbone(tmp_path / "model", name="other", max_length=None, store=pinned.store)
    assert not set(other.prefix_digests) & set(pinned.backbone.prefix_digests)
    assert other.layer_digests == pinned.backbone.layer_digests


def test_an_electra_without_its_projection_is_refused_naming_it(tmp_path: Path) -> None:
    pinned = pin(tmp_path / "model", family_config("electra"))
    tensors = load_file(pinned.store.fetch(pinned.backbone.embeddings))
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("embeddings_project")}
    save_file(kept, tmp_path / "embeddings.safetensors")
    with pytest.raises(InvalidWeights, match=r"embeddings: tensor embeddings_project\.bias is missing"):
        load_trunk(
            config=pinned.backbone.config,
            embeddings=pinned.store.put_file(tmp_path / "embeddings.safetensors"),
            layers=[],
            store=pinned.store,
        )


def test_an_electra_of_one_width_has_no_projection(tmp_path: Path) -> None:
    pinned = pin(tmp_path / "model", family_config("electra", embedding_size=24))
    assert not any("project" in name for name in trunk_of(pinned).embeddings.state_dict())


@pytest.mark.parametrize("depth", [0, 1, 3])
@both_attentions
@every_other_family
def test_a_module_of_the_top_layers_ends_where_the_whole_model_does(
    pinned_family: Callable[[str], Pinned],
    make_branch: Callable[..., Branch],
    model_type: str,
    attention: Attention,
    depth: int,
) -> None:
    pinned = pinned_family(model_type)
    branch = make_branch(pinned, TaskType.TOKEN_CLASSIFICATION, depth=depth, layers=4 - depth)
    module = load_task_module(
        pinned.store.fetch(branch.manifest.module),
        subject="rte/3",
        config=pinned.backbone.config,
        head=branch.manifest.head,
        task_layers=4 - depth,
        attention=attention,
    )
    batch = random_batch(pinned, [6, 4])
    states = transformers_states(pinned.model, batch, attention)
    with torch.no_grad():
        outputs = module(states[depth], batch.mask, torch.tensor([[1, 2], [3, -1]]))
        for row, word, piece in ((0, 0, 1), (0, 1, 2), (1, 0, 3)):
            expected = module.head.linear(states[-1][row, piece])
            torch.testing.assert_close(outputs[row, word], expected, rtol=0, atol=1e-5)


@every_other_family
def test_a_module_is_trained_through_its_layers(pinned_family: Callable[[str], Pinned], model_type: str) -> None:
    pinned = pinned_family(model_type)
    head = HeadConfig(type=TaskType.CLASSIFICATION, outputs=3)
    module = new_task_module(config=pinned.backbone.config, head=head, task_layers=1, seed=1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    hidden = torch.randn(2, 5, 24)
    module(hidden, torch.ones(2, 5, dtype=torch.bool), torch.zeros(2, 0, dtype=torch.int64)).sum().backward()
    untouched = [name for name, parameter in module.named_parameters() if parameter.grad is None]
    assert untouched == [f"layers.0.{FAMILIES[model_type].layer_parts.key}.bias"]  # softmax does not see it
    assert all(part.training for part in module.modules())


@every_family
def test_a_heads_dropout_is_that_of_the_backbones_layers(model_type: str) -> None:
    changes: dict[str, Any] = {"hidden_dropout_prob": 0.25}
    config = AutoConfig.for_model(**family_config(model_type, **changes))
    head = build_head(HeadConfig(type=TaskType.CLASSIFICATION, outputs=2), config)
    assert head.dropout.p == 0.25
    assert head.linear.in_features == 24


words = st.text(st.sampled_from("newyorkthl '.-3é中😀"), max_size=24)


@every_family
@settings(max_examples=25)
@given(rows=st.lists(st.tuples(words, st.none() | words), min_size=1, max_size=5))
def test_neither_batch_mates_nor_padding_change_a_rows_hidden_state(
    pinned_family: Callable[[str], Pinned], model_type: str, rows: list[tuple[str, str | None]]
) -> None:
    pinned = pinned_family(model_type)
    encoder = load_text_encoder(pinned.backbone, pinned.store)
    trunk = trunk_of(pinned)
    encoded = encoder.encode(rows)
    together = trunk(encoder.collate([*encoded, encoder.encode([("new york " * 20, None)])[0]]), [4])[4]
    for number, row in enumerate(encoded):
        alone = trunk(encoder.collate([row]), [4])[4][0, : len(row.input_ids)]
        torch.testing.assert_close(together[number, : len(row.input_ids)], alone, rtol=0, atol=2e-5)


@pytest.mark.parametrize("model_type", ["roberta", "xlm-roberta"])
def test_positions_that_follow_padding_shorten_the_longest_input(tmp_path: Path, model_type: str) -> None:
    pinned = pin(tmp_path / "model", family_config(model_type, max_position_embeddings=20))
    assert pinned.backbone.max_length == 18
    longest = random_batch(pinned, [18])
    longest.input_ids.clamp_(min=5)  # no padding id among them: all 18 positions are used
    assert_every_depth_equals_transformers(pinned, longest)
    one_more = Batch(*(torch.cat([part, part[:, :1]], dim=1) for part in (longest.input_ids, longest.type_ids)),
                     torch.ones(1, 19, dtype=torch.bool), longest.word_tokens)  # fmt: skip
    with pytest.raises((IndexError, RuntimeError), match="out of"):
        trunk_of(pinned)(one_more, [0])


def test_a_token_type_that_the_backbone_lacks_is_refused_or_not_used(tmp_path: Path) -> None:
    one_type = pin(tmp_path / "one", family_config("bert", type_vocab_size=1))
    encoder = load_text_encoder(one_type.backbone, one_type.store)
    (pair,) = encoder.encode([("new", "york")])
    assert set(pair.type_ids) == {0}
    assert trunk_of(one_type)(encoder.collate([pair]), [4])[4].isfinite().all()
    (tmp_path / "one" / "tokenizer.json").write_text(
        (tmp_path / "one" / "tokenizer.json")
        .read_text()
        .replace('"type_id":1', '"type_id":2')
        .replace('"type_id": 1', '"type_id": 2')
    )
    two_types = {**one_type.backbone.config, "type_vocab_size": 2}
    (tmp_path / "one" / "config.json").write_text(json.dumps(two_types))
    other = store_backbone(tmp_path / "one", name="other", max_length=None, store=one_type.store)
    with pytest.raises(InvalidInput, match="gives token type 2; the backbone has 0 to 1"):
        load_text_encoder(other, one_type.store)
