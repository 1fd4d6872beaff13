from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TaskFile = Callable[..., Path]


@pytest.fixture
def team(trunkline: Any) -> None:
    trunkline.done("team", "create", "nlu")


@pytest.mark.usefixtures("team")
def test_a_task_is_registered_and_shown(trunkline: Any, task_file: TaskFile) -> None:
    file = task_file("rte", input_form="pair", description="'[bold]does it follow?[/bold] :smile:'")
    assert (
        trunkline.done("task", "register", file, "--team", "nlu")
        == "registered task rte of team nlu, spec revision 1; 2 train rows, 2 dev rows\n"
    )
    lines = [line.split(maxsplit=1) for line in trunkline.done("task", "show", "rte").splitlines()]
    fields = {line[0]: line[1].strip() for line in lines if len(line) == 2}
    assert fields["task"] == "rte"
    assert fields["labels"] == "2: entailment, not_entailment"
    assert fields["description"] == "[bold]does it follow?[/bold] :smile:"
    assert fields["aliases"] == "none"
    shown = trunkline("task", "show", "rte", "--json").json
    assert shown["spec"]["input_form"] == "pair"
    assert shown["team"] == "nlu"


@pytest.mark.usefixtures("team")
def test_data_paths_are_taken_from_the_files_own_folder(trunkline: Any, task_file: TaskFile, tmp_path: Path) -> None:
    file = task_file("rte", data="{train: ../tasks/data/rte-train.jsonl, dev: /srv/dev.jsonl}")
    answer = trunkline("task", "register", file.relative_to(tmp_path), "--team", "nlu", "--json")
    assert answer.json["spec"]["data"] == {
        "train": str(tmp_path / "tasks/data/rte-train.jsonl"),
        "dev": "/srv/dev.jsonl",
    }
    assert answer.err == "warning: task rte: there is no dev data file /srv/dev.jsonl on this machine\n"


@pytest.mark.usefixtures("team")
def test_an_update_adds_a_revision_only_when_something_changed(trunkline: Any, task_file: TaskFile) -> None:
    trunkline.done("task", "register", task_file("rte"), "--team", "nlu")
    assert trunkline.done("task", "update", task_file("rte")) == "task rte is unchanged, spec revision 1\n"
    changed = task_file("rte", labels="[yes, no]")
    assert trunkline.done("task", "update", changed) == "updated task rte to spec revision 2: labels changed\n"
    assert trunkline("task", "update", changed, "--json").json["spec"]["labels"] == ["yes", "no"]


@pytest.mark.usefixtures("team")
def test_all_problems_of_a_task_file_are_reported_at_once(trunkline: Any, task_file: TaskFile) -> None:
    file = task_file("rte", metric="pearson", labels="[a]", colour="red")
    answer = trunkline("task", "register", file, "--team", "nlu")
    assert (answer.code, answer.out) == (1, "")
    first, *problems = answer.err.splitlines()
    assert first.startswith(f"error: {file}: ")
    assert {problem.split(":")[0].strip(" -") for problem in problems} == {"metric", "labels", "colour"}


@pytest.mark.usefixtures("team")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("task: rte\nlabels: [a, b\n", "line 3, column 1"),
        ("", "is not a mapping"),
        ("- task: rte\n", "is not a mapping"),
    ],
)
def test_a_file_that_is_no_task_is_one_clear_line(trunkline: Any, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "bad.yaml").write_text(content)
    answer = trunkline("task", "register", "bad.yaml", "--team", "nlu")
    assert answer.code == 1
    assert answer.problem.startswith(f"{tmp_path / 'bad.yaml'}: ")
    assert message in answer.problem
    assert trunkline("task", "list", "--json").json == []


@pytest.mark.usefixtures("team")
def test_registering_twice_points_to_update(trunkline: Any, task_file: TaskFile) -> None:
    trunkline.done("task", "register", task_file("rte"), "--team", "nlu")
    answer = trunkline("task", "register", task_file("rte"), "--team", "nlu")
    assert answer.code == 5
    assert "trunkline task update" in answer.problem


def test_unknown_names_are_errors_that_suggest_near_ones(trunkline: Any, task_file: TaskFile) -> None:
    trunkline.done("team", "create", "nlu")
    trunkline.done("task", "register", task_file("rte"), "--team", "nlu")
    wrong_team = trunkline("task", "register", task_file("cola"), "--team", "nlx")
    wrong_task = trunkline("task", "show", "rtee")
    assert (wrong_team.code, wrong_task.code) == (1, 1)
    assert "did you mean nlu?" in wrong_team.problem
    assert "did you mean rte?" in wrong_task.problem


@pytest.mark.usefixtures("team")
def test_tasks_are_listed_by_team_and_state(trunkline: Any, task_file: TaskFile) -> None:
    trunkline.done("team", "create", "search")
    trunkline.done("task", "register", task_file("rte"), "--team", "nlu")
    trunkline.done("task", "register", task_file("cola"), "--team", "search")
    trunkline.done("task", "retire", "cola", "--reason", "not needed")

    def names(*options: str) -> list[str]:
        return [task["name"] for task in trunkline("task", "list", *options, "--json").json]

    assert names() == ["cola", "rte"]
    assert names("--team", "nlu") == ["rte"]
    assert names("--state", "retired") == ["cola"]
    assert trunkline.done("task", "list", "--team", "search", "--state", "active") == "none of 2 tasks matches\n"
    assert trunkline("task", "list", "--state", "asleep").code == 2


def test_versions_are_listed_with_their_score_and_aliases(trunkline: Any, versions: Callable[..., Any]) -> None:
    versions("rte", teacher=1, score=0.25)
    trunkline.done("task", "promote", "rte/2", "--alias", "champion")
    trunkline.done("task", "promote", "rte/2", "--alias", "candidate")
    header, _, *rows, caption = trunkline.done("task", "versions", "rte").splitlines()
    assert caption == "accuracy: of each version on its dev data, one run"
    assert header.split() == ["version", "kind", "k", "l", "accuracy", "teacher", "aliases", "created", "(UTC)", "by"]
    assert rows[0].split() == ["1", "teacher", "1", "2", "0.5000", "2026-05-01", "09:00", "ann"]
    assert "candidate" in rows[1]
    assert "champion" in "".join(rows[1:3])
    assert rows[-1].split()[:6] == ["4", "student", "1", "1", "0.2500", "1"]
    listed = trunkline("task", "versions", "rte", "--json").json
    assert [version["number"] for version in listed] == [1, 2, 3, 4]


@pytest.mark.usefixtures("team")
def test_tasks_are_found_by_words_in_name_description_and_labels(trunkline: Any, task_file: TaskFile) -> None:
    files = [
        task_file("flight-intent", labels="[book, cancel]", description="What do CALLERS of the airline want?"),
        task_file("flight-slots", type="token_classification", labels="[city]", tag_scheme="bio", metric="entity_f1"),
        task_file("mood", labels="[Ärger, joy]", description="anger in flight reviews"),
    ]
    for file in files:
        trunkline.done("task", "register", file, "--team", "nlu")

    def names(*options: str) -> list[str]:
        return [task["name"] for task in trunkline("task", "list", *options, "--json").json]

    assert names("--search", "flight") == ["flight-intent", "flight-slots", "mood"]
    assert names("--search", "Flight callers") == ["flight-intent"]
    assert names("--search", "ÄRGER") == ["mood"]
    assert names("--search", "city") == names("--type", "token_classification") == ["flight-slots"]
    assert names("--search", "flight", "--type", "classification") == ["flight-intent", "mood"]
    assert names("--search", "accuracy") == [], "what every definition holds is not searched"
    assert names("--search", "flight%") == []
    assert names("--search", "") == names()
    assert trunkline("task", "list", "--type", "guessing").code == 2


@pytest.mark.usefixtures("versions")
def test_tasks_are_found_by_an_alias_that_they_have(trunkline: Any, task_file: TaskFile) -> None:
    trunkline.done("task", "register", task_file("cola"), "--team", "nlu")
    trunkline.done("task", "promote", "rte/2", "--alias", "champion")
    (found,) = trunkline("task", "list", "--alias", "champion", "--json").json
    assert (found["name"], found["aliases"]) == ("rte", {"champion": 2})
    assert trunkline("task", "list", "--alias", "candidate", "--json").json == []
    assert trunkline("task", "list", "--alias", "latest").code == 2


@pytest.mark.usefixtures("team")
def test_an_empty_list_says_whether_there_is_any_task(trunkline: Any, task_file: TaskFile) -> None:
    assert trunkline.done("task", "list", "--search", "zebra").startswith("no task yet; register one: ")
    trunkline.done("task", "register", task_file("rte"), "--team", "nlu")
    assert trunkline.done("task", "list", "--search", "zebra") == "the one task that there is does not match\n"
    for task in ("cola", "sst"):
        trunkline.done("task", "register", task_file(task), "--team", "nlu")
    for options in (("--search", "zebra"), ("--alias", "champ"), ("--type", "regression", "--limit", 1)):
        assert trunkline.done("task", "list", *options) == "none of 3 tasks matches\n"


def test_an_update_names_the_revision_of_each_alias_that_it_outdates(
    trunkline: Any, versions: Callable[..., Any], task_file: TaskFile
) -> None:
    own = trunkline("task", "show", "rte", "--json").json["spec"]["labels"]
    trunkline.done("task", "promote", "rte/1", "--alias", "champion")
    first = trunkline("task", "update", task_file("rte", labels="[yes, no]"))
    assert first.err == (
        "warning: task rte: champion 1 answers as revision 1 defined it; train and promote a version for revision 2\n"
    )
    versions("rte")
    trunkline.done("task", "promote", "rte/4", "--alias", "candidate")
    second = trunkline("task", "update", task_file("rte", labels="[a, b, c]"))
    assert "candidate 4 answers as revision 2, champion 1 answers as revision 1 defined it" in second.err
    back = trunkline("task", "update", task_file("rte", labels=f"[{', '.join(own)}]", description="as before"))
    assert back.err == (
        "warning: task rte: candidate 4 answers as revision 2 defined it; train and promote a version for revision 4\n"
    )
    trunkline.done("task", "promote", "rte/2", "--alias", "candidate")
    assert trunkline("task", "update", task_file("rte", description="as before, once more")).err == ""


@pytest.mark.usefixtures("team")
def test_a_long_list_is_cut_and_says_what_shows_the_rest(trunkline: Any, task_file: TaskFile) -> None:
    for number in range(53):
        trunkline.done("task", "register", task_file(f"task{number:02}"), "--team", "nlu")
    *_, last, rest = trunkline.done("task", "list").splitlines()
    assert last.split()[0] == "task49"
    assert rest == "and 3 more; use --search or --limit"
    assert len(trunkline.done("task", "list", "--limit", 60).splitlines()) == 2 + 53
    assert len(trunkline("task", "list", "--json").json) == 53
    assert [task["name"] for task in trunkline("task", "list", "--limit", 2, "--json").json] == ["task00", "task01"]
    assert trunkline("task", "list", "--limit", 0).code == 2


def test_versions_are_found_by_kind_and_backbone_and_the_best_stand_first(
    trunkline: Any, versions: Callable[..., Any], model_folder: Callable[..., Path]
) -> None:
    versions("rte", teacher=1, score=0.65)  # the fixture's: 0.5, 0.6, 0.7
    trunkline.done("backbone", "pin", "other", model_folder("other", layers=[1, 2, 3], embedding=1))

    def numbers(*options: str) -> list[int]:
        return [version["number"] for version in trunkline("task", "versions", "rte", *options, "--json").json]

    assert numbers("--kind", "student") == [4]
    assert numbers("--kind", "teacher", "--backbone", "small") == [1, 2, 3]
    assert numbers("--backbone", "other") == []
    assert "none of the 4 versions" in trunkline.done("task", "versions", "rte", "--backbone", "other")
    assert trunkline("task", "versions", "rte", "--backbone", "none").code == 1
    assert numbers("--best") == [3, 4, 2, 1]
    assert numbers("--best", "--limit", "2") == [3, 4]
    assert numbers("--limit", "2") == [3, 4], "the newest, in their order"
    assert trunkline.done("task", "versions", "rte", "--limit", 3).splitlines()[-1].startswith("and 1 older")
    assert (
        trunkline.done("task", "versions", "rte", "--best", "--limit", 1).splitlines()[-1] == "and 3 more; use --limit"
    )


def test_versions_measured_on_other_dev_data_are_not_ranked_against_each_other(
    trunkline: Any, versions: Callable[..., Any]
) -> None:
    versions("rte", score=0.1, dev_digest="5" * 64)
    versions("rte", score=0.2, dev_digest="5" * 64)
    best = trunkline("task", "versions", "rte", "--best", "--json").json
    assert [version["number"] for version in best] == [5, 4, 3, 2, 1]
    assert [
        version["number"] for version in trunkline("task", "versions", "rte", "--best", "--limit", 3, "--json").json
    ] == [
        5,
        4,
        3,
    ]
    lines = trunkline.done("task", "versions", "rte", "--best").splitlines()
    assert [line for line in lines if line.startswith("on dev data")] == [
        "on dev data 555555555555:",
        "on dev data 444444444444:",
    ]


def test_another_metric_can_be_shown_and_ranked_by(trunkline: Any, versions: Callable[..., Any]) -> None:
    versions("rte", score=0.1, others={"f1_macro": 0.9})
    assert trunkline("task", "versions", "rte", "--best", "--metric", "f1_macro", "--json").json[0]["number"] == 4
    header, _, *rows, _caption = trunkline.done("task", "versions", "rte", "--metric", "f1_macro").splitlines()
    assert "f1_macro" in header
    assert "0.9000" in rows[-1]
    assert trunkline("task", "versions", "rte", "--metric", "beauty").code == 2


@pytest.mark.usefixtures("team")
def test_a_task_without_versions_says_how_to_train_one(trunkline: Any, task_file: TaskFile) -> None:
    trunkline.done("task", "register", task_file("rte"), "--team", "nlu")
    assert "trunkline train rte" in trunkline.done("task", "versions", "rte")


@pytest.mark.usefixtures("versions")
def test_a_retired_task_refuses_promotion_until_it_is_revived(trunkline: Any, task_file: TaskFile) -> None:
    trunkline.done("task", "register", task_file("nli"), "--team", "nlu")
    retire = ("task", "retire", "rte", "--reason", "nli is better", "--sunset", "2026-12-31", "--superseded-by", "nli")
    assert trunkline.done(*retire) == "retired task rte\n"
    shown = trunkline.done("task", "show", "rte")
    for part in ("retired", "nli is better", "2026-12-31", "superseded by  nli"):
        assert part in shown
    assert trunkline(*retire).code == 4
    refused = trunkline("task", "promote", "rte/1", "--alias", "champion")
    assert refused.code == 4
    assert "trunkline task revive rte" in refused.problem
    revived = trunkline("task", "revive", "rte", "--json").json
    assert (revived["state"], revived["retirement"]) == ("active", None)
    assert trunkline("task", "revive", "rte").code == 4
    trunkline.done("task", "promote", "rte/1", "--alias", "champion")


@pytest.mark.usefixtures("versions")
@pytest.mark.parametrize(
    "options",
    [
        ("--reason", "  "),
        ("--reason", "x", "--superseded-by", "A/b"),
        ("--reason", "x", "--sunset", "2026-13-01"),
        ("--reason", "x", "--sunset", "soon"),
        ("--reason", "x", "--sunset", "1798675200"),
        (),
    ],
)
def test_a_retirement_that_makes_no_sense_is_a_usage_error(trunkline: Any, options: tuple[str, ...]) -> None:
    answer = trunkline("task", "retire", "rte", *options)
    assert answer.code == 2
    assert answer.problem
    assert trunkline("task", "show", "rte", "--json").json["state"] == "active"


@pytest.mark.usefixtures("team")
def test_many_labels_are_cut_and_said_to_be(trunkline: Any, task_file: TaskFile) -> None:
    labels = ", ".join(f"intent{number}" for number in range(150))
    trunkline.done("task", "register", task_file("intents", labels=f"[{labels}]"), "--team", "nlu")
    shown = " ".join(trunkline.done("task", "show", "intents").split())
    assert "150: intent0, intent1," in shown
    assert "and 130 more (--json shows all)" in shown
