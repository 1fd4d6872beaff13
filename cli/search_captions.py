"""The words and numbers beside a search's pictures, the same in the terminal and in a file.

Scores are shown as the paper shows them, times 100 with one decimal. Every figure names its statistic.
"""

from collections.abc import Iterable, Sequence

from cli.rendering import short_digest
from cli.search_figures import Cost, InitialisationPair, Runs, Spread, Stopped, StudentCell, StudentGrid, is_student
from pipelines.search.rungs import most_runs
from registry.domain.searches import Search, SearchOptions, TrialState

SHADE_FROM = (0.8, 0.9, 0.95, 0.99)
"""Least share of the teacher's score for each shade but the lightest; the paper's tables shade from 99 %."""
SHADE_NAMES = ("below 80 %", "from 80 %", "from 90 %", "from 95 %", "from 99 %")

BAND = "one standard error around the best mean, the spread pooled over all finished runs"
EXHAUSTIVE = "Exhaustive: every run to its end, nothing cached; students leave where the middle L's teacher does."
SPENT = "Spent are the epochs of trials; filling caches, teachers' answers and scoring come on top."
NO_TEACHERS = "No trial has been asked for yet."
NO_PAIRS = "No depth at which students of both beginnings have finished."
SHADES_NOTE = "Shade and percentage: the runs' mean, of the teacher's score."


def printable(text: str) -> str:
    """On one line, without control characters and half surrogates: an error may quote anything."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in " ".join(text.split()))


def times_100(score: float) -> str:
    return f"{100 * score:z.1f}"


def rate(learning_rate: float) -> str:
    return f"{learning_rate:g}"


def percent(share: float) -> str:
    """To a tenth of a percent, and never longer than eight characters."""
    if abs(share) < 9.995:
        return f"{100 * share:z.1f} %"
    return ">999 %" if share > 0 else "<-999 %"


def passes(amount: float) -> str:
    """With a decimal where rounding would make sums look wrong."""
    return f"{amount:,.0f}" if amount >= 1000 else f"{amount:.1f}".removesuffix(".0")


def title(search: Search) -> str:
    return f"Search {search.number} of {search.task}, {search.standing}"


def no_students(search: Search) -> str:
    return "No student has been asked for yet." if search.options.students else "The search is for teachers only."


def metric(search: Search) -> str:
    return f"{printable(search.metric)} x 100"


def told(search: Search) -> list[tuple[str, str]]:
    """What the search is and what it chose, as names and values."""
    options = search.options
    shown = [
        ("search", f"{search.number} of {search.task}, {search.standing}"),
        ("backbone", f"{search.backbone}, {search.backbone_layers} layers"),
        (
            "metric",
            f"{metric(search)} on the dev data {printable(short_digest(search.dev_digest))}, "
            f"spec revision {search.spec_revision}",
        ),
        (
            "asked",
            f"L {_numbers(options.layers)}; learning rate {', '.join(map(rate, options.learning_rates))}; "
            f"{_seeds(options)}; {options.recipe['epochs']} epochs; strategy {options.strategy}",
        ),
    ]
    if (head := _head(options)) is not None:
        shown.append(("head", head))
    if options.students:
        depths = "" if options.student_depths is None else f" at k' {_numbers(options.student_depths)}"
        shown.append(
            (
                "students",
                f"l {_numbers(options.students)}{depths}, from {' and '.join(options.initialisations)}; "
                f"{options.student_recipe['epochs']} epochs",
            )
        )
    return [*shown, *choice(search)]


def _seeds(options: SearchOptions) -> str:
    if options.seeds == 1:
        return "one seed"
    if options.strategy == "halving":
        return f"{options.seeds} seeds, of which halving runs {most_runs(options.seeds)} at most"
    return f"{options.seeds} seeds"


def _head(options: SearchOptions) -> str | None:
    """What is unusual about it."""
    unusual = [
        *(["mean pooling"] if options.head.get("pooling") == "mean" else []),
        *(["a learnt mix of all layers"] if options.head.get("gather") == "mix" else []),
        *(["CRF"] if options.head.get("crf") else []),
    ]
    return ", ".join(unusual) or None


def choice(search: Search) -> list[tuple[str, str]]:
    chosen = search.choice
    if chosen is None:
        return [("chosen", f"nothing yet; the rule is {search.options.rule}")]
    depth = search.backbone_layers - chosen.layers
    lines = [
        (
            "chosen",
            f"L {chosen.layers} (k {depth}), learning rate {rate(chosen.learning_rate)}, "
            f"by the {search.options.rule} rule on the {printable(chosen.statistic)}",
        ),
        ("teacher", _version(search, chosen.teacher)),
    ]
    return lines + [(f"student l {layers}", _version(search, number)) for layers, number in chosen.students.items()]


def _version(search: Search, number: int) -> str:
    found = next((trial for trial in search.trials if trial.version == number), None)
    if found is None or found.score is None:
        return f"{search.task}/{number}"
    place = f", k' {found.shape.frozen_depth}" if is_student(found) else ""
    return f"{search.task}/{number}{place}: {times_100(found.score)}, one run (seed {found.shape.seed})"


def _numbers(values: Sequence[int]) -> str:
    """Runs of neighbours as a range: 4-10, 12."""
    parts: list[list[int]] = []
    for value in values:
        if parts and value == parts[-1][-1] + 1:
            parts[-1].append(value)
        else:
            parts.append([value])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def spread_columns(spread: Spread) -> tuple[str, str, str, str]:
    """Mean, standard deviation, max, number of runs; of one run its score, and that it is one."""
    if spread.deviation is None:
        return times_100(spread.mean), "", "", "one run"
    return times_100(spread.mean), times_100(spread.deviation), times_100(spread.highest), str(spread.count)


def box_columns(spread: Spread) -> tuple[str, str, str]:
    """Median, max, number of runs; of one run its score, and that it is one."""
    if spread.count == 1:
        return times_100(spread.mean), "", "one run"
    return times_100(spread.quartiles[1]), times_100(spread.highest), str(spread.count)


def stopped(group: Stopped) -> str:
    """Such as `paused 1/3: 69.9` of one run, `2 paused 1/3, max 69.9` of several."""
    where = f"{group.state} {group.epoch}/{group.epochs}"
    value = times_100(group.values[-1])
    return f"{where}: {value}" if len(group.values) == 1 else f"{len(group.values)} {where}, max {value}"


def counts(states: Iterable[tuple[TrialState, int]]) -> str:
    return ", ".join(f"{count} {state}" for state, count in states)


def grid_title(grid: StudentGrid) -> str:
    score = "" if grid.teacher_score is None else f" ({times_100(grid.teacher_score)}, one run)"
    begun = f", begun from the {grid.initialisation}" if grid.initialisation else ""
    return f"Students of /{grid.teacher}{score}{begun}, learning rate {rate(grid.learning_rate)}"


def cell_lines(cell: StudentCell) -> list[str]:
    """The share of the teacher's score first, if there is one."""
    spread = cell.runs.finished
    lines = [] if cell.share is None else [percent(cell.share)]
    if spread is not None and spread.count == 1:
        lines += [times_100(spread.mean), "one run"]
    elif spread is not None:
        lines += [f"mean {times_100(spread.mean)}", f"max {times_100(spread.highest)}", f"{spread.count} runs"]
    if cell.chosen is not None:
        lines.append(f"chosen: {cell.chosen}")
    return lines + [f"{count} {state}" for state, count in unfinished(cell.runs)]


def unfinished(of: Runs) -> list[tuple[TrialState, int]]:
    """By state, in the order in which a trial goes through them."""
    found = dict(of.unscored)
    for group in of.stopped:
        found[group.state] = found.get(group.state, 0) + len(group.values)
    return [(state, found[state]) for state in TrialState if state in found]


def shade(share: float) -> int:
    """Which of `SHADE_NAMES` a share of the teacher's score has."""
    return sum(share >= least for least in SHADE_FROM)


def pair_labels(pair: InitialisationPair) -> tuple[str, str]:
    return f"l {pair.layers} from teacher", f"l {pair.layers} from backbone"


def pairs_note(pairs: Sequence[InitialisationPair]) -> str:
    """Which students are compared."""
    where = "; ".join(f"l {pair.layers} at k' {_numbers(pair.depths)}" for pair in pairs)
    return f"Students that have finished both ways, all depths together: {where}."


def cost_bars(cost: Cost) -> list[tuple[str, float, str]]:
    """Name, amount, caption."""
    share = "" if cost.share is None else f", {percent(cost.share)} of exhaustive"
    return [
        ("teachers", cost.teachers, passes(cost.teachers)),
        ("students", cost.students, passes(cost.students)),
        ("in all", cost.spent, passes(cost.spent) + share),
        ("exhaustive", cost.exhaustive, passes(cost.exhaustive)),
    ]


def cost_notes(cost: Cost) -> list[str]:
    minutes, seconds = divmod(round(cost.seconds), 60)
    hours, minutes = divmod(minutes, 60)
    spent = f"{hours:,} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"
    notes = [
        f"{kind}: {_trials(sum(count for _, count in states))} ({counts(states)})."
        for kind, states in (("Teachers", cost.teacher_states), ("Students", cost.student_states))
        if states
    ]
    return [*notes, EXHAUSTIVE, SPENT, f"Time spent on trials, summed over workers: {spent}."]


def _trials(count: int) -> str:
    return "1 trial" if count == 1 else f"{count} trials"
