"""Dropout masks cut out of one long table of random bits.

On a CPU torch draws a mask one number at a time, which takes longer than the matrix products around it. Here the
numbers are drawn once. A mask is a window of the table that begins at a random place, or where it is longer than
`_LONGEST` several windows. The entries of one window are independent of each other. Windows, of two steps, of two
places in a model or of one long mask, begin at places drawn independently, of `_STARTS` ones. The longer they are, the
more of the table they share, shifted against each other (two of the longest, three quarters of it at least); but
which entry of one is which of the other nobody knows: any given two are the same number with a chance of 1 / `_STARTS`.
Nothing but the beginning is random, and it comes from torch's generator of the CPU: whoever seeds that decides every
mask.
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
