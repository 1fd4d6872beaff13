"""A linear layer for answering only, in the way that multiplies fastest on the processor at hand.

Which way that is differs from one processor to the next by more than any other choice (docs/serving_speed.md): in fp32
oneDNN's own layout of weights is worth a factor of two over torch's product on an AMD EPYC with AVX-512, and on one
without it numpy's product is the fastest of three. So a process times them once.

M = rows of a product.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, cast

import numpy as np
import torch
from threadpoolctl import OpenBLASController, threadpool_limits
from torch import Tensor, nn
from transformers.activations import GELUActivation

from modeling.stopwatch import fastest, least_seconds_of_a_lane

_REORDERED_FOR_ROWS = 256
"""Rows of a product that oneDNN is to choose a weight's layout for; others work as well, within a few percent."""

_ROWS, _WIDTH = 256, 768
_TIMES = 8
_WORTH = 1.05
"""What a way must bring over oneDNN's layout."""


class PreparedLinear(ABC):
    """x [M, in] -> activation(x · weightᵀ + bias) + residual, [M, out], in one dtype.

    Args:
        weight: [out, in] fp32.
        bias: [out] fp32.
        activation: after the product; transformers' module.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        *,
        dtype: torch.dtype,
        device: torch.device,
        activation: nn.Module | None = None,
    ) -> None:
        self._weight = self._laid_out(weight.detach().to(device, dtype))
        self._bias = bias.detach().to(device, dtype)
        self._activation = activation
        self._exact_gelu = isinstance(activation, GELUActivation)

    @staticmethod
    def works(dtype: torch.dtype, device: torch.device) -> bool:  # noqa: ARG004 - others look
        """Whether products are computed in this way here."""
        return True

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if self._activation is not None:
            activated = self._activated(x)
            return activated if residual is None else activated + residual
        return self._product(x) if residual is None else self._product_onto(x, residual)

    def _laid_out(self, weight: Tensor) -> Tensor:
        return weight.t().contiguous()

    @abstractmethod
    def _product(self, x: Tensor) -> Tensor:
        """x · weightᵀ + bias, in memory that nobody else has."""

    def _activated(self, x: Tensor) -> Tensor:
        product = self._product(x)
        if self._exact_gelu:
            return cast(Tensor, torch.ops.aten.gelu_(product))  # in place: a pass less through memory
        return cast(Tensor, cast(nn.Module, self._activation)(product))

    def _product_onto(self, x: Tensor, residual: Tensor) -> Tensor:
        return self._product(x).add_(residual)


class ReorderedLinear(PreparedLinear):
    """By oneDNN, weights in the layout that it wants, GELU and residual as part of the product."""

    @staticmethod
    def works(dtype: torch.dtype, device: torch.device) -> bool:
        if device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            return False
        supported = {
            torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported,
            torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported,
        }
        return dtype not in supported or bool(supported[dtype]())

    def _laid_out(self, weight: Tensor) -> Tensor:
        return cast(Tensor, torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _REORDERED_FOR_ROWS))

    def _product(self, x: Tensor) -> Tensor:
        return self._pointwise(x, "none")

    def _activated(self, x: Tensor) -> Tensor:
        return self._pointwise(x, "gelu") if self._exact_gelu else super()._activated(x)

    def _product_onto(self, x: Tensor, residual: Tensor) -> Tensor:
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise.binary(x, residual, self._weight, self._bias, "add"))

    def _pointwise(self, x: Tensor, what: str) -> Tensor:
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, what, [], "none"))


class TorchLinear(PreparedLinear):
    """As torch multiplies: on a CPU in fp32 by MKL."""

    def _product(self, x: Tensor) -> Tensor:
        return torch.addmm(self._bias, x, self._weight)

    def _product_onto(self, x: Tensor, residual: Tensor) -> Tensor:
        return (residual + self._bias).addmm_(x, self._weight)


class NumpyLinear(PreparedLinear):
    """As numpy multiplies: by OpenBLAS, where numpy is PyPI's."""

    @staticmethod
    def works(dtype: torch.dtype, device: torch.device) -> bool:
        return dtype is torch.float32 and device.type == "cpu"

    def _product(self, x: Tensor) -> Tensor:
        product = x.new_empty(x.shape[0], self._weight.shape[1])
        np.matmul(x.numpy(), self._weight.numpy(), out=product.numpy())
        return product.add_(self._bias)


WAYS: tuple[type[PreparedLinear], ...] = (ReorderedLinear, TorchLinear, NumpyLinear)


@cache
def best_linear(dtype: torch.dtype, device: torch.device) -> type[PreparedLinear]:
    """oneDNN's layout where there is one, else torch; in fp32 on a CPU what is fastest, timed once, some 0.6 s."""
    working = [way for way in WAYS if way.works(dtype, device)]
    if dtype is not torch.float32 or device.type != "cpu":
        return working[0]
    return fastest(_seconds(working), usual=working[0], worth=_WORTH)


def _seconds(ways: Sequence[type[PreparedLinear]]) -> dict[type[PreparedLinear], float]:
    """Of a layer's widest product and its GELU in fp32, one thread, as a lane computes it."""
    weight, bias, x = torch.ones(4 * _WIDTH, _WIDTH), torch.ones(4 * _WIDTH), torch.ones(_ROWS, _WIDTH)
    how: dict[str, Any] = {"dtype": x.dtype, "device": x.device, "activation": GELUActivation()}
    calls: dict[type[PreparedLinear], Callable[[], object]] = {
        way: partial(way(weight, bias, **how), x) for way in ways
    }
    return least_seconds_of_a_lane(calls, _TIMES)


def multiplies_by_amx(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether products are so fast that what surrounds them weighs more."""
    return dtype is torch.bfloat16 and device.type == "cpu" and torch.cpu.get_capabilities().get("amx_bf16", False)


def use_threads(count: int) -> None:
    """So many threads for each product: of torch's those that the calling thread asks for, of numpy's all."""
    torch.set_num_threads(count)
    threadpool_limits(count, user_api="blas")
    OpenBLASController.clear_controlling_thread()  # or no other thread's wish would count while this one lives
