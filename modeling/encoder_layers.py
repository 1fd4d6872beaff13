"""A branch's transformer layers on hidden states: one after the other, and of the last one no more than is read.

B = rows, T = pieces, H = hidden size.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from transformers import PreTrainedConfig

from modeling.backbone import attention_mask


def layer_states(
    layers: Sequence[nn.Module],
    config: PreTrainedConfig,
    hidden: Tensor,
    batch_mask: Tensor,
    *,
    first_piece_only: bool,  # noqa: ARG001 - may be used to save work; callers must take both shapes
) -> list[Tensor]:
    """The hidden state after each layer.

    Args:
        hidden: [B, T, H], what the first layer reads.
        batch_mask: [B, T] bool, False on padding.
        first_piece_only: nobody reads more than the first piece of the last state, which may then be [B, 1, H].

    Returns:
        One [B, T, H] a layer.
    """
    mask = attention_mask(config, hidden, batch_mask)
    states = []
    for layer in layers if len(hidden) else ():  # transformers' layers cannot reshape a batch of no rows
        hidden = layer(hidden, mask)
        states.append(hidden)
    return states or [hidden]
