"""Which precision a device multiplies fastest in."""

from functools import cache, partial
from typing import Literal

import torch
from torch.nn import functional

from modeling.stopwatch import least_seconds

_ROWS, _WIDTH = 256, 768
_TIMES = 8
_WORTH = 1.25
"""bf16 rounds to 8 bits: it must bring more than what a busy machine feigns. Measured: 2 and more on an AMD EPYC with
AVX-512, 0.55 on an Intel Xeon whose AMX is hidden (docs/serving_speed.md)."""


@cache
def best_precision(device: torch.device) -> Literal["fp32", "bf16"]:
    """bf16 where the device multiplies faster in it, else fp32.

    A processor may know bf16 and still be slower in it, so on a CPU one product is timed in both, some 0.2 s, once.
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    capabilities = torch.cpu.get_capabilities()
    if not (capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")):
        return "fp32"  # it would be emulated
    return "bf16" if _times_faster(torch.bfloat16) > _WORTH else "fp32"


@torch.inference_mode()
def _times_faster(dtype: torch.dtype) -> float:
    """How many times faster than in fp32 the processor multiplies."""
    operands = {
        kind: (torch.ones(_ROWS, _WIDTH, dtype=kind), torch.ones(4 * _WIDTH, _WIDTH, dtype=kind))
        for kind in (torch.float32, dtype)
    }
    least = least_seconds({kind: partial(functional.linear, *both) for kind, both in operands.items()}, _TIMES)
    return least[torch.float32] / least[dtype]
