"""Whether two ways to compute the same model agree."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from registry.domain.task_specs import TaskType

TOLERANCE: Mapping[str, float] = {"fp32": 1e-4, "bf16": 0.1, "fp16": 0.0125}
"""The largest difference from fp32 outputs that is still the same answer, by precision, relative to outputs above 1.

fp32 outputs at equal shapes and kernels repeat exactly; another padding moves them by some 2e-6, other kernels or
another machine by up to ten times that. A wrong weight, mask or position moves them by 1e-3 and more. 1e-4 lies
between.

bf16 rounds every state to 8 bits: 36 trained modules of two backbones, 16 golden answers each, differed by up to 0.056
(median of the modules' largest differences 0.005 to 0.03, by task), and no decision changed; docs/serving_speed.md.
fp16 rounds to 11 bits, and the same modules differed by up to 0.0063.
"""


@dataclass(frozen=True, slots=True)
class ParityResult:
    """`largest_difference` is relative to outputs above 1.

    The largest float stands for an output that is no number, or that has another shape.
    """

    examples: int
    largest_difference: float
    decisions_differ: int
    passed: bool


def compare(
    reference: Sequence[Tensor],
    candidate: Sequence[Tensor],
    *,
    type: TaskType,  # noqa: A002
    tolerance: float,
) -> ParityResult:
    """Compares raw outputs, one tensor an example: [outputs], or [W, outputs] for token classification.

    A decision is the largest output of a text or a word; regression has none. One that differs counts only where the
    reference's margin over its second choice exceeds twice the tolerance, which two outputs that moved towards each
    other can use up.

    Raises:
        ValueError: there is nothing to compare, or not as many answers as references.
    """
    if not reference:
        raise ValueError("parity over no examples would prove nothing")
    differences: list[float] = []
    decisions_differ = 0
    for ours, theirs in zip(reference, candidate, strict=True):
        if ours.shape != theirs.shape:  # such as another number of words: no answer could differ more
            differences.append(sys.float_info.max)
            decisions_differ += 1
            continue
        ours, theirs = ours.to("cpu", torch.float64), theirs.to("cpu", torch.float64)
        if ours.numel() == 0:
            continue
        scale = ours.abs().max().clamp(min=1.0)
        difference = ((ours - theirs).abs().max() / scale).item()
        differences.append(difference if difference < sys.float_info.max else sys.float_info.max)
        if type is not TaskType.REGRESSION:
            decisions_differ += _differing_decisions(ours / scale, theirs / scale, 2 * tolerance)
    largest = max(differences, default=0.0)
    return ParityResult(
        examples=len(reference),
        largest_difference=largest,
        decisions_differ=decisions_differ,
        passed=largest <= tolerance and decisions_differ == 0,
    )


def _differing_decisions(ours: Tensor, theirs: Tensor, least_margin: float) -> int:
    best = ours.topk(2, dim=-1).values
    clear = best[..., 0] - best[..., 1] > least_margin
    return int((clear & (ours.argmax(dim=-1) != theirs.argmax(dim=-1))).sum())
