"""Transformer layers for answering only: packed rows, prepared weights, no gradient.

The function is that of transformers' layers. What differs is the form: query, key and value are one product, the scale
of the scores is in the query's weights, and on a CPU the weights lie as oneDNN wants them where that is faster, with
activation and residual as part of the product. It is worth a factor of two in fp32 on one of the processors that
docs/serving_speed.md measures, and costs a fifth on another.

P = pieces on a line, R = rows, H = hidden size, N = heads, D = size of a head.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig
from transformers.activations import GELUActivation

from modeling.encoder_layers import LayerParts
from modeling.packing import Packed
from modeling.stopwatch import least_seconds

_REORDERED_FOR_ROWS = 256
"""Rows of a product that oneDNN is to choose a weight's layout for; others work as well, within a few percent."""


_TIMES = 8
_WORTH = 1.05
"""What torch's own product must bring, lest a busy machine decides. Measured in docs/serving_speed.md: 0.5 on an AMD
EPYC with AVX-512, 1.2 on one without."""


def can_reorder(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether oneDNN multiplies by weights of this dtype here."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    supported = {
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported,
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported,
    }
    return dtype not in supported or bool(supported[dtype]())


@cache
def _reorders(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether weights of this dtype are to lie as oneDNN wants them here.

    In fp32 torch multiplies by another library, so one product is timed in both, some 0.2 s, once.
    """
    if not can_reorder(dtype, device):
        return False
    return dtype is not torch.float32 or _times_faster_as_it_is() < _WORTH


@torch.inference_mode()
def _times_faster_as_it_is() -> float:
    """How many times faster than with oneDNN's layout a layer's widest product and its GELU are in fp32."""
    weight, bias, x = torch.ones(3072, 768), torch.ones(3072), torch.ones(_REORDERED_FOR_ROWS, 768)
    products = {
        reordered: PreparedLinear(
            weight, bias, dtype=torch.float32, device=x.device, activation=GELUActivation(), reordered=reordered
        )
        for reordered in (False, True)
    }
    least = least_seconds({reordered: partial(product, x) for reordered, product in products.items()}, _TIMES)
    return least[True] / least[False]


class PreparedLinear:
    """x [M, in] -> activation(x · weightᵀ + bias) + residual, [M, out], in one dtype.

    Args:
        weight: [out, in] fp32.
        bias: [out] fp32.
        activation: after the product; transformers' module.
        reordered: the weights lie as oneDNN wants them; None: where that is faster.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        *,
        dtype: torch.dtype,
        device: torch.device,
        activation: nn.Module | None = None,
        reordered: bool | None = None,
    ) -> None:
        self._bias = bias.detach().to(device, dtype)
        self._weight = weight.detach().to(device, dtype).contiguous()
        self._activation = activation
        self._reordered = _reorders(dtype, device) if reordered is None else reordered
        self._exact_gelu = isinstance(activation, GELUActivation)
        if self._reordered:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(self._weight, _REORDERED_FOR_ROWS)

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if residual is None or self._activation is not None:
            product = self._activated(x)
            return product if residual is None else product + residual
        if self._reordered:
            fused: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, residual, self._weight, self._bias, "add")
            return fused
        return (residual + self._bias).addmm_(x, self._weight.t())

    def _activated(self, x: Tensor) -> Tensor:
        if self._reordered:
            fused = "gelu" if self._exact_gelu else "none"
            product = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, fused, [], "none")
            if self._exact_gelu:
                return cast(Tensor, product)
        else:
            product = functional.linear(x, self._weight, self._bias)
            if self._exact_gelu:
                return cast(Tensor, torch.ops.aten.gelu_(product))  # nobody else has it: a pass less through memory
        return cast(Tensor, product if self._activation is None else self._activation(product))


class InferenceLayer:
    """One of transformers' layers, its weights copied into the form above: hidden [P, H] -> [P, H]."""

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
            own = projected[group.start : group.start + group.blocks * group.width]
            query, key, value = _by_head(own, 3, group.blocks, self._heads)
            context.append(self._attended(query, key, value, group.bias))
        return self._after_attention(hidden, _joined(context))

    def _prepare_attention(self, parts: LayerParts, scale: float) -> None:
        self._query_key_value = self._prepared(
            torch.cat([parts.query.weight * scale, parts.key.weight, parts.value.weight]),
            torch.cat([parts.query.bias * scale, parts.key.bias, parts.value.bias]),
        )

    def _prepared(self, weight: Tensor, bias: Tensor, activation: nn.Module | None = None) -> PreparedLinear:
        return PreparedLinear(weight, bias, dtype=self._dtype, device=self._device, activation=activation)

    def _after_attention(self, hidden: Tensor, context: Tensor) -> Tensor:
        attended = self._attention_norm(self._attention_output(context, hidden))
        return self._output_norm(self._contraction(self._expansion(attended), attended))


class FirstPieceLayer(InferenceLayer):
    """A branch's last layer where only each row's first piece is read: hidden [P, H] -> [R, H], in the rows' order.

    Keys and values are all that the other pieces are still needed for: 2 of a layer's 12·H² products a piece.
    """

    def __call__(self, hidden: Tensor, packed: Packed) -> Tensor:
        firsts = hidden.index_select(0, _joined([group.first_pieces for group in packed.groups]))
        queries, projected = self._query(firsts), self._key_value(hidden)
        context, asked = [], 0
        for group in packed.groups:
            asking = queries[asked : asked + len(group.first_pieces)]
            asked += len(asking)
            own = projected[group.start : group.start + group.blocks * group.width]
            key, value = _by_head(own, 2, group.blocks, self._heads)
            (query,) = _by_head(asking, 1, group.blocks, self._heads)
            context.append(self._attended(query, key, value, group.first_bias))
        order = packed.first_order
        return self._after_attention(firsts.index_select(0, order), _joined(context).index_select(0, order))

    def _prepare_attention(self, parts: LayerParts, scale: float) -> None:
        self._query = self._prepared(parts.query.weight * scale, parts.query.bias * scale)
        self._key_value = self._prepared(
            torch.cat([parts.key.weight, parts.value.weight]), torch.cat([parts.key.bias, parts.value.bias])
        )


class _Norm:
    def __init__(self, norm: nn.LayerNorm, dtype: torch.dtype, device: torch.device) -> None:
        self._shape, self._epsilon = norm.normalized_shape, norm.eps
        self._weight, self._bias = (tensor.detach().to(device, dtype) for tensor in (norm.weight, norm.bias))

    def __call__(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, self._shape, self._weight, self._bias, self._epsilon)


def _by_head(projected: Tensor, count: int, blocks: int, heads: int) -> Sequence[Tensor]:
    """[blocks · M, count·N·D] -> count views of it, [blocks, N, M, D]."""
    apart = projected.view(blocks, -1, count, heads, projected.shape[1] // (count * heads))
    return apart.permute(2, 0, 3, 1, 4).unbind(0)


Attention = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""The context [blocks · M, N·D] of queries [blocks, N, M, D] among keys and values [blocks, N, width, D]; the last one
is the bias, [blocks, 1, M, width] fp32, added to the scores. The scale is in the queries."""


def best_attention(dtype: torch.dtype, device: torch.device) -> Attention:
    """torch's fused kernel where it is faster: in bf16 on a processor with AMX (docs/serving_speed.md)."""
    amx = device.type == "cpu" and torch.cpu.get_capabilities().get("amx_bf16", False)
    return fused_attention if dtype is torch.bfloat16 and amx else attention_by_products


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


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
