"""A search as one SVG file: what it chose, and four panels one below the other."""

import textwrap
from collections.abc import Sequence

from cli import search_captions as captions
from cli.charts import OFF_THE_LEFT, OFF_THE_RIGHT, Scale, scale_of, ticks
from cli.search_figures import (
    Band,
    Cost,
    InitialisationPair,
    Runs,
    Spread,
    StudentCell,
    StudentGrid,
    Teachers,
    cost_of,
    initialisation_pairs,
    student_grids,
    teachers_of,
)
from cli.svg import Svg
from registry.domain.searches import Search

_WIDTH, _MARGIN = 960.0, 32.0
_RIGHT = _WIDTH - _MARGIN
_PAPER, _INK, _FAINT_INK, _GRID = "#ffffff", "#1b1f24", "#57606a", "#d9dee4"
_BLUE, _PALE_BLUE, _BAND, _CHOSEN = "#0b5cad", "#a9cbee", "#ffe8a3", "#eef4fb"
# From near white to a dark blue; the text on the last is white. Lightness alone tells them apart, so it survives print.
_SHADES = ("#f4f8fc", "#d3e4f5", "#a6caec", "#6aa3da", "#0b5cad")
_BODY, _SMALL, _HEADING, _TITLE = 14.0, 12.0, 17.0, 22.0

_PLOT_LEFT, _PLOT_RIGHT = 220.0, 640.0
_COLUMN_ENDS = (706.0, 766.0, 832.0, 900.0)
"""Right ends of the numbers, four at most, beside a chart."""
_ROW, _CELL_LINE = 26.0, 16.0


def search_svg(search: Search) -> str:
    """The file's text; the same for the same search."""
    facts = captions.told(search)
    svg = Svg(
        width=_WIDTH,
        title=captions.title(search),
        description=". ".join(f"{name}: {value}" for name, value in facts),
        background=_PAPER,
        ink=_INK,
    )
    page = _Page(svg)
    page.words(captions.title(search), size=_TITLE, bold=True)
    page.y += 4
    for name, value in facts[1:]:
        page.words(f"{name}: {value}", ink=_FAINT_INK)
    metric = captions.metric(search)

    page.heading(f"Teachers: {metric} by L")
    _draw_teachers(page, teachers_of(search))

    page.heading(f"Students over (k', l): {metric}")
    grids = student_grids(search)
    for grid in grids:
        _draw_grid(page, grid)
    if grids:
        _draw_shades(page)
    else:
        page.words(captions.no_students(search))

    if len({grid.initialisation for grid in grids}) > 1:
        page.heading(f"Initialisations: {metric}")
        _draw_pairs(page, initialisation_pairs(search))

    page.heading("Cost: layer passes per training example (a forward 1, a backward 2)")
    _draw_cost(page, cost_of(search))
    return svg.document(page.y + _MARGIN)


class _Page:
    """Where the next line goes, from the top down."""

    def __init__(self, svg: Svg) -> None:
        self.svg = svg
        self.y = _MARGIN

    def words(self, text: str, *, size: float = _BODY, bold: bool = False, ink: str = "") -> None:
        """Wrapped, at letters as wide as those of the widest common font, on average."""
        for line in textwrap.wrap(text, int((_RIGHT - _MARGIN) / (size * (0.7 if bold else 0.62)))):
            self.y += size * 1.4
            self.svg.text(_MARGIN, self.y, line, size=size, bold=bold, ink=ink)

    def heading(self, text: str) -> None:
        self.y += 26
        self.svg.line(_MARGIN, self.y, _RIGHT, self.y, ink=_GRID)
        self.y += 8
        self.words(text, size=_HEADING, bold=True)
        self.y += 6

    def notes(self, texts: Sequence[str]) -> None:
        self.y += 4
        for text in texts:
            self.words(text, size=_SMALL, ink=_FAINT_INK)


class _Plot:
    """Rows of marks over one scale, with numbers in columns at their right."""

    def __init__(self, page: _Page, scale: Scale, *, titles: Sequence[str], height: float) -> None:
        """Draws the scale for rows that are `height` high together; the page then stands at the first row."""
        self._page, self._scale, self.svg = page, scale, page.svg
        page.y += 18
        for value in ticks(scale):
            x = self.x(value)
            self.svg.text(x, page.y, captions.times_100(value), size=_SMALL, anchor="middle", ink=_FAINT_INK)
            self.svg.line(x, page.y + 6, x, page.y + 8 + height, ink=_GRID)
        for end, title in zip(_COLUMN_ENDS, titles, strict=False):
            self.svg.text(end, page.y, title, size=_SMALL, anchor="end", ink=_FAINT_INK)
        page.y += 8

    def x(self, value: float) -> float:
        return _PLOT_LEFT + self._scale.place(value) * (_PLOT_RIGHT - _PLOT_LEFT)

    def band(self, band: Band, height: float) -> None:
        left = self.x(band.low)
        self.svg.box(left, self._page.y, max(1.0, self.x(band.high) - left), height, fill=_BAND)

    def next_row(self) -> float:
        """Takes a row; returns the height of its middle."""
        self._page.y += _ROW
        return self._page.y - _ROW / 2

    def label(self, middle: float, text: str, rate: str = "", *, bold: bool = False) -> None:
        self.svg.text(_MARGIN + 8, middle + 5, text, size=_BODY, bold=bold)
        if rate:
            self.svg.text(_PLOT_LEFT - 16, middle + 5, rate, size=_BODY, anchor="end", bold=bold)

    def columns(self, middle: float, cells: Sequence[str]) -> None:
        for end, cell in zip(_COLUMN_ENDS, cells, strict=False):
            if cell:
                self.svg.text(end, middle + 5, cell, size=_BODY, anchor="end")

    def side(self, middle: float, text: str) -> None:
        self.svg.text(_PLOT_RIGHT + 20, middle + 4, text, size=_SMALL, ink=_FAINT_INK)

    def words(self, middle: float, text: str) -> None:
        """In place of marks."""
        self.svg.text(_PLOT_LEFT, middle + 4, text, size=_SMALL, ink=_FAINT_INK)

    def stopped(self, value: float, middle: float) -> None:
        """A hollow ring, or an arrow where the value is beyond the scale."""
        x = self.x(value)
        if self._scale.holds(value):
            self.svg.dot(x, middle, 4.5, fill=_PAPER, edge=_FAINT_INK)
        else:
            arrow = OFF_THE_LEFT if value < self._scale.low else OFF_THE_RIGHT
            self.svg.text(x, middle + 5, arrow, size=_HEADING, anchor="middle", ink=_FAINT_INK)


def _draw_teachers(page: _Page, teachers: Teachers) -> None:
    if not teachers.rows:
        page.words(captions.NO_TEACHERS)
        return
    heights = [_ROW * _row_count(row.runs) for row in teachers.rows]
    plot = _Plot(
        page,
        teachers.scale,
        titles=("mean", "sd", "max", "runs"),
        height=sum(heights),
    )
    top = page.y
    for row, height in zip(teachers.rows, heights, strict=True):
        if row.chosen:
            page.svg.box(_MARGIN, top, _RIGHT - _MARGIN, height, fill=_CHOSEN, edge=_BLUE, round_by=3)
        top += height
    if teachers.best is not None:
        plot.band(teachers.best, sum(heights))
    for row in teachers.rows:
        rate = captions.rate(row.learning_rate) if teachers.learning_rates > 1 else ""
        plot.label(page.y + _ROW / 2, f"{'▶ ' if row.chosen else ''}L {row.layers}", rate, bold=row.chosen)
        _draw_runs(plot, row.runs)
    notes = ["Dots: runs; diamond: their mean; line: lowest to highest; sd: standard deviation over seeds."]
    if teachers.learning_rates > 1:
        notes[0] = f"Beside L: the learning rate. {notes[0]}"
    if any(row.chosen for row in teachers.rows):
        notes.append("▶: chosen.")
    if teachers.best is not None:
        notes.append(f"Yellow band: {captions.BAND}.")
    if any(row.runs.stopped for row in teachers.rows):
        notes.append("Rings: runs not finished, last score of the curve, at epoch n/of; ‹ ›: beyond the scale.")
    page.notes(notes)


def _row_count(runs: Runs) -> int:
    return (runs.finished is not None) + len(runs.stopped) + bool(runs.unscored)


def _draw_runs(plot: _Plot, runs: Runs) -> None:
    if (spread := runs.finished) is not None:
        middle = plot.next_row()
        if spread.deviation is not None:
            plot.svg.line(plot.x(spread.lowest), middle, plot.x(spread.highest), middle, ink=_BLUE, thick=2)
        for score in spread.scores:
            plot.svg.dot(plot.x(score), middle, 4, fill=_PALE_BLUE, edge=_BLUE)
        plot.svg.diamond(plot.x(spread.mean), middle, 7, fill=_INK)
        plot.columns(middle, captions.spread_columns(spread))
    for group in runs.stopped:
        middle = plot.next_row()
        for value in group.values:
            plot.stopped(value, middle)
        plot.side(middle, captions.stopped(group))
    if runs.unscored:
        plot.words(plot.next_row(), captions.counts(runs.unscored))


def _draw_grid(page: _Page, grid: StudentGrid) -> None:
    page.words(captions.grid_title(grid))
    left, width, gap = _MARGIN + 60, 104.0, 4.0
    fitting = int((_RIGHT - left) / (width + gap))
    for start in range(0, len(grid.depths), fitting):
        depths = grid.depths[start : start + fitting]
        page.y += 22
        page.svg.text(left - 12, page.y, "l \\ k'", size=_BODY, anchor="end", ink=_FAINT_INK)
        for number, depth in enumerate(depths):
            x = left + number * (width + gap) + width / 2
            page.svg.text(x, page.y, str(depth), size=_BODY, anchor="middle", ink=_FAINT_INK)
        page.y += 8
        for layers in grid.layers:
            cells = [grid.cells.get((depth, layers)) for depth in depths]
            height = 12 + _CELL_LINE * max((len(captions.cell_lines(cell)) for cell in cells if cell), default=0)
            page.svg.text(left - 12, page.y + height / 2 + 5, str(layers), size=_BODY, anchor="end", ink=_FAINT_INK)
            for number, cell in enumerate(cells):
                if cell is not None:
                    _draw_cell(page, cell, left + number * (width + gap), width, height)
            page.y += height + gap
    page.y += 10


def _draw_cell(page: _Page, cell: StudentCell, x: float, width: float, height: float) -> None:
    shade = None if cell.share is None else captions.shade(cell.share)
    fill = _PAPER if shade is None else _SHADES[shade]
    ink = _PAPER if shade == len(_SHADES) - 1 else _INK
    page.svg.box(x, page.y, width, height, fill=fill, edge=_GRID if cell.chosen is None else _INK, round_by=3)
    for number, line in enumerate(captions.cell_lines(cell), 1):
        bold = number == 1 and shade is not None
        y = page.y + 4 + number * _CELL_LINE - 2
        page.svg.text(x + width / 2, y, line, size=_SMALL, anchor="middle", bold=bold, ink=ink)


def _draw_shades(page: _Page) -> None:
    page.notes([captions.SHADES_NOTE])
    page.y += 8
    x = _MARGIN
    for fill, name in zip(_SHADES, captions.SHADE_NAMES, strict=True):
        page.svg.box(x, page.y, 18, 14, fill=fill, edge=_FAINT_INK)
        page.svg.text(x + 24, page.y + 12, name, size=_SMALL, ink=_FAINT_INK)
        x += 130
    page.y += 14


def _draw_pairs(page: _Page, pairs: Sequence[InitialisationPair]) -> None:
    if not pairs:
        page.words(captions.NO_PAIRS)
        return
    scale = scale_of([score for pair in pairs for spread in (pair.teacher, pair.backbone) for score in spread.scores])
    plot = _Plot(page, scale, titles=("median", "max", "runs"), height=2 * _ROW * len(pairs))
    for pair in pairs:
        for label, spread, fill in zip(
            captions.pair_labels(pair), (pair.teacher, pair.backbone), (_PALE_BLUE, _PAPER), strict=True
        ):
            middle = plot.next_row()
            plot.label(middle, label)
            _draw_box(plot, spread, middle, fill)
            plot.columns(middle, captions.box_columns(spread))
    page.notes(["Box: quartiles and median; line: lowest to highest; a dot is a run.", captions.pairs_note(pairs)])


def _draw_box(plot: _Plot, spread: Spread, middle: float, fill: str) -> None:
    if spread.count > 1:
        first, median, third = (plot.x(value) for value in spread.quartiles)
        plot.svg.line(plot.x(spread.lowest), middle, plot.x(spread.highest), middle, ink=_INK)
        plot.svg.box(first, middle - 8, third - first, 16, fill=fill, edge=_INK)
        plot.svg.line(median, middle - 8, median, middle + 8, ink=_INK, thick=3)
    for score in spread.scores:
        plot.svg.dot(plot.x(score), middle, 2.5, fill=_BLUE)


def _draw_cost(page: _Page, cost: Cost) -> None:
    bars = captions.cost_bars(cost)
    most = max(amount for _, amount, _ in bars)
    left, longest = _MARGIN + 100, 480.0
    for name, amount, caption in bars:
        length = longest * amount / most if most else 0.0
        page.svg.text(_MARGIN + 8, page.y + 18, name, size=_BODY)
        page.svg.box(left, page.y + 4, max(1.0, length), 18, fill=_PALE_BLUE if name == "exhaustive" else _BLUE)
        page.svg.text(left + max(1.0, length) + 8, page.y + 18, caption, size=_BODY)
        page.y += _ROW
    page.notes(captions.cost_notes(cost))
