"""Transformer layers for answering only: packed rows, prepared weights, no gradient.

The function is that of transformers' layers. What differs is the form: query, key and value are one product, the scale
of the scores is in the query's weights, and every product is computed as it is fastest here (`modeling/products.py`).

P = pieces on a line, R = rows, B = blocks of a group, W = their width, L = queries a block and head.
H = hidden size, N = heads, D = size of a head.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig

from modeling.encoder_layers import FIRST_PIECE_SHARE, LayerParts
from modeling.packing import SCORES_A_GROUP, AttendedGroup, Packed
from modeling.products import PreparedLinear, best_linear, multiplies_by_amx
from modeling.stopwatch import fastest, least_seconds_of_a_lane


class InferenceLayer:
    """One of transformers' layers, its weights copied into the form above: hidden [P, H] -> [P, H]."""

    share: ClassVar = 1.0
    """Of a whole layer's time, about, for rows of some dozen pieces."""

    def __init__(self, layer: nn.Module, config: PreTrainedConfig, *, dtype: torch.dtype, device: torch.device) -> None:
        parts = LayerParts.of(layer, config)
        self._heads = parts.heads
        self._dtype, self._device = dtype, device
        self._attended = best_attention(dtype, device)
        self._prepare_attention(parts, (parts.query.weight.shape[0] // parts.heads) ** -0.5)
        self._attention_output = self._prepared(parts.attention_output.weight, parts.attention_output.bias)
        self._attention_norm = _Norm(parts.attention_norm, dtype, device)
        self._expansion = self._prepared(parts.expansion.weight, parts.expansion.bias, parts.activation)
        self._contraction = self._prepared(parts.contraction.weight, parts.contraction.bias)
        self._output_norm = _Norm(parts.output_norm, dtype, device)

    def __call__(self, hidden: Tensor, packed: Packed) -> Tensor:
        projected = self._query_key_value(hidden)
        context = []
        for group in packed.groups:
            query, key, value = _by_head(group.taken_from(projected), 3, group.blocks, self._heads)
            context.append(self._attended(query, key, value, group.bias))
        return self._after_attention(hidden, _in_order(_joined(context), packed.context_order))

    def _prepare_attention(self, parts: LayerParts, scale: float) -> None:
        self._query_key_value = self._prepared(
            torch.cat([parts.query.weight * scale, parts.key.weight, parts.value.weight]),
            torch.cat([parts.query.bias * scale, parts.key.bias, parts.value.bias]),
        )

    def _prepared(self, weight: Tensor, bias: Tensor, activation: nn.Module | None = None) -> PreparedLinear:
        linear = best_linear(self._dtype, self._device)
        return linear(weight, bias, dtype=self._dtype, device=self._device, activation=activation)

    def _after_attention(self, hidden: Tensor, context: Tensor) -> Tensor:
        attended = self._attention_norm(self._attention_output(context, hidden))
        return self._output_norm(self._contraction(self._expansion(attended), attended))


class FirstPieceLayer(InferenceLayer):
    """A branch's last layer where only each row's first piece is read: hidden [P, H] -> [R, H], in the rows' order.

    Keys and values are all that the other pieces are still needed for: 2 of a layer's 12·H² products a piece.
    """

    share = 1 / 6

    def __call__(self, hidden: Tensor, packed: Packed) -> Tensor:
        firsts = hidden.index_select(0, packed.first_pieces)
        return self._after_attention(firsts, self._seen_by(firsts, hidden, packed)).index_select(0, packed.first_order)

    def _seen_by(self, firsts: Tensor, hidden: Tensor, packed: Packed) -> Tensor:
        """The context [R, N·D] of the first pieces [R, H] among all pieces, both in the order of the row groups."""
        queries, projected = self._query(firsts), self._key_value(hidden)
        context = []
        for group, asking in _apart(queries, packed.row_groups):
            key, value = _by_head(group.taken_from(projected), 2, group.blocks, self._heads)
            (query,) = _by_head(asking, 1, group.blocks, self._heads)
            context.append(self._attended(query, key, value, group.bias))
        return _joined(context)

    def _prepare_attention(self, parts: LayerParts, scale: float) -> None:
        self._query = self._prepared(parts.query.weight * scale, parts.query.bias * scale)
        self._key_value = self._prepared(
            torch.cat([parts.key.weight, parts.value.weight]), torch.cat([parts.key.bias, parts.value.bias])
        )


class FirstPieceLayerOnStates(FirstPieceLayer):
    """The same without a key or a value of any piece, as `encoder_layers` trains it: each query is multiplied by the
    key's weights, and what it saw by the value's. The key's bias moves all scores of a query alike, and is left out.

    Its attention, N queries of width H a row over the same states (L = N), is by products: the fused kernel was not
    tried.
    """

    share = FIRST_PIECE_SHARE

    def _seen_by(self, firsts: Tensor, hidden: Tensor, packed: Packed) -> Tensor:
        heads, width = self._heads, hidden.shape[1]
        queries = self._query(firsts).view(len(firsts), heads, -1).transpose(0, 1)
        seen = []
        for group, asking in _apart(torch.bmm(queries, self._key).transpose(0, 1), packed.row_groups):
            states = group.taken_from(hidden).view(group.blocks, 1, -1, width)
            seen.append(attention_by_products(asking[:, None], states, states, group.bias))
        of_heads = _joined(seen).view(-1, heads, width).transpose(0, 1)
        return torch.baddbmm(self._value_bias, of_heads, self._value).transpose(0, 1).reshape(len(firsts), -1)

    def _prepare_attention(self, parts: LayerParts, scale: float) -> None:
        self._query = self._prepared(parts.query.weight * scale, parts.query.bias * scale)

        def of_heads(tensor: Tensor) -> Tensor:
            return tensor.detach().to(self._device, self._dtype, copy=True).view(self._heads, -1, *tensor.shape[1:])

        self._key = of_heads(parts.key.weight)
        self._value = of_heads(parts.value.weight).transpose(1, 2).contiguous()
        self._value_bias = of_heads(parts.value.bias)[:, None]


def first_piece_layer(dtype: torch.dtype, device: torch.device) -> type[FirstPieceLayer]:
    """On a CPU without keys and values, but in bf16 with AMX: there products are so fast that the smaller calls take
    longer for few texts (1.1 to 1.4 times) and gain little for many (docs/serving_speed.md). Nobody has measured a GPU.
    """
    return FirstPieceLayer if device.type != "cpu" or multiplies_by_amx(dtype, device) else FirstPieceLayerOnStates


class _Norm:
    def __init__(self, norm: nn.LayerNorm, dtype: torch.dtype, device: torch.device) -> None:
        self._shape, self._epsilon = norm.normalized_shape, norm.eps
        self._weight, self._bias = (tensor.detach().to(device, dtype) for tensor in (norm.weight, norm.bias))

    def __call__(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, self._shape, self._weight, self._bias, self._epsilon)


def _by_head(projected: Tensor, count: int, blocks: int, heads: int) -> Sequence[Tensor]:
    """[B · W, count·N·D] -> count views of it, [B, N, W, D]."""
    apart = projected.view(blocks, -1, count, heads, projected.shape[1] // (count * heads))
    return apart.permute(2, 0, 3, 1, 4).unbind(0)


Attention = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""The context [B · L, N·D] of queries [B, N, L, D] among keys and values [B, N, W, D]; the last one is the bias,
[B, 1, L, W] fp32, added to the scores. The scale is in the queries."""


def attention_by_products(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """Attention as two batched products, whose scores are as wide as a block."""
    blocks, heads, asked, size = query.shape
    query, key, value = (one.reshape(blocks * heads, -1, size) for one in (query, key, value))
    # In fp32 also where the products are bf16: torch's bf16 softmax takes up to four times as long on a CPU.
    scores = torch.bmm(query, key.transpose(1, 2)).float()
    if bias is not None:
        scores.view(blocks, heads, *scores.shape[1:]).add_(bias)
    context = torch.bmm(scores.softmax(-1).to(value.dtype), value).view(blocks, heads, asked, size)
    return context.transpose(1, 2).reshape(blocks * asked, heads * size)


def fused_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """The same by torch's kernel, which keeps no scores and reads queries, keys and values where they lie."""
    context = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=1.0)
    return context.transpose(1, 2).reshape(-1, query.shape[1] * query.shape[3])


_BLOCKS, _PIECES, _HEADS, _WIDTH = 32, 32, 12, 768
_TIMES = 8
_WORTH = 1.1
"""What the fused kernel must bring."""


@cache
def best_attention(dtype: torch.dtype, device: torch.device) -> Attention:
    """What is faster on a CPU, timed once, some 50 ms; products elsewhere, where nobody has measured.

    torch's fused kernel took 0.45 to 0.77 of the products' time in fp32 on an Intel Xeon (docs/serving_speed.md).
    """
    if device.type != "cpu":
        return attention_by_products
    return fastest(_seconds(dtype), usual=attention_by_products, worth=_WORTH)


_SCORES_A_FUSED_GROUP = 1500
"""`SCORES_A_GROUP` of the fused kernel, which takes longer for a score and less for a call: of 300 to 7,400 what was
near the best for mixed texts, 384 and 768 wide, 256 to 1,024 pieces, one thread, AVX2 (docs/serving_speed.md)."""


def scores_a_group(dtype: torch.dtype, device: torch.device) -> int:
    """What `Packed` is to take a further group of blocks for, where attention is the fastest here."""
    return _SCORES_A_FUSED_GROUP if best_attention(dtype, device) is fused_attention else SCORES_A_GROUP


def _seconds(dtype: torch.dtype) -> dict[Attention, float]:
    """Of a thousand pieces in blocks of some dozen, as those of mixed texts are."""
    query, key, value = _by_head(torch.ones(_BLOCKS * _PIECES, 3 * _WIDTH, dtype=dtype), 3, _BLOCKS, _HEADS)
    bias = torch.zeros(_BLOCKS, 1, _PIECES, _PIECES)
    ways: tuple[Attention, ...] = (attention_by_products, fused_attention)
    return least_seconds_of_a_lane({way: partial(way, query, key, value, bias) for way in ways}, _TIMES)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _apart(firsts: Tensor, groups: Sequence[AttendedGroup]) -> Iterable[tuple[AttendedGroup, Tensor]]:
    """Each group with what is its own of the first pieces of all, [R, …]."""
    return zip(groups, torch.split(firsts, [group.blocks for group in groups]), strict=True)


def _in_order(context: Tensor, order: Tensor | None) -> Tensor:
    return context if order is None else context.index_select(0, order)
