"""All that is particular to a family of backbones: its files' names, its config's fields, where its parts lie.

A new family is one entry in `FAMILIES`, plus the depth-by-depth parity test over it.
"""

from collections.abc import Mapping
from typing import Any

from registry.domain.plain_data import Plain
from registry.errors import InvalidInput


class LayerParts(Plain):
    """Where in one of transformers' layers its parts are. The defaults are BERT's names, which most families share."""

    query: str = "attention.self.query"
    key: str = "attention.self.key"
    value: str = "attention.self.value"
    attention_dropout: str = "attention.self.dropout"
    attention_output: str = "attention.output.dense"
    attention_output_dropout: str | None = "attention.output.dropout"
    """None in a family that has none there."""
    attention_norm: str = "attention.output.LayerNorm"
    expansion: str = "intermediate.dense"
    activation: str = "intermediate.intermediate_act_fn"
    contraction: str = "output.dense"
    output_dropout: str = "output.dropout"
    output_norm: str = "output.LayerNorm"


class BackboneFamily(Plain):
    """How one model type is laid out, in its files and in transformers.

    The methods take a config file's whole content.
    """

    model_type: str
    checkpoint_prefixes: tuple[str, ...]
    """What a checkpoint may put before every encoder tensor (`bert.` when it was saved with a task head)."""
    embeddings_prefix: str = "embeddings."
    embedding_projection: str | None = None
    """The module that takes the embeddings' output to the layers' width, where those widths differ."""
    layers_attribute: str = "encoder.layer"
    """Path of the layer list in the transformers model, and in a checkpoint the layers' prefix."""
    layer_parts: LayerParts = LayerParts()
    function_defaults: Mapping[str, Any]
    """The config fields that change the function, with transformers' values for a file that leaves them out.

    Dropout, dtype, paths and library versions do not change it.
    """
    other_names: Mapping[str, str] = {}
    """Names that transformers takes for a field too, in a config file, with the field's own."""
    built_with: Mapping[str, Any] = {"chunk_size_feed_forward": 0}
    """Fields that a model is built with whatever the file says. Chunks would refuse lengths that are no multiple."""
    layer_count_field: str = "num_hidden_layers"
    hidden_size_field: str = "hidden_size"
    intermediate_size_field: str = "intermediate_size"
    position_field: str = "max_position_embeddings"
    positions_follow_padding: bool = False
    """Whether positions are counted from the padding id + 1: those before are no text's."""
    type_count_field: str | None = "type_vocab_size"
    """Config field with the number of token types; None where the two texts of a pair have the same."""
    dropout_field: str = "hidden_dropout_prob"
    ignored_tensors: tuple[str, ...] = ("embeddings.position_ids", "embeddings.token_type_ids", "pooler.")
    """Prefixes of tensors that no task uses: buffers, the pooler, pretraining heads."""
    renamed_tensors: Mapping[str, str] = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
    """Endings that old checkpoints spell otherwise, such as those of the first BERT; the new spelling is hashed."""

    @property
    def layer_prefix(self) -> str:
        """Followed by the layer's number from 0 and a dot."""
        return f"{self.layers_attribute}."

    def own_names(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The config with every field under its own name."""
        return {self.other_names.get(field, field): value for field, value in config.items()}

    def setting(self, config: Mapping[str, Any], field: str) -> Any:
        """One field's value; transformers' default, or None, where the config leaves it out."""
        return self.own_names(config).get(field, self.function_defaults.get(field))

    def function_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        return {field: self.setting(config, field) for field in self.function_defaults}

    def longest_input(self, config: Mapping[str, Any]) -> int:
        """How many tokens the positions reach for."""
        positions: int = self.setting(config, self.position_field)
        return positions - self.setting(config, "pad_token_id") - 1 if self.positions_follow_padding else positions

    def type_count(self, config: Mapping[str, Any]) -> int:
        """How many token types the model tells apart."""
        return 1 if self.type_count_field is None else self.setting(config, self.type_count_field)


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
    function_defaults=_BERT_DEFAULTS,
    ignored_tensors=("embeddings.position_ids", "embeddings.token_type_ids", "pooler.", "cls."),
)

ROBERTA = BackboneFamily(
    model_type="roberta",
    checkpoint_prefixes=("roberta.", ""),
    function_defaults=_BERT_DEFAULTS | {"pad_token_id": 1, "vocab_size": 50265},
    positions_follow_padding=True,
    type_count_field=None,
)

XLM_ROBERTA = ROBERTA.model_copy(
    update={"model_type": "xlm-roberta", "function_defaults": _BERT_DEFAULTS | {"pad_token_id": 1}}
)

ELECTRA = BackboneFamily(
    model_type="electra",
    checkpoint_prefixes=("electra.", ""),
    embedding_projection="embeddings_project",
    function_defaults=_BERT_DEFAULTS
    | {"embedding_size": 128, "hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4},
)

DISTILBERT = BackboneFamily(
    model_type="distilbert",
    checkpoint_prefixes=("distilbert.", ""),
    layers_attribute="transformer.layer",
    layer_parts=LayerParts(
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        attention_dropout="attention.dropout",
        attention_output="attention.out_lin",
        attention_output_dropout=None,
        attention_norm="sa_layer_norm",
        expansion="ffn.lin1",
        activation="ffn.activation",
        contraction="ffn.lin2",
        output_dropout="ffn.dropout",
        output_norm="output_layer_norm",
    ),
    # The layer norms' epsilon is fixed.
    function_defaults={
        "activation": "gelu",
        "dim": 768,
        "hidden_dim": 3072,
        "max_position_embeddings": 512,
        "n_heads": 12,
        "pad_token_id": 0,
        "vocab_size": 30522,
    },
    other_names={"hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"},
    # Sinusoidal or learnt, the positions are weights of the file: computing them first would only take time.
    built_with={"chunk_size_feed_forward": 0, "sinusoidal_pos_embds": False},
    layer_count_field="n_layers",
    hidden_size_field="dim",
    intermediate_size_field="hidden_dim",
    type_count_field=None,
    dropout_field="dropout",
)

FAMILIES: Mapping[str, BackboneFamily] = {
    family.model_type: family for family in (BERT, ROBERTA, XLM_ROBERTA, ELECTRA, DISTILBERT)
}


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
    problems += [
        f"{other} is {config[other]!r}, but {own}, which is the same field, is {config[own]!r}"
        for other, own in family.other_names.items()
        if other in config and config.get(own, config[other]) != config[other]
    ]
    if problems:
        raise InvalidInput(subject, problems)
    return family
