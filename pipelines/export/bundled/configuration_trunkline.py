"""The configuration of a Trunkline release as a transformers model."""

from typing import Any

from transformers import PreTrainedConfig


class TrunklineConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """What the weights do not say: the encoder that the trunk is cut from, and every task's branch.

    Args:
        encoder: the encoder's own configuration, with the trunk's number of layers.
        layout: where transformers' model of the encoder keeps its `embeddings`, its `projection` of them (None where it
            has none) and its `layers`; `layer_count`, the field that counts them; `types`, whether it has token types.
        tasks: task -> `type`, `input_form`, `labels` (what each output stands for), `frozen_depth`, `task_layers`,
            `outputs`, `reading` (first, mean or words), `mixes` (whether its head mixes all hidden states), `crf`.
        longest_input: in pieces; the trunk was never asked for more.
    """

    model_type = "trunkline"

    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        layout: dict[str, Any] | None = None,
        tasks: dict[str, dict[str, Any]] | None = None,
        longest_input: int | None = None,
        **others: Any,
    ) -> None:
        self.encoder = encoder or {}
        self.layout = layout or {}
        self.tasks = tasks or {}
        self.longest_input = longest_input
        super().__init__(**others)
