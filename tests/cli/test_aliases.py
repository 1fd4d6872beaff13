import time
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("versions")


def test_promotions_and_rollbacks_move_the_alias_and_say_from_where(trunkline: Any) -> None:
    assert trunkline.done("task", "promote", "rte/1", "--alias", "champion") == (
        "rte@champion: new → rte/1 (accuracy 0.5000)\n"
    )
    assert trunkline.done("task", "promote", "rte/3", "--alias", "champion") == (
        "rte@champion: rte/1 → rte/3 (accuracy 0.5000 → 0.7000)\n"
    )
    assert trunkline.done("task", "promote", "rte/3", "--alias", "champion") == "rte@champion is rte/3 already\n"
    assert trunkline.done("task", "rollback", "rte", "--alias", "champion").startswith("rte@champion: rte/3 → rte/1 (")
    assert trunkline("task", "show", "rte", "--json").json["aliases"] == {"champion": 1}
    nothing_below = trunkline("task", "rollback", "rte", "--alias", "champion")
    assert nothing_below.code == 4
    assert nothing_below.problem


def test_a_version_that_scores_less_is_promoted_with_a_warning(trunkline: Any, versions: Any) -> None:
    trunkline.done("task", "promote", "rte/1", "--alias", "champion")
    worse, bad, elsewhere = (
        str(versions("rte", **how).reference)
        for how in ({"score": 0.4375}, {"score": 0.0}, {"score": 0.25, "dev_digest": "5" * 64})
    )
    told = trunkline("task", "promote", worse, "--alias", "champion")
    assert told.out == f"rte@champion: rte/1 → {worse} (accuracy 0.5000 → 0.4375)\n"
    assert told.err == f"warning: {worse} has accuracy 0.4375, less than rte/1 on the same dev data\n"
    told = trunkline("task", "promote", bad, "--alias", "champion")
    assert told.err == f"warning: {bad} has accuracy 0.0000: no better than answers at random\n"
    back = trunkline("task", "rollback", "rte", "--alias", "champion")
    assert (back.err, back.out) == ("", f"rte@champion: {bad} → {worse} (accuracy 0.0000 → 0.4375)\n")
    told = trunkline("task", "promote", elsewhere, "--alias", "champion")
    assert told.out.endswith(f"(accuracy 0.2500, not on the dev data of {worse})\n")
    assert told.err == "", "scores on other data say nothing of each other"


def test_a_version_that_was_scored_by_something_else_is_not_compared(
    trunkline: Any, versions: Any, task_file: Any
) -> None:
    trunkline.done("task", "promote", "rte/1", "--alias", "champion")
    changed = task_file("rte", metric="f1", positive_label="entailment")
    assert trunkline("task", "update", changed, "--no-check-data").code == 0
    newer = str(versions("rte", score=0.25).reference)
    told = trunkline("task", "promote", newer, "--alias", "champion")
    assert told.out == f"rte@champion: rte/1 → {newer} (f1 0.2500, which rte/1 was not scored by)\n"
    assert told.err == ""


def test_an_alias_can_be_promoted_to_another(trunkline: Any) -> None:
    trunkline.done("task", "promote", "rte/2", "--alias", "candidate")
    move = trunkline("task", "promote", "rte@candidate", "--alias", "champion", "--json").json
    assert (move["alias"], move["from_version"], move["to_version"], move["actor"]) == ("champion", None, 2, "ann")
    assert (move["metric"], move["score"], move["score_before"]) == ("accuracy", 0.6, None)
    move = trunkline("task", "promote", "rte/3", "--alias", "champion", "--json").json
    assert (move["score"], move["score_before"]) == (0.7, 0.6)


def test_a_lost_race_is_a_conflict_and_changes_nothing(trunkline: Any) -> None:
    promote = ("task", "promote", "rte/3", "--alias", "champion", "--expect")
    trunkline.done(*promote[:2], "rte/1", *promote[3:], "none")
    for expected in ("none", "rte/2"):
        answer = trunkline(*promote, expected)
        assert answer.code == 5
        assert "rte@champion is rte/1" in answer.problem
    trunkline.done(*promote, "rte/1")
    assert trunkline("task", "rollback", "rte", "--alias", "champion", "--expect", "rte/2").code == 5
    trunkline.done("task", "rollback", "rte", "--alias", "champion", "--expect", "rte/3")
    assert [move["to_version"] for move in trunkline("task", "history", "rte", "--json").json] == [1, 3, 1]


@pytest.mark.parametrize(
    "arguments",
    [
        ("rte", "--alias", "champion"),
        ("rte/0", "--alias", "champion"),
        ("../rte/1", "--alias", "champion"),
        ("rte/1", "--alias", "latest"),
        ("rte/1", "--alias", "v2"),
        ("rte/1", "--alias", "a/b"),
        ("rte/1", "--alias", "champion", "--expect", "2"),
        ("rte/1", "--alias", "champion", "--expect", "rte@champion"),
        ("rte/1", "--alias", "champion", "--expect", "cola/2"),
        ("rte/1",),
    ],
)
def test_what_is_no_reference_or_alias_is_a_usage_error(trunkline: Any, arguments: tuple[str, ...]) -> None:
    answer = trunkline("task", "promote", *arguments)
    assert answer.code == 2
    assert answer.problem
    assert trunkline("task", "history", "rte", "--json").json == []


def test_a_move_to_a_version_of_an_outdated_definition_is_warned_of(
    trunkline: Any, versions: Any, task_file: Any
) -> None:
    trunkline.done("task", "promote", "rte/1", "--alias", "champion")
    trunkline("task", "update", task_file("rte", labels="[yes, no]"))
    versions("rte")
    trunkline.done("task", "promote", "rte/4", "--alias", "champion")
    warning = (
        "warning: rte/{} answers as revision 1 defined task rte, which has another type, input form or labels than "
        "revision 2, now in force\n"
    )
    back = trunkline("task", "rollback", "rte", "--alias", "champion")
    assert (back.code, back.err) == (0, warning.format(1))
    assert back.out.startswith("rte@champion: rte/4 → rte/1 ")
    promoted = trunkline("task", "promote", "rte/2", "--alias", "champion", "--json")
    assert (promoted.code, promoted.json["to_version"], promoted.err) == (0, 2, warning.format(2))


@pytest.mark.parametrize("reference", ["rte/9", "cola/1", "rte@challenger"])
def test_an_unknown_version_is_an_error(trunkline: Any, reference: str) -> None:
    answer = trunkline("task", "promote", reference, "--alias", "champion")
    assert answer.code == 1
    assert answer.problem


def test_history_shows_every_move_or_those_of_one_alias(trunkline: Any) -> None:
    assert trunkline.done("task", "history", "rte") == "task rte has no alias yet\n"
    trunkline.done("task", "promote", "rte/1", "--alias", "champion")
    trunkline.done("task", "promote", "rte/2", "--alias", "candidate")
    assert trunkline.done("task", "history", "rte", "--alias", "other") == "rte@other has never moved\n"
    rows = trunkline.done("task", "history", "rte").splitlines()[2:]
    assert [row.split()[2:] for row in rows] == [
        ["champion", "promote", "1", "ann"],
        ["candidate", "promote", "2", "ann"],
    ]
    assert len(trunkline("task", "history", "rte", "--alias", "candidate", "--json").json) == 1


def test_history_at_a_time_says_which_version_each_alias_named_then(trunkline: Any) -> None:
    trunkline.done("task", "promote", "rte/1", "--alias", "champion")  # 09:00
    trunkline.done("task", "promote", "rte/2", "--alias", "candidate")  # 09:01
    trunkline.done("task", "promote", "rte/3", "--alias", "champion")  # 09:02
    trunkline.done("task", "rollback", "rte", "--alias", "champion")  # 09:03

    def at(time: str, *options: str) -> Any:
        return trunkline("task", "history", "rte", "--at", time, "--json", *options).json["aliases"]

    assert at("2026-05-01") == {}
    assert at("2026-05-01T09:00") == {"champion": 1}
    assert at("2026-05-01T11:01:30+02:00") == {"champion": 1, "candidate": 2}
    assert at("2026-05-01T09:02") == {"champion": 3, "candidate": 2}
    assert at("2026-05-02", "--alias", "champion") == {"champion": 1}
    sentence, _, _, *rows = trunkline.done("task", "history", "rte", "--at", "2026-05-01T09:02").splitlines()
    assert sentence == "at 2026-05-01 09:02 UTC task rte was active, with spec revision 1 and 3 versions"
    assert [row.split() for row in rows] == [["candidate", "rte/2"], ["champion", "rte/3"]]
    other = trunkline.done("task", "history", "rte", "--at", "2026-05-02", "--alias", "x")
    assert other.splitlines()[1:] == ["rte@x named no version"]


def test_history_at_a_time_says_what_the_task_was_then(trunkline: Any, task_file: Any) -> None:
    def said(time: str) -> str:
        return trunkline.done("task", "history", "rte", "--at", f"2026-05-01T{time}").splitlines()[0]

    trunkline.done("task", "retire", "rte", "--reason", "nobody asks")  # 09:00
    trunkline.done("task", "revive", "rte")  # 09:01, the minute in which it was registered
    trunkline("task", "update", task_file("rte", labels="[yes, no]"))  # 09:02
    trunkline.done("task", "retire", "rte", "--reason", "again", "--sunset", "2027-01-01")  # 09:03
    assert said("08:59") == "at 2026-05-01 08:59 UTC there was no task rte yet"
    assert said("09:01") == "at 2026-05-01 09:01 UTC task rte was active, with spec revision 1 and 3 versions"
    assert said("09:02").endswith("was active, with spec revision 2 and 3 versions")
    assert said("09:03").endswith("was retired (again), with spec revision 2 and 3 versions")
    then = trunkline("task", "history", "rte", "--at", "2026-05-01T09:03", "--json").json
    assert (then["task"], then["team"], then["state"], then["spec_revision"]) == ("rte", "nlu", "retired", 2)
    assert then["retirement"] == {"reason": "again", "sunset_on": "2027-01-01", "superseded_by": None}
    assert then["spec"]["labels"] == ["yes", "no"]
    before = trunkline("task", "history", "rte", "--at", "2026-05-01T09:02", "--json").json
    assert (before["state"], before["retirement"], before["spec"]["labels"]) == ("active", None, ["yes", "no"])
    early = trunkline("task", "history", "rte", "--at", "2026-05-01T08:00", "--json").json
    assert (early["state"], early["spec_revision"], early["version_count"], early["aliases"]) == (None, None, 0, {})


def test_a_time_without_an_offset_is_utc_wherever_the_user_is(trunkline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        answer = trunkline("task", "history", "rte", "--at", "2026-05-01T09:00", "--json")
    finally:
        monkeypatch.undo()
        time.tzset()
    assert answer.json["at"] == "2026-05-01T09:00:00+00:00"


def test_an_unknown_task_or_an_impossible_alias_has_no_history(trunkline: Any) -> None:
    assert trunkline("task", "history", "cola").code == 1
    assert trunkline("task", "history", "rte", "--alias", "latest", "--at", "2026-05-01").code == 2


@pytest.mark.parametrize(
    "written",
    [
        "yesterday",
        "2026",
        "20261123",
        "1795410360",
        "2026-11",
        "2026-W48-1",
        "2026-02-30",
        "2026-11-23T25:00",
        "2026-11-23T05",
        "2026-11-23 05:06",
        "0001-01-01T00:00+14:00",
        "２０２６-11-23",
        "",
    ],
)
@pytest.mark.parametrize("command", [("task", "history", "rte"), ("release", "history")])
def test_what_is_no_iso_time_is_a_usage_error_that_names_the_form(
    trunkline: Any, command: tuple[str, ...], written: str
) -> None:
    answer = trunkline(*command, "--at", written)
    assert answer.code == 2
    assert answer.problem.startswith(f"{written!r} is no time: write a date or a date and time, as 2026-11-23, ")


@pytest.mark.parametrize(
    ("written", "understood"),
    [
        ("2026-11-23", "2026-11-23T00:00:00+00:00"),
        ("2026-11-23T05:06", "2026-11-23T05:06:00+00:00"),
        ("2026-11-23T05:06:07+01:00", "2026-11-23T05:06:07+01:00"),
        ("2026-11-23T05:06:07.5Z", "2026-11-23T05:06:07.500000+00:00"),
    ],
)
def test_iso_dates_and_times_are_understood(trunkline: Any, written: str, understood: str) -> None:
    assert trunkline("task", "history", "rte", "--at", written, "--json").json["at"] == understood
