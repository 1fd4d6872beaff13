"""`plan` on files of candidates; what it chooses is tested in tests/pipelines/test_planning.py."""

import json

import pytest

from tests.pipelines.test_planning import PAPER, paper_candidates


@pytest.fixture
def candidates(trunkline):
    """Writes a file of candidates, those of the paper's table 5 by default; returns its name."""

    def write(**changes):
        tasks = {task: [_fields(one) for one in paper_candidates(task)] for task in PAPER}
        content = {"backbone_layers": 12, "tasks": tasks} | changes
        (trunkline.folder / "candidates.json").write_text(json.dumps(content))
        return "candidates.json"

    return write


def _fields(candidate):
    return {name: value for name, value in candidate._asdict().items() if value is not None}


def test_the_papers_mixed_row_without_any_registry(trunkline, candidates):
    home = "--home", trunkline.folder / "nowhere"
    answer = json.loads(trunkline.done(*home, "plan", "--candidates", candidates(), "--min-gain", 1, "--json"))
    assert answer["selection"]["rte"] == {"frozen_depth": 7, "task_layers": 5, "score": 71.5}
    assert {name: value for name, value in answer.items() if name != "selection"} == {
        "trunk_layers": 7,
        "task_layers": 26,
        "layer_count": 33,
        "average": 82.475,
    }
    assert not home[1].exists()


def test_a_budget_is_kept_and_beats_the_mixed_rule_at_its_own_layer_count(trunkline, candidates):
    best = json.loads(trunkline.done("plan", "--candidates", candidates(), "--budget", 20, "--json"))
    assert best["layer_count"] <= 20
    assert best["average"] >= 80.4375
    shown = trunkline.done("plan", "--candidates", candidates(), "--budget", 20)
    assert f"{best['average']:.3f}" in shown
    assert "of the trunk and" in shown


def test_the_frontier_rises_with_the_layers(trunkline, candidates):
    plans = json.loads(trunkline.done("plan", "--candidates", candidates(), "--frontier", "--json"))["frontier"]
    assert [one["layer_count"] for one in plans] == sorted({one["layer_count"] for one in plans})
    assert [one["average"] for one in plans] == sorted(one["average"] for one in plans)
    assert "gained" in trunkline.done("plan", "--candidates", candidates(), "--frontier")


def test_options_narrow_what_is_chosen_from(trunkline, candidates):
    tasks = {
        "rte": [
            {"frozen_depth": 4, "task_layers": 1, "score": 60.0, "version": 1},
            {"frozen_depth": 4, "task_layers": 2, "score": 70.0, "version": 2},
        ],
        "cola": [{"frozen_depth": 9, "task_layers": 1, "score": 40.0}],
    }
    file = candidates(tasks=tasks)
    wanted = ("plan", "--candidates", file, "--budget", 10, "--json")
    pinned = json.loads(trunkline.done(*wanted, "--pin", "rte/1", "--exclude", "cola", "--weights", "rte=2"))
    assert pinned["selection"] == {"rte": tasks["rte"][0]}
    floored = trunkline(*wanted, "--floor", "rte=70")
    assert (floored.code, floored.problem) == (
        1,
        "no plan of 10 layers: the smallest selection of one module a task has 12",
    )


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ((), "give one of --min-gain, --budget and --frontier"),
        (("--budget", 9, "--frontier"), "give one of"),
        (("--min-gain", 1, "--weights", "rte=2"), "weights go with --budget"),
        (("--budget", 9, "--weights", "rte=0"), "must be above 0"),
        (("--budget", 9, "--weights", "sst=1"), "there is no task sst"),
        (("--budget", 9, "--weights", "rte"), "write TASK=NUMBER"),
        (("--budget", 9, "--floor", "rte=nan"), "is no number that can be compared"),
        (("--budget", 9, "--pin", "rte@champion"), "name a version, as in rte/3"),
        (("--budget", 9, "--exclude", "sst"), "there is no task sst"),
        (("--budget", 9, "--exclude", "rte", "--floor", "rte=1"), "task rte is excluded"),
        (("--budget", 9, "--floor", "rte=1,rte=2"), "names rte twice"),
        (("--budget", 9, "--pin", "rte/1,rte/2"), "names rte twice"),
        (("--min-gain", "inf"), "is no number of points"),
    ],
)
def test_what_cannot_be_asked_is_refused(trunkline, candidates, options, problem):
    answer = trunkline("plan", "--candidates", candidates(), *options)
    assert answer.code == 2
    assert problem in answer.problem


def test_a_file_is_refused_with_all_its_problems(trunkline, candidates):
    one = {"frozen_depth": 9, "task_layers": 4, "score": 1.0}
    misfit = trunkline("plan", "--candidates", candidates(tasks={"rte": [one, one], "sst": []}), "--budget", 9)
    assert misfit.code == 1
    for problem in (
        "tasks.rte.0: 9 frozen and 4 task layers are more",
        "tasks.rte.1: 9",
        "tasks.sst: has no candidate",
    ):
        assert problem in misfit.err
    wrong = trunkline("plan", "--candidates", candidates(tasks={"rte": [{"score": "x"}]}, more=1), "--budget", 9)
    for problem in ("frozen_depth: is missing", "more: is no known field", "score"):
        assert problem in wrong.err
    assert "cannot be read" in trunkline("plan", "--candidates", "nowhere.json", "--budget", 9).problem
