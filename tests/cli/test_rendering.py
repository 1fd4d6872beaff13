import json
from datetime import datetime, timedelta, timezone

import pytest

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


def test_a_table_is_folded_to_the_width_and_loses_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    columns = ["task", "team", rendering.number_column("versions"), rendering.time_column("created (UTC)")]
    rendering.print_table(columns, [("x" * 63, "y" * 63, "12345", "2026-05-01 09:00")])
    table = capsys.readouterr().out
    assert max(map(len, table.splitlines())) <= 80
    for folded in ("x" * 63, "y" * 63):
        assert table.count(folded[0]) == len(folded)
    for whole in ("12345", "2026-05-01 09:00", "created (UTC)", "versions"):
        assert whole in table
