"""The pictures of a search, in the terminal and as SVG."""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.charts import Scale, Strip, bar, scale_of, ticks
from cli.search_drawing import draw_search, picture_lines
from cli.search_svg import search_svg
from registry.domain.searches import Initialisation, LedgerTrial, Search, SearchChoice, SearchOptions, TrialState
from tests.search_records import search, trial

OPTIONS = SearchOptions(
    layers=(4, 7),
    seeds=2,
    learning_rates=(1e-4,),
    students=(1, 2),
    initialisations=("teacher", "backbone"),
    recipe={"epochs": 5},
    student_recipe={"epochs": 10},
    head={},
)


def small_search() -> Search:
    """Two depths of teachers, students of two sizes at two depths and of both beginnings."""
    beginnings: tuple[Initialisation, ...] = ("teacher", "backbone")
    students = [
        trial(1, 0.61 + 0.02 * seed + (0.04 if begun == "teacher" else 0), depth=depth, seed=seed, teacher=2,
              initialisation=begun, version=10 + 4 * depth + 2 * seed + (begun == "teacher"), layer_passes=10.0)
        for depth in (5, 8) for begun in beginnings for seed in (0, 1)
    ]  # fmt: skip
    return search(
        trial(7, 0.712, seed=0, version=1, layer_passes=100.0, seconds=3000.0),
        trial(7, 0.728, seed=1, version=2, layer_passes=100.0, seconds=1200.0),
        trial(4, 0.701, seed=0, version=3, layer_passes=100.0),
        trial(4, seed=1, state=TrialState.PAUSED, curve={1: 0.699}, epochs_done=1, layer_passes=20.0),
        trial(10, state=TrialState.FAILED, error="the loss is NaN\nafter \x1b[31mstep 12 <&>", attempts=3),
        *students,
        trial(2, depth=5, teacher=2, initialisation="teacher", state=TrialState.PAUSED, curve={1: 0.5}),
        choice=SearchChoice(layers=7, learning_rate=1e-4, teacher=2, statistic="mean of 2 seeds", students={1: 45}),
        options=OPTIONS,
    )


def texts_of(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]  # noqa: S314


def test_the_metric_by_layers_stands_with_its_spread_and_statistics() -> None:
    lines = picture_lines(small_search(), 80)
    (chosen,) = [line for line in lines if line.startswith("▶  7")]
    assert re.search(r"├─+●─+┤", chosen)
    assert chosen.split()[-4:] == ["72.0", "1.1", "72.8", "2"]
    (single,) = [line for line in lines if line.startswith("   4")]
    assert single.endswith("70.1  one run")
    (stopped,) = [line for line in lines if line.endswith("paused 1/3: 69.9")]
    assert "◌" in stopped
    assert "●" not in stopped
    (header,) = [line for line in lines if line.startswith("   L")]
    assert header.split()[-4:] == ["mean", "sd", "max", "runs"]


def test_students_stand_as_shares_of_their_teacher() -> None:
    text = "\n".join(picture_lines(small_search(), 80))
    assert re.search(r"Students of /2 \(72.8, one run\), begun from the\s+teacher", text)
    assert "▒▒ 90.7 %" in text  # 66.0 of 72.8
    assert "mean 66.0" in text
    assert "max 67.0" in text
    assert "chosen: 45" in text
    assert "1 paused" in text


def test_the_cost_stands_against_the_exhaustive_one() -> None:
    lines = picture_lines(small_search(), 80)
    assert any(line.startswith("in all") and line.endswith("400, 40.0 % of exhaustive") for line in lines)
    assert "Teachers: 5 trials (1 paused, 3 finished, 1 failed)." in lines
    assert "Time spent on trials, summed over workers: 1 h 10 min." in lines


def test_everything_is_printed_without_colour_codes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    draw_search(small_search())
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert re.search(
        r"^teacher, k 2, l 10, rate 0.0001, seed 0 +failed, 3 attempts +the loss is NaN after .\[31mstep 12 <&>$",
        shown,
        re.MULTILINE,
    )
    assert re.search(r"^chosen +L 7 \(k 5\), learning rate 0.0001, by the parsimonious rule on the mean of 2 seeds$",
                     shown, re.MULTILINE)  # fmt: skip
    assert re.search(r"^teacher +\w+/2: 72.8, one run \(seed 1\)$", shown, re.MULTILINE)
    assert re.search(r"^teacher +8 +4 +1 +paused 1/3 +\(69.9\)$", shown, re.MULTILINE)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_in_a_terminal_nothing_is_wider_than_it(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"COLUMNS": str(width), "TTY_COMPATIBLE": "1", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    faster = trial(7, learning_rate=2e-5, state=TrialState.RUNNING, epochs_done=1, curve={1: 0.7})
    known = small_search()
    draw_search(known.model_copy(update={"task": "t" * 63, "trials": (*known.trials, faster)}))
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in capsys.readouterr().out.splitlines()]
    assert max(map(len, lines)) <= width
    # A table that does not fit would be folded inside its words.
    assert any(re.match(r"student\* +8 +1 +0.0001 +1 +finished +63.0 +44$", line.strip()) for line in lines)
    assert any(re.match(r"student +8 +1 +0.0001 +1 +finished +67.0 +45$", line.strip()) for line in lines)
    assert any(re.match(r"teacher +5 +7 +2e-05 +0 +running 1/3 +\(70.0\)$", line.strip()) for line in lines)


def test_a_search_without_trials_or_students_says_so() -> None:
    text = "\n".join(picture_lines(search(), 60))
    assert "No trial has been asked for yet." in text
    assert "The search is for teachers only." in text
    assert "No student has been asked for yet." in search_svg(search(options=OPTIONS))


def test_the_many_depths_of_a_large_backbone_go_on_in_further_blocks() -> None:
    deep = search(*(trial(1, 0.5, depth=depth, teacher=1) for depth in range(48)), backbone_layers=48)
    lines = picture_lines(deep, 60)
    shown = [depth for line in lines if line.startswith("l \\ k'") for depth in line.split()[3:]]
    assert shown == [str(depth) for depth in range(48)]
    assert max(map(len, lines)) <= 60


def test_a_drawing_as_svg_holds_every_number() -> None:
    texts = texts_of(search_svg(small_search()))
    for shown in ("72.0", "1.1", "72.8", "70.1", "one run", "paused 1/3: 69.9", "90.7 %", "mean 66.0", "chosen: 45"):
        assert shown in texts
    assert "400, 40.0 % of exhaustive" in texts
    assert "l 1 from backbone" in texts


def test_the_same_search_gives_the_same_bytes() -> None:
    assert search_svg(small_search()) == search_svg(small_search())


def test_hostile_text_stays_text() -> None:
    hostile = '</text><script href="x">&\x00\x1b\ud800 ]]>'
    drawn = search_svg(search(metric=hostile, dev_digest=hostile))
    drawn.encode()
    assert "<script" not in drawn
    assert any('</text><script href="x">&' in text for text in texts_of(drawn))


FRACTIONS = st.floats(-1, 1, allow_nan=False)


@st.composite
def trials(draw: st.DrawFn) -> LedgerTrial:
    state = draw(st.sampled_from(TrialState))
    teacher = draw(st.sampled_from([None, 1, 2]))
    layers = draw(st.integers(1, 48))
    curve: Mapping[int, float] = draw(st.dictionaries(st.integers(1, 99), FRACTIONS, max_size=2))
    return trial(
        layers,
        draw(FRACTIONS) if state is TrialState.FINISHED else None,
        depth=draw(st.integers(0, 48 - layers)),
        seed=draw(st.integers(0, 9)),
        learning_rate=draw(st.floats(1e-12, 1.0)),
        teacher=teacher,
        initialisation=None if teacher is None else draw(st.sampled_from(["teacher", "backbone"])),
        state=state,
        curve=curve,
        version=draw(st.none() | st.integers(1, 3)),
        error=draw(st.none() | st.text(max_size=20)),
        layer_passes=draw(st.floats(0, 1e9)),
        seconds=draw(st.floats(0, 1e7)),
    )


@st.composite
def searches(draw: st.DrawFn) -> Search:
    known = draw(st.lists(trials(), max_size=12))
    choice = SearchChoice(
        layers=known[0].shape.task_layers,
        learning_rate=known[0].shape.learning_rate,
        teacher=1,
        statistic=draw(st.text(max_size=10)),
        students=draw(st.dictionaries(st.integers(1, 3), st.integers(1, 3))),
    ) if known and draw(st.booleans()) else None  # fmt: skip
    passes = draw(st.floats(0, 1e12))
    return search(*known, choice=choice, exhaustive_layer_passes=passes, backbone_layers=48, options=OPTIONS)


@given(searches(), st.integers(60, 200))
def test_any_search_can_be_drawn_within_the_width(drawn: Search, width: int) -> None:
    assert max(map(len, picture_lines(drawn, width))) <= width


@given(searches())
def test_any_search_can_be_drawn_within_the_picture(drawn: Search) -> None:
    svg = search_svg(drawn)
    svg.encode()
    root = ElementTree.fromstring(svg)  # noqa: S314
    right, bottom = (float(size) for size in root.attrib["viewBox"].split()[2:])
    assert (root.attrib["width"], root.attrib["height"]) == tuple(root.attrib["viewBox"].split()[2:])
    for element in root:
        place = {
            name: float(value)
            for name, value in element.attrib.items()
            if re.fullmatch("[xyr][12]?|c[xy]|width|height", name)
        }
        across = [place[name] for name in ("x", "x1", "x2", "cx") if name in place]
        down = [place[name] for name in ("y", "y1", "y2", "cy") if name in place]
        across += [across[0] + place["width"]] if "width" in place else []
        if element.text and "font-size" in element.attrib:
            # Letters of the widest common sans serif are 0.6 of their size wide, on average.
            length = 0.6 * float(element.attrib["font-size"]) * len(element.text)
            reach = {"start": (0, length), "middle": (-length / 2, length / 2), "end": (-length, 0)}
            across = [across[0] + end for end in reach[element.get("text-anchor", "start")]]
        down += [down[0] + place["height"]] if "height" in place else []
        assert all(0 <= x <= right + 0.01 for x in across)
        assert all(0 <= y <= bottom + 0.01 for y in down)


def test_a_strip_marks_what_is_beyond_its_scale_with_arrows() -> None:
    strip = Strip(Scale(0.0, 1.0), 11)
    strip.span(0.2, 0.8)
    strip.mark(0.5, "●")
    strip.mark(-3.0, "◌")
    strip.mark(3.0, "◌")
    assert str(strip) == "‹ ├──●──┤ ›"


def test_a_bar_shows_the_least_amount() -> None:
    assert bar(0.0, 8) == ""
    assert bar(1e-9, 8) == "▏"
    assert bar(0.5, 8) == "████"
    assert bar(1.0, 8) == "████████"


def test_ticks_are_round_values_on_the_scale() -> None:
    assert ticks(Scale(0.679, 0.741)) == pytest.approx([0.68, 0.70, 0.72, 0.74])
    assert ticks(Scale(-0.1, 0.1)) == pytest.approx([-0.1, -0.05, 0.0, 0.05, 0.1])


def test_one_value_gets_a_scale_of_one_point_and_some_air() -> None:
    scale = scale_of([0.7])
    assert (scale.low, scale.high) == pytest.approx((0.6946, 0.7054))
