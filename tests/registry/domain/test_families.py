from typing import Any

import pytest

from registry.domain.families import BERT, family_of
from registry.errors import InvalidInput


def test_a_bert_config_is_known() -> None:
    assert family_of({"model_type": "bert"}, "config.json") is BERT


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
    ],
)
def test_a_model_of_another_kind_is_refused(config: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=r"models/config\.json") as refused:
        family_of(config, "models/config.json")
    assert said in str(refused.value)
