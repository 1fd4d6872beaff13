"""A search in the terminal: what it is and chose, its trials, and four pictures.

Pictures are lines of text that take a width and keep to it, from 60 columns on; marks differ in shape, never in colour
alone.
"""

import textwrap
from collections.abc import Iterator, Sequence
from itertools import chain, repeat

from rich.table import Column

from cli import search_captions as captions
from cli.charts import Scale, Strip, bar, scale_of
from cli.rendering import (
    MOST_ROWS,
    number_column,
    print_fields,
    print_line,
    print_rest,
    print_table,
    stdout_console,
)
from cli.search_figures import (
    Band,
    Cost,
    InitialisationPair,
    Runs,
    Spread,
    StudentGrid,
    Teachers,
    cost_of,
    initialisation_pairs,
    is_student,
    student_grids,
    teachers_of,
)
from registry.domain.searches import LedgerTrial, Search, TrialState

_NARROWEST, _WIDEST = 60, 120
_SHADES = ("· ", "░░", "▒▒", "▓▓", "██")
_COLUMN = 7
"""Width of a number at the right of a chart."""
_BAND, _MEAN, _STOPPED, _BOX, _RUN = "░", "●", "◌", "▒", "•"


def draw_search(search: Search) -> None:
    """Prints the whole: fields, trials, errors, pictures."""
    print_fields(captions.told(search))
    print_line("")
    _print_trials(search)
    for line in picture_lines(search, _width()):
        print_line(line)


def _width() -> int:
    return min(_WIDEST, stdout_console().width)


def picture_lines(search: Search, width: int) -> list[str]:
    """The four pictures, within `width` columns, but for no fewer than 60."""
    width = max(_NARROWEST, width)
    lines = [
        *_heading(f"Teachers: {captions.metric(search)} by L", width),
        *_teachers(teachers_of(search), width),
    ]
    grids = student_grids(search)
    lines += _heading(f"Students over (k', l): {captions.metric(search)}", width)
    for grid in grids:
        lines += [*_grid(grid, width), ""]
    lines += _shade_legend(width) if grids else _wrapped(captions.no_students(search), width)
    if len({grid.initialisation for grid in grids}) > 1:
        lines += _heading(f"Initialisations: {captions.metric(search)}", width)
        lines += _initialisations(initialisation_pairs(search), width)
    lines += _heading("Cost: layer passes per training example (a forward 1, a backward 2)", width)
    return lines + _cost(cost_of(search), width)


def _print_trials(search: Search) -> None:
    trials = search.trials
    several_rates = len({trial.shape.learning_rate for trial in trials}) > 1
    columns: list[str | Column] = [
        "trial",
        *map(number_column, ("k", "l")),
        *([number_column("rate")] if several_rates else []),
        number_column("seed"),
        "state",
        number_column("score"),
        number_column("version"),
    ]
    if not trials:
        print_line(captions.NO_TEACHERS)
        return
    caption = f"Trials: {captions.metric(search)}, each figure one run; in brackets: at the epoch where it stands"
    if any(trial.shape.initialisation == "backbone" for trial in trials):
        caption += "; *: begun from the backbone"
    for line in _wrapped(caption, _width()):
        print_line(line)
    print_table(columns, [_trial_row(trial, several_rates) for trial in trials[:MOST_ROWS]])
    print_rest(len(trials) - MOST_ROWS if len(trials) > MOST_ROWS else 0, "more; --json has them all")
    troubled = [trial for trial in trials if trial.error is not None]
    if troubled:
        print_line("")
        rows = [
            (trial.shape.words, f"{trial.state}, {_attempts(trial)}", captions.printable(trial.error or ""))
            for trial in troubled[:MOST_ROWS]
        ]
        print_table(["trial", "state", "error"], rows)
        print_rest(max(0, len(troubled) - MOST_ROWS), "more; --json has them all")


def _trial_row(trial: LedgerTrial, several_rates: bool) -> list[str]:
    shape = trial.shape
    whole = trial.state in (TrialState.WAITING, TrialState.FINISHED)
    epoch = "" if whole else f" {trial.epochs_done}/{trial.epochs}"
    score = "" if trial.score is None else captions.times_100(trial.score)
    if not score and trial.curve:
        score = f"({captions.times_100(trial.curve[max(trial.curve)])})"
    return [
        "teacher" if not is_student(trial) else "student*" if shape.initialisation == "backbone" else "student",
        str(shape.frozen_depth),
        str(shape.task_layers),
        *([captions.rate(shape.learning_rate)] if several_rates else []),
        str(shape.seed),
        f"{trial.state}{epoch}",
        score,
        "" if trial.version is None else str(trial.version),
    ]


def _attempts(trial: LedgerTrial) -> str:
    return "1 attempt" if trial.attempts == 1 else f"{trial.attempts} attempts"


def _heading(text: str, width: int) -> list[str]:
    return ["", *_wrapped(text, width), ""]


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent="  ")


class _Chart:
    """Rows of a label, a strip on one scale, and text at the right, in columns that fit the width."""

    def __init__(self, scale: Scale, labels: Sequence[str], texts: Sequence[str], width: int) -> None:
        self._scale = scale
        self._left = max(map(len, labels), default=0)
        self._right = max(map(len, texts), default=0)
        self._strip = width - self._left - self._right - 4

    def strip(self) -> Strip:
        return Strip(self._scale, self._strip)

    def header(self, label: str, text: str) -> str:
        low, high = captions.times_100(self._scale.low), captions.times_100(self._scale.high)
        return self.row(label, low + high.rjust(self._strip - len(low)), text)

    def row(self, label: str, strip: Strip | str, text: str) -> str:
        return f"{label:<{self._left}}  {strip!s:<{self._strip}}  {text}".rstrip()

    def words(self, label: str, text: str) -> list[str]:
        """A row of words, where there is nothing to mark."""
        first, *rest = textwrap.wrap(text, self._strip + 2 + self._right)
        return [f"{label:<{self._left}}  {first}", *(" " * (self._left + 2) + line for line in rest)]


def _columns(cells: Sequence[str]) -> str:
    if cells[-1] == "one run":
        return f"{cells[0]:>{_COLUMN}}  one run"
    return "".join(f"{cell:>{_COLUMN}}" for cell in cells)


def _teachers(teachers: Teachers, width: int) -> list[str]:
    if not teachers.rows:
        return [captions.NO_TEACHERS]
    several_rates = teachers.learning_rates > 1
    widest_rate = max(len(captions.rate(row.learning_rate)) for row in teachers.rows)
    labels = [
        f"{'▶' if row.chosen else ' '} {row.layers:>2}"
        + (f"  {captions.rate(row.learning_rate):>{widest_rate}}" if several_rates else "")
        for row in teachers.rows
    ]
    header = "   L" + (f"  {'rate':>{widest_rate}}" if several_rates else "")
    titles = _columns(("mean", "sd", "max", "runs"))
    texts = [titles, *(captions.stopped(group) for row in teachers.rows for group in row.runs.stopped)]
    chart = _Chart(teachers.scale, [header, *labels], texts, width)
    lines = [chart.header(header, titles)]
    for label, row in zip(labels, teachers.rows, strict=True):
        lines += _runs_rows(chart, label, row.runs, teachers.best)
    spreads = [row.runs.finished for row in teachers.rows]
    legend = [
        *(["▶ chosen"] if any(row.chosen for row in teachers.rows) else []),
        *(["├─●─┤ lowest run, mean, highest run; sd: standard deviation over seeds"] if any(spreads) else []),
        *([f"{_BAND} {captions.BAND}"] if teachers.best else []),
        *(
            [f"{_STOPPED} not finished: last score of the curve at epoch n/of, ‹ › beyond the scale"]
            if any(row.runs.stopped for row in teachers.rows)
            else []
        ),
    ]
    return [*lines, "", *(line for entry in legend for line in _wrapped(entry, width))]


def _runs_rows(chart: _Chart, label: str, runs: Runs, band: Band | None) -> Iterator[str]:
    labels = chain([label], repeat(""))
    if runs.finished is not None:
        strip = chart.strip()
        if band is not None:
            strip.fill(band.low, band.high, _BAND)
        strip.span(runs.finished.lowest, runs.finished.highest)
        strip.mark(runs.finished.mean, _MEAN)
        yield chart.row(next(labels), strip, _columns(captions.spread_columns(runs.finished)))
    for group in runs.stopped:
        strip = chart.strip()
        for value in group.values:
            strip.mark(value, _STOPPED)
        yield chart.row(next(labels), strip, captions.stopped(group))
    if runs.unscored:
        yield from chart.words(next(labels), captions.counts(runs.unscored))


def _grid(grid: StudentGrid, width: int) -> list[str]:
    drawn = {place: captions.cell_lines(cell) for place, cell in grid.cells.items()}
    for place, cell in grid.cells.items():
        if cell.share is not None:
            drawn[place][0] = f"{_SHADES[captions.shade(cell.share)]} {drawn[place][0]}"
    left = max(len("l \\ k'"), 4)
    column = 2 + max(len(line) for lines in drawn.values() for line in lines)
    fitting = max(1, (width - left) // column)
    lines = _wrapped(captions.grid_title(grid), width)
    for start in range(0, len(grid.depths), fitting):
        depths = grid.depths[start : start + fitting]
        lines.append("")
        lines.append("l \\ k'".ljust(left) + "".join(f"{depth:>{column}}" for depth in depths))
        for layers in grid.layers:
            cells = [drawn.get((depth, layers), []) for depth in depths]
            for number in range(max(map(len, cells))):
                texts = [cell[number] if number < len(cell) else "" for cell in cells]
                label = str(layers) if number == 0 else ""
                lines.append((f"{label:>4}".ljust(left) + "".join(f"{text:>{column}}" for text in texts)).rstrip())
    return lines


def _shade_legend(width: int) -> list[str]:
    shades = ", ".join(f"{mark.strip()} {name}" for mark, name in zip(_SHADES, captions.SHADE_NAMES, strict=True))
    return _wrapped(f"{captions.SHADES_NOTE} {shades}.", width)


def _initialisations(pairs: Sequence[InitialisationPair], width: int) -> list[str]:
    if not pairs:
        return _wrapped(captions.NO_PAIRS, width)
    rows: list[tuple[str, Spread]] = []
    for pair in pairs:
        rows += zip(captions.pair_labels(pair), (pair.teacher, pair.backbone), strict=True)
    titles = _columns(("median", "max", "runs"))
    scale = scale_of([score for _, spread in rows for score in spread.scores])
    chart = _Chart(scale, [label for label, _ in rows], [titles], width)
    lines = [chart.header("", titles)]
    for label, spread in rows:
        strip = chart.strip()
        first, median, third = spread.quartiles
        strip.span(spread.lowest, spread.highest)
        if spread.count > 1:
            strip.fill(first, third, _BOX)
        strip.mark(median, _MEAN)
        lines.append(chart.row(label, strip, _columns(captions.box_columns(spread))))
    legend = "├─▒●▒─┤ lowest run, first quartile, median, third quartile, highest run"
    return [*lines, "", *_wrapped(legend, width), *_wrapped(captions.pairs_note(pairs), width)]


def _cost(cost: Cost, width: int) -> list[str]:
    bars = captions.cost_bars(cost)
    left = max(len(name) for name, _, _ in bars)
    right = max(len(caption) for _, _, caption in bars)
    most = max(amount for _, amount, _ in bars)
    length = width - left - right - 4
    lines = [
        f"{name:<{left}}  {bar(amount / most if most else 0.0, length):<{length}}  {caption}"
        for name, amount, caption in bars
    ]
    return lines + [line for note in captions.cost_notes(cost) for line in _wrapped(note, width)]
