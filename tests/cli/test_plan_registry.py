"""`plan` on the versions of a registry: rte/1..3 are (1, 2) with 50, 60 and 70 points."""

import json
import xml.etree.ElementTree as ElementTree
from datetime import UTC, datetime

import pytest

from registry.database.engine import Database
from registry.domain.locks import parse_lock
from registry.domain.records import NewRelease
from registry.services.releases import register_release


@pytest.fixture
def two_tasks(trunkline, versions, task_file):
    """Also rte/4, a student of 68 points, and cola/1 (1, 2) with 40 points and its student cola/2 with 35."""
    versions("rte", score=0.68, teacher=3)
    trunkline.done("task", "register", task_file("cola"), "--team", "nlu")
    versions("cola", score=0.4)
    versions("cola", score=0.35, teacher=1)


@pytest.fixture
def release(trunkline, two_tasks):
    def register(**tasks):
        database = Database.open(f"sqlite:///{trunkline.home / 'registry.db'}")
        with database.write() as session:
            new = NewRelease(
                manifest=f"{tasks['rte']:064x}", backbone="small", tasks=tasks, trunk_depth=1, layer_count=5, gates={}
            )
            register_release(session, new, actor="ann", at=datetime(2026, 5, 1, tzinfo=UTC))
        database.close()

    return register


@pytest.mark.usefixtures("two_tasks")
def test_every_version_is_chosen_from_with_its_score_in_points(trunkline):
    answer = trunkline("plan", "--min-gain", 3, "--json")
    assert answer.json["selection"] == {
        "cola": {"frozen_depth": 1, "task_layers": 2, "score": 40.0, "version": 1},
        "rte": {"frozen_depth": 1, "task_layers": 1, "score": 68.0, "version": 4},
    }
    assert (answer.json["layer_count"], answer.json["average"]) == (4, 54.0)
    assert answer.json["costs"]["length"] == 128
    assert answer.json["costs"]["weight_bytes"]["fp32"] == 4 * answer.json["costs"]["parameters"]


@pytest.mark.usefixtures("two_tasks")
def test_the_plan_is_written_as_a_lock(trunkline):
    answer = trunkline("plan", "--budget", 4, "--pin", "cola/2", "--lock", "lock.yaml")
    assert "`trunkline release assemble --lock " in answer.err
    lock = parse_lock(json.loads((trunkline.folder / "lock.yaml").read_text()), "lock.yaml")
    assert (lock.backbone, dict(lock.tasks)) == ("small", {"cola": 2, "rte": 3})


@pytest.mark.usefixtures("two_tasks")
def test_an_alias_pins_what_it_names(trunkline):
    trunkline.done("task", "promote", "rte/1", "--alias", "champion")
    assert trunkline("plan", "--budget", 9, "--pin", "rte@champion", "--json").json["selection"]["rte"]["version"] == 1


def test_scores_on_other_dev_data_are_left_out_and_named(trunkline, versions):
    versions("rte", score=0.4, dev_digest="5" * 64)
    answer = trunkline("plan", "--budget", 9, "--json")
    assert answer.json["selection"]["rte"]["version"] == 4
    assert "left out, scored on other dev data than rte/4: rte/1,2,3" in answer.err


@pytest.mark.usefixtures("versions")
def test_tasks_that_no_version_fits_and_retired_ones_are_not_planned(trunkline, task_file):
    for task in ("cola", "sst"):
        trunkline.done("task", "register", task_file(task), "--team", "nlu")
    answer = trunkline("plan", "--budget", 9, "--json")
    assert list(answer.json["selection"]) == ["rte"]
    assert "not in the plan, without a version that fits: cola, sst" in answer.err
    trunkline.done("task", "retire", "rte", "--reason", "nobody asks")
    assert "no active task has a version that fits backbone small" in trunkline("plan", "--budget", 9).problem


def test_what_a_task_more_costs_the_others(trunkline, two_tasks):
    answer = trunkline("plan", "--budget", 4, "--what-if", "+cola", "--json").json
    assert list(answer["before"]["selection"]) == ["rte"]
    assert answer["before"]["selection"]["rte"]["version"] == 3
    assert {task: one["version"] for task, one in answer["after"]["selection"].items()} == {"cola": 1, "rte": 4}
    assert answer["average_of_tasks_in_both"] == {"before": 70.0, "after": 68.0}
    shown = trunkline.done("plan", "--budget", 4, "--what-if", "-cola")
    assert "68 (1, 1), version 4" in shown
    assert "(+2.000)" in shown
    assert "tasks that keep their modules: 0" in shown


def test_the_frontier_marks_todays_release(trunkline, release):
    release(rte=1, cola=2)
    answer = trunkline("plan", "--frontier", "--svg", "frontier.svg", "--json")
    assert [one["layer_count"] for one in answer.json["frontier"]] == [3, 4, 5]
    assert answer.json["today"]["release"] == "r1"
    assert (answer.json["today"]["layer_count"], answer.json["today"]["average"]) == (4, 42.5)
    assert "today's r1" in trunkline.done("plan", "--frontier")
    drawn = ElementTree.parse(trunkline.folder / "frontier.svg")  # noqa: S314
    assert "today's r1" in [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")]


def test_todays_release_is_what_is_live_on_production(trunkline, release):
    release(rte=1, cola=2)
    release(rte=2, cola=2)
    trunkline.done("channel", "create", "production", "--takes", "verified")
    assert trunkline("plan", "--frontier", "--json").json["today"]["release"] == "r2"
    trunkline.done("release", "promote", "r1", "--channel", "production")
    assert trunkline("plan", "--frontier", "--json").json["today"]["release"] == "r1"


def test_a_release_of_other_tasks_is_not_marked_and_that_is_said(trunkline, release):
    release(rte=1)
    answer = trunkline("plan", "--frontier", "--json")
    assert answer.json["today"] is None
    assert "today's r1 is not marked" in answer.err


@pytest.mark.usefixtures("two_tasks")
@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--budget", 9, "--what-if", "cola"), "write +TASK or -TASK"),
        (("--budget", 9, "--what-if", "+sst"), "there is no task sst"),
        (("--budget", 9, "--what-if", "+cola,-cola"), "cannot both come and go"),
        (("--budget", 9, "--what-if", "+cola,+rte"), "no task would be left"),
        (("--budget", 9, "--what-if", "+cola", "--exclude", "cola"), "cola is excluded"),
        (("--budget", 9, "--what-if", "+cola", "--lock", "x"), "--lock: does not go with --what-if"),
        (("--frontier", "--what-if", "+cola", "--lock", "x"), "--what-if, --lock: does not go with --frontier"),
        (("--budget", 9, "--svg", "x.svg"), "draws what --frontier finds"),
        (("--budget", 9, "--length", 129), "reads 128 tokens at most"),
        (("--candidates", "x", "--budget", 9, "--backbone", "small"), "--backbone: does not go with --candidates"),
        (("--budget", 9, "--pin", "cola/9"), "there is no cola/9 among the candidates"),
    ],
)
def test_what_cannot_be_asked_is_refused(trunkline, options, problem):
    answer = trunkline("plan", *options)
    assert (answer.code, problem in answer.problem) == (2, True), answer.problem


def test_backbones_are_chosen_between(trunkline, versions, model_folder):
    trunkline.done("backbone", "pin", "other", model_folder("other", layers=[1, 9, 9]))
    assert "small" in trunkline("plan", "--budget", 9).problem
    found = trunkline("plan", "--budget", 9, "--backbone", "other", "--json").json
    assert found["selection"]["rte"]["version"] == 3


def test_no_registry_is_no_empty_one(trunkline):
    answer = trunkline("--home", trunkline.folder / "nowhere", "plan", "--budget", 9)
    assert answer.code == 1
    assert "there is no registry" in answer.problem
