"""The frontier of plans as one SVG file: the best average by layer count, and where today's release stands."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from cli.charts import Scale, scale_of, ticks
from cli.svg import Svg

if TYPE_CHECKING:
    from pipelines.planning import Plan

_WIDTH, _HEIGHT, _MARGIN = 960.0, 560.0, 32.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 96.0, 928.0, 116.0, 496.0
_PAPER, _INK, _FAINT_INK, _GRID = "#ffffff", "#1b1f24", "#57606a", "#d9dee4"
_BLUE, _ORANGE = "#0b5cad", "#b35900"


def frontier_svg(plans: "Sequence[Plan]", release: "tuple[str, Plan] | None") -> str:
    """The file's text; the same for the same plans."""
    shown = [*plans, *([release[1]] if release else [])]
    across = scale_of([one.layer_count for one in shown], least=1)
    up = scale_of([one.average for one in shown], least=0.1)
    first, last = plans[0], plans[-1]
    facts = f"{first.layer_count} layers reach {first.average:.2f}, {last.layer_count} layers {last.average:.2f}"
    if release is not None:
        facts += f"; today's {release[0]} has {release[1].layer_count} layers and {release[1].average:.2f}"
    svg = Svg(width=_WIDTH, title="The best average by layer count", description=facts, background=_PAPER, ink=_INK)
    svg.text(_MARGIN, 44, "The best average by layer count", size=22, bold=True)
    svg.text(_MARGIN, 70, facts, size=14, ink=_FAINT_INK)
    _draw_axes(svg, across, up)
    _draw_steps(svg, plans, across, up)
    if release is not None:
        _draw_release(svg, *release, across, up)
    return svg.document(_HEIGHT)


def _x(scale: Scale, value: float) -> float:
    return _LEFT + scale.place(value) * (_RIGHT - _LEFT)


def _y(scale: Scale, value: float) -> float:
    return _BOTTOM - scale.place(value) * (_BOTTOM - _TOP)


def _draw_axes(svg: Svg, across: Scale, up: Scale) -> None:
    for value in ticks(across, most=10):
        if value == round(value):
            svg.line(_x(across, value), _TOP, _x(across, value), _BOTTOM, ink=_GRID)
            svg.text(_x(across, value), _BOTTOM + 20, f"{value:g}", size=12, anchor="middle", ink=_FAINT_INK)
    for value in ticks(up):
        svg.line(_LEFT, _y(up, value), _RIGHT, _y(up, value), ink=_GRID)
        svg.text(_LEFT - 10, _y(up, value) + 4, f"{value:g}", size=12, anchor="end", ink=_FAINT_INK)
    svg.text((_LEFT + _RIGHT) / 2, _BOTTOM + 44, "layers: trunk and tasks", size=14, anchor="middle")
    svg.text(_LEFT, _TOP - 10, "average, points", size=14)


def _draw_steps(svg: Svg, plans: "Sequence[Plan]", across: Scale, up: Scale) -> None:
    """A step up at every plan: between two of them more layers bring nothing."""
    for before, one in pairwise(plans):
        left, right = _x(across, before.layer_count), _x(across, one.layer_count)
        low, high = _y(up, before.average), _y(up, one.average)
        svg.line(left, low, right, low, ink=_BLUE, thick=2)
        svg.line(right, low, right, high, ink=_BLUE, thick=2)
    for one in plans:
        svg.dot(_x(across, one.layer_count), _y(up, one.average), 4, fill=_BLUE)


def _draw_release(svg: Svg, name: str, held: "Plan", across: Scale, up: Scale) -> None:
    x, y = _x(across, held.layer_count), _y(up, held.average)
    svg.dot(x, y, 7, fill=_PAPER, edge=_ORANGE)
    svg.dot(x, y, 3, fill=_ORANGE)
    is_right = x > (_LEFT + _RIGHT) / 2
    words = f"today's {name}"
    svg.text(x + (-14 if is_right else 14), y + 20, words, size=14, anchor="end" if is_right else "start", ink=_ORANGE)
