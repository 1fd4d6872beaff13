"""Writing an SVG file: shapes and text at given places, nothing from outside the file, the same bytes every time."""

import xml.etree.ElementTree as ElementTree
from typing import Literal

Anchor = Literal["start", "middle", "end"]

_FONTS = "system-ui, 'Segoe UI', Helvetica, Arial, 'DejaVu Sans', sans-serif"


class Svg:
    """A picture `width` wide that is as high as it turns out to be. Lengths are in its own units, from the top left."""

    def __init__(self, *, width: float, title: str, description: str, background: str, ink: str) -> None:
        self._width = width
        self._ink = ink
        self._root = ElementTree.Element(
            "svg",
            {
                "xmlns": "http://www.w3.org/2000/svg",
                "role": "img",
                "aria-labelledby": "title description",
                "font-family": _FONTS,
            },
        )
        self._add("title", {"id": "title"}, title)
        self._add("desc", {"id": "description"}, description)
        self._paper = self._add("rect", {"x": "0", "y": "0", "fill": background})

    def text(
        self, x: float, y: float, text: str, *, size: float, anchor: Anchor = "start", bold: bool = False, ink: str = ""
    ) -> None:
        """`y` is the base line's."""
        style = {"x": _length(x), "y": _length(y), "font-size": _length(size), "fill": ink or self._ink}
        if anchor != "start":
            style["text-anchor"] = anchor
        if bold:
            style["font-weight"] = "bold"
        self._add("text", style, text)

    def line(self, x1: float, y1: float, x2: float, y2: float, *, ink: str, thick: float = 1.0) -> None:
        ends = {"x1": _length(x1), "y1": _length(y1), "x2": _length(x2), "y2": _length(y2)}
        self._add("line", {**ends, "stroke": ink, "stroke-width": _length(thick)})

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        *,
        fill: str,
        edge: str | None = None,
        round_by: float = 0,
    ) -> None:
        place = {"x": _length(x), "y": _length(y), "width": _length(width), "height": _length(height), "fill": fill}
        if edge is not None:
            place["stroke"] = edge
        if round_by:
            place["rx"] = _length(round_by)
        self._add("rect", place)

    def dot(self, x: float, y: float, radius: float, *, fill: str, edge: str | None = None) -> None:
        place = {"cx": _length(x), "cy": _length(y), "r": _length(radius), "fill": fill}
        if edge is not None:
            place["stroke"] = edge
        self._add("circle", place)

    def diamond(self, x: float, y: float, radius: float, *, fill: str) -> None:
        corners = ((x - radius, y), (x, y - radius), (x + radius, y), (x, y + radius))
        self._add("polygon", {"points": " ".join(f"{_length(a)},{_length(b)}" for a, b in corners), "fill": fill})

    def document(self, height: float) -> str:
        """The file's text."""
        size = {"width": _length(self._width), "height": _length(height)}
        for name, value in size.items():
            self._root.set(name, value)
            self._paper.set(name, value)
        self._root.set("viewBox", f"0 0 {size['width']} {size['height']}")
        ElementTree.indent(self._root, space=" ")
        return ElementTree.tostring(self._root, encoding="unicode") + "\n"

    def _add(self, tag: str, attributes: dict[str, str], text: str | None = None) -> ElementTree.Element:
        element = ElementTree.SubElement(self._root, tag, attributes)
        element.text = text
        return element


def _length(value: float) -> str:
    """To a hundredth."""
    return f"{round(value, 2):z.12g}"
