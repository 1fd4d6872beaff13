"""`release update` and `release try` on real modules: classification, regression and token, each a teacher /1 and a
student /2."""

from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import RUN, assembled

ON = ("--channel", "production")


@pytest.fixture
def live(trained: Any) -> Any:
    """r1, the students, is live on production."""
    assembled(trained)
    trained.done("channel", "create", "production", "--takes", "verified")
    trained.done("release", "promote", "r1", *ON)
    return trained


def findings(document: Any) -> dict[tuple[str, str | None], dict[str, Any]]:
    return {(one["gate"], one["task"]): one for one in document["findings"]}


def test_one_task_is_changed_and_every_other_one_proved_untouched(live: Any) -> None:
    answer = live("release", "update", *ON, "--task", "classification/1", "--tolerance", 100, "--json")
    assert answer.code == 0, answer.err
    assert answer.json["live"] == "r1"
    release = answer.json["release"]
    assert (release["name"], release["state"]) == ("r2", "verified")
    assert release["tasks"] == {"classification": 1, "regression": 2, "token": 2}
    found = findings(answer.json)
    assert set(found) == {
        ("integrity", None),
        ("accounting", None),
        *(("parity", task) for task in release["tasks"]),
        ("contract", "classification"),
        ("regression", "classification"),
        ("budget", None),
        ("non-interference", "regression"),
        ("non-interference", "token"),
    }
    assert all(one["passed"] for one in found.values())
    assert found["non-interference", "token"]["values"]["texts"] == 16
    assert release["gates"]["findings"] == answer.json["findings"]
    assert live("channel", "list", "--json").json[0]["release"] == "r1", "nothing is promoted"


def test_what_to_do_next_is_told_as_the_channel_asks(live: Any) -> None:
    wanted = ("--task", "classification/1", "--tolerance", 100)
    shown = live("release", "update", *ON, *wanted).out
    assert "approve" not in shown
    assert shown.endswith("live with: trunkline release promote r2 --channel production --expect r1\n")
    live.done("release", "approve", "r1")
    live.done("channel", "create", "strict")
    live.done("release", "promote", "r1", "--channel", "strict")
    strict = live("release", "update", "--channel", "strict", *wanted).out
    assert "first: trunkline release approve r2\n" in strict
    live.done("release", "approve", "r2", "--reason", "tried")
    again = live("release", "approve", "r2", "--reason", "tried once more")
    assert (again.code, "this reason is not kept" in again.err) == (0, True)


def test_the_order_of_changes_does_not_matter(live: Any) -> None:
    """Two teams change one task each, from what is live at the time: both orders end at the same manifest."""

    def change(task: str, tolerance: str) -> str:
        release = live("release", "update", *ON, "--task", task, "--tolerance", tolerance, "--json").json["release"]
        live.done("release", "promote", release["name"], *ON)
        return release["manifest"]

    change("classification/1", "100")
    first = change("token/1", "100")
    live.done("release", "promote", "r1", *ON)
    change("token/1", "100")
    assert change("classification/1", "100") == first


def test_trying_finds_the_same_and_makes_nothing(live: Any) -> None:
    before = live("audit", "list", "--json").json
    blobs = sorted((live.home / "artifacts").rglob("*"))
    tried = live("release", "try", *ON, "--task", "classification/1", "--tolerance", 100, "--json").json
    assert live("audit", "list", "--json").json == before
    assert sorted((live.home / "artifacts").rglob("*")) == blobs
    made = live("release", "update", *ON, "--task", "classification/1", "--tolerance", 100, "--json").json
    assert tried["findings"] == made["findings"]
    shown = live.done("release", "try", *ON, "--task", "classification/1", "--tolerance", 100)
    assert "16 answers in mixed batches are the same bit for bit" in " ".join(shown.split())


def test_tasks_come_and_go(live: Any) -> None:
    smaller = live("release", "update", *ON, "--remove", "token", "--json").json
    assert sorted(smaller["release"]["tasks"]) == ["classification", "regression"]
    assert ("non-interference", "classification") in findings(smaller)
    live.done("release", "promote", "r2", *ON)
    back = live("release", "update", *ON, "--add", "token@champion", "--json").json
    assert (back["release"]["name"], back["release"]["tasks"]["token"]) == ("r1", 2)


def test_what_fails_is_told_kept_and_ends_with_code_3(live: Any) -> None:
    wanted = ("release", "update", *ON, "--task", "token/1", "--max-layers", 5, "--max-parameters", 10)
    failed = live(*wanted)
    assert failed.code == 3
    assert "findings failed: budget, budget" in failed.err
    assert "more than 5" in failed.out
    kept = live("release", "show", "r2", "--json").json["release"]
    assert (kept["state"], kept["gates"]["passed"]) == ("draft", False)
    shown = live.done("release", "show", "r2")
    assert "2 FAILED the last time" in shown
    assert "\n  budget: 7 layers (+2): more than 5\n" in shown
    assert live("release", "promote", "r2", *ON).code == 4
    again = live("release", "verify", "r2")
    assert (again.code, "r2 failed its gates the last time" in again.err) == (4, True), "what was found stands"
    assert live("release", "assemble", "--task", "token/1", "--task", "classification/2", "--task", "regression/2",
                "--json").json["release"]["state"] == "draft"  # fmt: skip
    assert live("release", "approve", "r2").code == 4
    assert live("release", "update", *ON, "--task", "token/1", "--tolerance", 100).code == 0
    assert live("release", "promote", "r2", *ON).code == 0
    live.done("release", "promote", "r1", *ON)
    assert live(*wanted, "--json").json["passed"] is False


def test_another_contract_is_refused_unless_it_is_accepted(live: Any) -> None:
    spec = live("task", "show", "classification", "--json").json["spec"]
    labels = ", ".join(reversed(spec["labels"]))
    path = live.folder / "classification.yaml"
    path.write_text(
        f"task: classification\ntype: classification\nlabels: [{labels}]\nmetric: {spec['metric']}\n"
        f"data: {{train: {spec['data']['train']}, dev: {spec['data']['dev']}}}\n"
    )
    assert live("task", "update", path).code == 0
    assert live("train", "classification", "--layers", 1, "--epochs", 1, "--precision", "fp32").code == 0
    wanted = ("release", "try", *ON, "--task", "classification/3", "--tolerance", 100, "--json")
    refused = live(*wanted)
    assert refused.code == 3
    assert findings(refused.json)["contract", "classification"]["words"] == "labels reordered"
    unsaid = live(*wanted, "--accept-contract", "classification")
    assert (unsaid.code, "say why" in unsaid.err) == (2, True)
    accepted = findings(live(*wanted, "--accept-contract", "classification=its readers know").json)
    assert accepted["contract", "classification"]["words"] == "labels reordered (accepted: its readers know)"


def test_versions_scored_on_other_dev_data_are_evaluated_anew_when_the_data_are_at_hand(live: Any) -> None:
    spec = live("task", "show", "classification", "--json").json["spec"]
    first_rows = Path(spec["data"]["dev"]).read_text(encoding="utf-8")
    dev = live.folder / "dev.jsonl"
    more_rows = first_rows + "".join(first_rows.splitlines(keepends=True)[:5])
    dev.write_text(more_rows, encoding="utf-8")
    path = live.folder / "classification.yaml"
    path.write_text(
        f"task: classification\ntype: classification\nlabels: [{', '.join(spec['labels'])}]\n"
        f"metric: {spec['metric']}\ndata: {{train: {spec['data']['train']}, dev: {dev}}}\n"
    )
    assert live("task", "update", path).code == 0
    assert live("train", "classification", "--layers", 3, "--seed", 1, *RUN).code == 0
    assert live("distil", "classification/1", "--layers", 1, "--seed", 1, *RUN).code == 0

    def regression(version: int) -> dict[str, Any]:
        tried = live("release", "try", *ON, "--task", f"classification/{version}", "--tolerance", 100, "--json")
        return findings(tried.json)["regression", "classification"]

    def score(version: int) -> float:
        return 100 * live("version", "show", f"classification/{version}", "--json").json["metrics"][spec["metric"]]

    of_new_rows = regression(3)
    assert of_new_rows["words"].endswith("; classification/2 evaluated anew")
    assert of_new_rows["values"]["new"] == pytest.approx(score(3))
    student = findings(live("release", "try", *ON, "--task", "classification/4", "--tolerance", 100, "--json").json)
    assert student["retention", "classification"]["words"].endswith("; classification/1 evaluated anew")
    dev.write_text(first_rows, encoding="utf-8")
    of_teachers_rows = findings(
        live("release", "try", *ON, "--task", "classification/4", "--tolerance", 100, "--json").json
    )
    assert of_teachers_rows["retention", "classification"]["words"].endswith("; classification/4 evaluated anew")
    of_old_rows = regression(3)
    assert of_old_rows["words"].endswith("; classification/3 evaluated anew")
    assert of_old_rows["values"]["old"] == pytest.approx(score(2))
    dev.write_text("".join(first_rows.splitlines(keepends=True)[:-1]), encoding="utf-8")
    refused = regression(3)
    assert not refused["passed"]
    assert f"{dev} holds neither" in refused["words"]
    dev.unlink()
    assert not regression(3)["passed"]


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ((), 2, "say what to change"),
        (("--task", "classification/2"), 2, "holds exactly this already"),
        (("--task", "classification/9"), 1, "there is no version classification/9"),
        (("--add", "token/1"), 2, "r1 holds token/2; --task changes it"),
        (("--remove", "nothing"), 2, "r1 does not hold it"),
        (("--task", "token/1", "--remove", "token"), 2, "token is named twice"),
        (("--remove", "token", "--remove", "classification", "--remove", "regression"), 2, "no task would be left"),
        (("--task", "token/1", "--tolerance", "-1"), 2, "must be a number from 0 up"),
        (("--task", "token/1", "--tolerance", "tokn=1"), 2, "--tolerance: tokn is not changed"),
        (("--task", "token/1", "--accept-contract", "regression=agreed"), 2, "regression is not changed"),
        (("--task", "token/1", "--accept-contract", "token="), 2, "say why"),
        (("--task", "token/1", "--least-retention", "1.5"), 2, "is a share, from 0 to 1"),
        (("--task", "token/1", "--tolerance", "token=x"), 2, "write TASK=NUMBER"),
    ],
)
def test_what_cannot_be_changed_is_refused(live: Any, options: tuple[str, ...], code: int, said: str) -> None:
    answer = live("release", "try", *ON, *options)
    assert (answer.code, said in answer.problem) == (code, True), answer.problem


def test_nothing_live_is_nothing_to_change(trained: Any) -> None:
    trained.done("channel", "create", "production")
    answer = trained("release", "update", *ON, "--task", "token/1")
    assert (answer.code, "nothing is live on channel production" in answer.problem) == (1, True)


def test_a_task_with_a_sunset_to_come_may_stay_and_that_is_said(live: Any) -> None:
    retired = live("task", "retire", "regression", "--reason", "nobody asks", "--sunset", "2026-12-31", "--json")
    assert retired.json["uses"] == {"releases": ["r1"], "channels": {"production": "r1"}}
    tried = live("release", "try", *ON, "--task", "token/1", "--tolerance", 100)
    assert (tried.code, "from 2026-12-31 on no release can hold it" in tried.err) == (0, True)


def test_who_still_uses_a_retired_task_is_told(live: Any) -> None:
    shown = live.done("task", "retire", "token", "--reason", "nobody asks")
    assert "still in r1" in shown
    assert "live on production in r1: `trunkline release update --channel production --remove token`" in shown


def test_a_retired_task_is_named(live: Any) -> None:
    live.done("task", "retire", "regression", "--reason", "nobody asks")
    answer = live("release", "update", *ON, "--task", "token/1")
    assert (answer.code, "regression" in answer.problem) == (4, True)
