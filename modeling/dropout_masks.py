"""Dropout masks cut out of one long table of random bits.

On a CPU torch draws a mask one number at a time, which takes longer than the matrix products around it. Here the
numbers are drawn once. A mask is a window of the table that begins at a random place: its entries are independent of
each other, and two masks, of two steps or of two places in a model, are windows that begin at places drawn
independently, of `_STARTS` ones. Nothing but the beginning is random, and it comes from torch's generator of the CPU:
whoever seeds that decides every mask.
"""

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

_LONGEST = 1 << 22
"""Entries of the longest window; a larger mask is made of several, each with a beginning of its own."""
_STARTS = 1 << 20


@functools.cache
@torch.inference_mode(False)
def _table(rate: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """0 with the probability `rate`, 1 / (1 - rate) otherwise; the same in every process."""
    generator = torch.Generator().manual_seed(1)
    kept = torch.rand(_STARTS + _LONGEST, generator=generator) >= rate
    return (kept / (1.0 - rate)).to(device, dtype)


def dropout_mask(shape: Sequence[int], rate: float, *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What to multiply with to drop at this rate: 0, or 1 / (1 - rate) rounded to the dtype. Not to be written to."""
    table = _table(rate, dtype, device)
    size = math.prod(shape)
    starts: list[int] = torch.randint(_STARTS, (max(1, -(-size // _LONGEST)),)).tolist()
    if len(starts) == 1:
        return table[starts[0] : starts[0] + size].view(shape)
    return torch.cat([table[start : start + _LONGEST] for start in starts])[:size].view(shape)
