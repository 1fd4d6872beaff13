from typing import Any

import pytest

from registry.domain.families import (
    BERT,
    DISTILBERT,
    ELECTRA,
    FAMILIES,
    ROBERTA,
    XLM_ROBERTA,
    BackboneFamily,
    family_of,
)
from registry.errors import InvalidInput


def test_a_bert_config_is_known() -> None:
    assert family_of({"model_type": "bert"}, "config.json") is BERT


@pytest.mark.parametrize("family", [BERT, ROBERTA, XLM_ROBERTA, ELECTRA, DISTILBERT], ids=lambda f: f.model_type)
def test_every_family_is_known_by_its_model_type(family: BackboneFamily) -> None:
    assert family_of({"model_type": family.model_type}, "config.json") is family
    assert set(FAMILIES) == {"bert", "roberta", "xlm-roberta", "electra", "distilbert"}


def test_fields_that_a_config_leaves_out_have_transformers_defaults() -> None:
    assert BERT.function_config({"model_type": "bert", "hidden_size": 384}) == {
        "hidden_act": "gelu",
        "hidden_size": 384,
        "intermediate_size": 3072,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 512,
        "num_attention_heads": 12,
        "pad_token_id": 0,
        "type_vocab_size": 2,
        "vocab_size": 30522,
    }


@pytest.mark.parametrize(
    "ignored", ["hidden_dropout_prob", "num_hidden_layers", "torch_dtype", "transformers_version", "_name_or_path"]
)
def test_fields_that_do_not_change_the_function_are_left_out(ignored: str) -> None:
    assert BERT.function_config({ignored: "anything"}) == BERT.function_config({})


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "model_type None is not supported; supported: bert"),
        ({"model_type": "gpt2"}, "model_type 'gpt2' is not supported"),
        ({"model_type": ["bert"]}, "is not supported"),
        ({"model_type": "bert", "is_decoder": True}, "is_decoder is set"),
        ({"model_type": "bert", "add_cross_attention": True}, "add_cross_attention is set"),
        ({"model_type": "bert", "position_embedding_type": "relative_key"}, "must be 'absolute'"),
        ({"model_type": "xlm-roberta", "position_embedding_type": "relative_key_query"}, "must be 'absolute'"),
        ({"model_type": "roberta", "is_decoder": True}, "is_decoder is set"),
        (
            {"model_type": "distilbert", "hidden_size": 24, "dim": 32},
            "hidden_size is 24, but dim, which is the same field, is 32",
        ),
    ],
)
def test_a_model_of_another_kind_is_refused(config: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=r"models/config\.json") as refused:
        family_of(config, "models/config.json")
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("family", "changes", "longest"),
    [
        (BERT, {}, 512),
        (ELECTRA, {}, 512),
        (DISTILBERT, {"max_position_embeddings": 1024}, 1024),
        (ROBERTA, {"max_position_embeddings": 514}, 512),
        (XLM_ROBERTA, {"max_position_embeddings": 514, "pad_token_id": 1}, 512),
        (ROBERTA, {"max_position_embeddings": 514, "pad_token_id": 0}, 513),
    ],
)
def test_the_longest_input_is_what_the_positions_reach_for(
    family: BackboneFamily, changes: dict[str, Any], longest: int
) -> None:
    assert family.longest_input(changes) == longest


def test_a_field_goes_by_any_name_that_transformers_takes_for_it() -> None:
    own = {"dim": 24, "n_heads": 3, "n_layers": 2, "activation": "relu"}
    common = {"hidden_size": 24, "num_attention_heads": 3, "num_hidden_layers": 2, "activation": "relu"}
    assert DISTILBERT.own_names(common) == own
    assert DISTILBERT.function_config(common) == DISTILBERT.function_config(own)
    assert DISTILBERT.setting(common, "n_layers") == 2
    both = {"model_type": "distilbert", "hidden_size": 24, "dim": 24}
    assert family_of(both, "config.json") is DISTILBERT


def test_only_families_that_are_fed_token_types_tell_them_apart() -> None:
    assert {name: family.type_count({"type_vocab_size": 2}) for name, family in FAMILIES.items()} == {
        "bert": 2,
        "electra": 2,
        "roberta": 1,
        "xlm-roberta": 1,
        "distilbert": 1,
    }
