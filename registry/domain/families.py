"""All that is particular to a family of backbones: its files' names, its config's fields, where its parts lie.

A new family is one entry in `FAMILIES`, plus the depth-by-depth parity test over it.
"""

from collections.abc import Mapping
from typing import Any

from registry.domain.plain_data import Plain
from registry.errors import InvalidInput


class BackboneFamily(Plain):
    """How one model type is laid out, in its files and in transformers."""

    model_type: str
    checkpoint_prefixes: tuple[str, ...]
    """What a checkpoint may put before every encoder tensor (`bert.` when it was saved with a task head)."""
    embeddings_prefix: str
    layer_prefix: str
    """Followed by the layer's number from 0 and a dot."""
    layers_attribute: str
    """Path of the layer list in the transformers model."""
    function_fields: tuple[str, ...]
    """Config fields that change the function; dropout, dtype, paths and library versions do not."""
    function_defaults: Mapping[str, Any]
    """transformers' defaults of the fields that a config file may leave out."""
    layer_count_field: str
    hidden_size_field: str
    position_field: str
    ignored_tensors: tuple[str, ...]
    """Prefixes of tensors that no task uses: buffers, the pooler, pretraining heads."""
    renamed_tensors: Mapping[str, str] = {}
    """Endings that old checkpoints spell otherwise, such as those of the first BERT; the new spelling is hashed."""

    def function_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        return {field: config.get(field, self.function_defaults[field]) for field in self.function_fields}


_BERT_DEFAULTS: dict[str, Any] = {
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

BERT = BackboneFamily(
    model_type="bert",
    checkpoint_prefixes=("bert.", ""),
    embeddings_prefix="embeddings.",
    layer_prefix="encoder.layer.",
    layers_attribute="encoder.layer",
    function_fields=tuple(_BERT_DEFAULTS),
    function_defaults=_BERT_DEFAULTS,
    layer_count_field="num_hidden_layers",
    hidden_size_field="hidden_size",
    position_field="max_position_embeddings",
    ignored_tensors=("embeddings.position_ids", "embeddings.token_type_ids", "pooler.", "cls."),
    renamed_tensors={"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"},
)

FAMILIES: Mapping[str, BackboneFamily] = {BERT.model_type: BERT}


def family_of(config: Mapping[str, Any], subject: str) -> BackboneFamily:
    """The family that a config file names.

    Raises:
        InvalidInput: the model type is missing, unknown, or configured as something other than an encoder.
    """
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None:
        raise InvalidInput(
            subject, [f"model_type {config.get('model_type')!r} is not supported; supported: {', '.join(FAMILIES)}"]
        )
    problems = [
        f"{field} is set: only plain encoders can be pinned"
        for field in ("is_decoder", "add_cross_attention")
        if config.get(field)
    ]
    if config.get("position_embedding_type", "absolute") != "absolute":
        problems.append("position_embedding_type must be 'absolute'")
    if problems:
        raise InvalidInput(subject, problems)
    return family
