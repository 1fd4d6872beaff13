import json
from datetime import datetime, timedelta, timezone

import pytest
from rich.table import Column

from cli import rendering


def test_times_are_shown_in_utc() -> None:
    berlin = timezone(timedelta(hours=2))
    assert rendering.moment(datetime(2026, 5, 1, 1, 30, tzinfo=berlin)) == "2026-04-30 23:30"


def test_aliases_are_listed_in_order() -> None:
    assert rendering.alias_list({"champion": 3, "candidate": 12}) == "candidate 12, champion 3"
    assert rendering.alias_list({}) == ""


def test_json_is_never_wrapped_and_keeps_every_character(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"text": "für [bold] 'x' " + "lang " * 100}
    rendering.print_json(value)
    assert json.loads(capsys.readouterr().out) == value


def test_json_refuses_what_json_does_not_have() -> None:
    with pytest.raises(ValueError, match="JSON"):
        rendering.print_json({"score": float("nan")})


def test_a_sentence_is_never_broken(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    sentence = "word " * 30 + "[red]end[/red] :smile:"
    rendering.print_line(sentence)
    rendering.print_error(sentence)
    assert capsys.readouterr() == (f"{sentence}\n", f"error: {sentence}\n")


ROW = ("x" * 63, "y" * 63, "12345", "2026-05-01 09:00")


def columns() -> list[str | Column]:
    return ["task", "team", rendering.number_column("versions"), rendering.time_column("created (UTC)")]


def test_in_a_terminal_a_table_is_folded_to_the_width_and_loses_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    rendering.print_table(columns(), [ROW])
    rendering.print_fields([("task", "z" * 200)])
    table = capsys.readouterr().out
    assert max(map(len, table.splitlines())) <= 80
    for folded in ("x" * 63, "y" * 63, "z" * 200):
        assert table.count(folded[0]) == len(folded)
    for whole in ("12345", "2026-05-01 09:00", "created (UTC)", "versions"):
        assert whole in table


def test_elsewhere_a_row_is_one_line_however_long_and_ends_with_its_last_word(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    for variable in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(variable, raising=False)
    long = "word " * 999 + "end"
    rendering.print_table(columns(), [ROW, ("rte", "nlu", "1", "")])
    rendering.print_table(["a"], [(long,), ("b",)])
    rendering.print_fields([("task", "z" * 200), ("description", long), ("labels", "")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == [*ROW[:3], *ROW[3].split()]
    assert lines[3].split() == ["rte", "nlu", "1"]
    assert (lines[4], *lines[6:8]) == ("a", long, "b")
    assert lines[8:] == ["task         " + "z" * 200, "description  " + long, "labels"]
    assert all(line == line.rstrip() for line in lines)
