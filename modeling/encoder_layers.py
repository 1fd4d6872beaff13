"""A branch's transformer layers on hidden states: one after the other, and of the last one no more than is read.

Without gradients these are transformers' own layers. With gradients the same function of the same weights is written
out here, because on a CPU most of a training step through transformers' layers goes into what is no matrix product:
SDPA with dropout takes its slowest path, and the masks of every dropout are drawn one number at a time.

B = rows, T = pieces, Q = pieces that are asked for (T, or 1), H = hidden size, N = heads, D = size of a head.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig

from modeling.backbone import attention_mask
from modeling.dropout_masks import dropout_mask
from registry.domain.families import FAMILIES

FIRST_PIECE_SHARE = 1 / 12
"""Share of a layer's matrix products that remain where of its state only the first piece is read, about.

A layer multiplies every piece by 12·H² weights, its inner width being 4·H. For the first piece of T that remains once
(`_first_piece_attention`): 1/T, and N/(6·H) for attention, whose products are otherwise left out of account. A twelfth
stands for short texts; of longer ones still less remains.
"""


def step_layer_passes(task_layers: int, first_piece_only: bool) -> float:
    """Layer passes per example of a training step: a layer's forward counts 1 and its backward 2.

    3·l; with `first_piece_only`, 3·(l - 1 + FIRST_PIECE_SHARE).
    """
    if not task_layers:
        return 0.0
    return 3.0 * (task_layers - 1 + (FIRST_PIECE_SHARE if first_piece_only else 1.0))


def layer_states(
    layers: Sequence[nn.Module],
    config: PreTrainedConfig,
    hidden: Tensor,
    batch_mask: Tensor,
    *,
    first_piece_only: bool,
) -> list[Tensor]:
    """The hidden state after each layer.

    Where gradients are recorded the products are computed in autocast's dtype if it is on, and in that of `hidden`
    otherwise; the offsets of the dropout masks come from torch's generator of the CPU.

    Args:
        hidden: [B, T, H], what the first layer reads.
        batch_mask: [B, T] bool, False on padding.
        first_piece_only: nobody reads more than the first piece of the last state, which then is [B, 1, H].

    Returns:
        One [B, T, H] a layer; the last one [B, 1, H] where only the first piece is read.
    """
    if not len(hidden) or not layers:  # a batch of no rows cannot be reshaped
        return [hidden]
    parts = [LayerParts.of(layer, config) for layer in layers]
    pieces = [hidden.shape[1]] * len(parts)
    if first_piece_only:
        pieces[-1] = 1
    device = hidden.device.type
    trained = torch.is_grad_enabled() and any(p.requires_grad for layer in layers for p in layer.parameters())
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    states = []
    if trained:
        with torch.autocast(device, enabled=False):
            hidden = hidden.to(dtype)
            bias = _key_bias(batch_mask, dtype)
            for part, count in zip(parts, pieces, strict=True):
                hidden = _layer(part, hidden, bias, count)
                states.append(hidden)
        return states
    mask = attention_mask(config, hidden, batch_mask)
    for layer, part, count in zip(layers, parts, pieces, strict=True):
        if count == hidden.shape[1]:
            hidden = layer(hidden, mask)
        else:
            with torch.autocast(device, enabled=False):
                hidden = _layer(part, hidden.to(dtype), _key_bias(batch_mask, dtype), count)
        states.append(hidden)
    return states


@dataclass(frozen=True)
class LayerParts:
    """The parts of one of transformers' layers that hold weights or numbers."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    attention_output: nn.Linear
    attention_norm: nn.LayerNorm
    expansion: nn.Linear
    activation: nn.Module
    contraction: nn.Linear
    output_norm: nn.LayerNorm
    heads: int
    attention_dropout: float
    attention_output_dropout: float
    output_dropout: float
    """Dropout rates as they apply now: 0 in eval mode."""

    @classmethod
    def of(cls, layer: nn.Module, config: PreTrainedConfig) -> Self:
        names = FAMILIES[config.model_type].layer_parts

        def rate(name: str | None) -> float:
            return cast(nn.Dropout, layer.get_submodule(name)).p if name and layer.training else 0.0

        return cls(
            query=cast(nn.Linear, layer.get_submodule(names.query)),
            key=cast(nn.Linear, layer.get_submodule(names.key)),
            value=cast(nn.Linear, layer.get_submodule(names.value)),
            attention_output=cast(nn.Linear, layer.get_submodule(names.attention_output)),
            attention_norm=cast(nn.LayerNorm, layer.get_submodule(names.attention_norm)),
            expansion=cast(nn.Linear, layer.get_submodule(names.expansion)),
            activation=layer.get_submodule(names.activation),
            contraction=cast(nn.Linear, layer.get_submodule(names.contraction)),
            output_norm=cast(nn.LayerNorm, layer.get_submodule(names.output_norm)),
            heads=config.num_attention_heads,
            attention_dropout=rate(names.attention_dropout),
            attention_output_dropout=rate(names.attention_output_dropout),
            output_dropout=rate(names.output_dropout),
        )


def _key_bias(batch_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, 1, T]: what is added to a score, 0 or the least number: a row of padding alone does not become NaN."""
    return torch.zeros_like(batch_mask, dtype=dtype).masked_fill(~batch_mask, torch.finfo(dtype).min)[:, None]


def _layer(parts: LayerParts, hidden: Tensor, bias: Tensor, pieces: int) -> Tensor:
    """One layer for the first pieces [B, Q, H] of hidden [B, T, H]; Q is T or 1."""
    rows, width = len(hidden), hidden.shape[2]
    asked = hidden[:, :pieces].reshape(-1, width)
    whole = pieces == hidden.shape[1]
    context = _attention(parts, hidden, bias) if whole else _first_piece_attention(parts, hidden, asked, bias)
    attended = _linear(context, [parts.attention_output])
    attended = _add(asked, attended, parts.attention_output_dropout)
    attended = _norm(attended, parts.attention_norm)
    expanded = parts.activation(_linear(attended, [parts.expansion]))
    output = _linear(expanded, [parts.contraction])
    output = _norm(_add(attended, output, parts.output_dropout), parts.output_norm)
    return output.view(rows, pieces, width)


def _attention(parts: LayerParts, hidden: Tensor, bias: Tensor) -> Tensor:
    """Multi-head attention of all pieces to all of hidden [B, T, H], before its output product: [B·T, H]."""
    rows, length, width = hidden.shape
    projected = _linear(hidden.view(-1, width), [parts.query, parts.key, parts.value])
    parted = projected.view(rows, length, 3, parts.heads, -1).permute(2, 0, 3, 1, 4)
    query, key, value = parted.reshape(3, rows * parts.heads, length, -1).unbind(0)
    weights = _weights(query, key, bias.repeat_interleave(parts.heads, dim=0), parts)
    context = torch.bmm(weights, value)
    return context.view(rows, parts.heads, length, -1).transpose(1, 2).reshape(rows * length, -1)


def _first_piece_attention(parts: LayerParts, hidden: Tensor, asked: Tensor, bias: Tensor) -> Tensor:
    """The same of each row's first piece alone, asked [B, H] -> [B, N·D], without a key or a value of any piece.

    A score is q · (K x) = (Kᵀ q) · x, and the weights p of all pieces x give Σ p (V x) = V (Σ p x): where a row asks
    but once a head, it is cheaper to multiply the one query by Kᵀ and the one sum by V than every piece by both (as
    DeepSeek-V2 does when it decodes, arXiv 2405.04434, 2.1.2). The key's bias adds the same to all of a query's
    scores, which softmax does not see: it has no gradient. A row then takes 2·H² + 2·T·N·H multiplications for this
    instead of 2·T·H² + 2·T·H.
    """
    dtype, by_head = hidden.dtype, (parts.heads, -1, hidden.shape[2])
    key, value = parts.key.weight.to(dtype).view(by_head), parts.value.weight.to(dtype).view(by_head)
    query = _linear(asked, [parts.query]).view(len(asked), parts.heads, -1).transpose(0, 1)
    asking = torch.bmm(query, key).transpose(0, 1)
    weights = _weights(asking, hidden, bias, parts)
    seen = torch.bmm(torch.bmm(weights, hidden).transpose(0, 1), value.transpose(1, 2)).transpose(0, 1)
    # Weights of which some were dropped no longer sum to 1.
    value_bias = parts.value.bias.to(dtype).view(parts.heads, -1)
    return torch.addcmul(seen, weights.sum(-1, keepdim=True), value_bias).flatten(1)


def _weights(query: Tensor, key: Tensor, bias: Tensor, parts: LayerParts) -> Tensor:
    """Attention weights of queries [·, Q, D] over keys [·, T, D], some of them dropped: [·, Q, T]."""
    scale = (parts.query.weight.shape[0] // parts.heads) ** -0.5
    weights = torch.baddbmm(bias, query, key.transpose(1, 2), alpha=scale).softmax(-1)
    return weights * _mask(weights, parts.attention_dropout) if parts.attention_dropout else weights


def _linear(x: Tensor, parts: Sequence[nn.Linear]) -> Tensor:
    """x [M, in] through linear layers of the same input at once, with weights in the dtype of x: [M, sum of out]."""
    weight = torch.cat([part.weight.to(x.dtype) for part in parts]) if len(parts) > 1 else parts[0].weight.to(x.dtype)
    bias = torch.cat([part.bias for part in parts]).to(x.dtype) if len(parts) > 1 else parts[0].bias.to(x.dtype)
    return functional.linear(x, weight, bias)


def _norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    """In the dtype of the norm's weights: in bf16 the sums of their gradients over the pieces would be 3 % off, and on
    CUDA x and the weights may not differ."""
    whole = x.to(norm.weight.dtype)
    return functional.layer_norm(whole, norm.normalized_shape, norm.weight, norm.bias, norm.eps).to(x.dtype)


def _add(residual: Tensor, x: Tensor, rate: float) -> Tensor:
    """residual + dropout(x)."""
    return torch.addcmul(residual, x, _mask(x, rate)) if rate else residual + x


def _mask(x: Tensor, rate: float) -> Tensor:
    return dropout_mask(x.shape, rate, dtype=x.dtype, device=x.device)
