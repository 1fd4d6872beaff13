"""Tasks brought to another backbone, with real modules: /1 is a teacher (k 1, l 3), /2 its student (k 2, l 1)."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from cli.migration_tables import Estimate, PlannedTask, plan_document, print_plan
from registry.domain.migration import Outcome, TaskMigration
from registry.fault_points import arm

MODEL = "model.safetensors"


@pytest.fixture
def upper(trained: Any, pinned: Any, tmp_path: Path) -> str:
    """A pinned backbone that is `small` up to layer 1."""
    folder = tmp_path / "upper"
    folder.mkdir()
    source = Path(pinned.backbone.source)
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(source / name, folder)
    weights = load_file(source / MODEL)
    changed = [name for name in weights if name.startswith("encoder.layer.1.") and name.endswith("dense.weight")]
    assert changed
    save_file({name: 0.9 * one if name in changed else one for name, one in weights.items()}, folder / MODEL)
    trained.done("backbone", "pin", "upper", folder)
    return "upper"


@pytest.fixture
def deeper(trained: Any, pin_model: Any) -> str:
    """A pinned backbone of five layers that shares nothing with `small`."""
    trained.done("backbone", "pin", "deeper", pin_model(seed=1, num_hidden_layers=5).backbone.source)
    return "deeper"


@pytest.fixture
def reached() -> Iterator[Callable[..., list[str]]]:
    """Lists the places that are reached; `interrupt_at` a place and its occurrence presses Ctrl-C there."""

    def listed(interrupt_at: tuple[str, int] | None = None) -> list[str]:
        places: list[str] = []

        def on_reached(place: str) -> None:
            places.append(place)
            if interrupt_at == (place, places.count(place)):
                raise KeyboardInterrupt

        arm(on_reached)
        return places

    yield listed
    arm(None)


def by_task(document: Any) -> dict[str, Any]:
    return {one["task"]: one for one in document["tasks"]}


def versions_of(trunkline: Any, task: str) -> dict[int, Any]:
    return {one["number"]: one for one in trunkline("task", "versions", task, "--json").json}


def test_a_plan_tells_what_stays_what_is_trained_again_and_what_it_costs(trained: Any, upper: str) -> None:
    trained.promote("token/1")
    answer = trained("backbone", "migrate", "small", upper, "--plan", "--json")
    assert answer.code == 0, answer.err
    found = by_task(answer.json)
    assert {task: (one["outcome"], one["version"]) for task, one in found.items()} == {
        "classification": ("train again", 2),
        "regression": ("train again", 2),
        "token": ("valid", 1),
    }
    (step,) = found["classification"]["steps"]
    assert (step["repeats"], step["teacher"], step["frozen_depth"], step["task_layers"]) == (2, 1, 2, 1)
    assert found["classification"]["estimate"]["old_seconds"] == [None], "nothing kept how long `distil` took"
    assert found["token"]["estimate"] is None
    total = sum(one["estimate"]["layer_passes"] for one in found.values() if one["estimate"])
    assert answer.json["total"] == {
        "trials": 2,
        "layer_passes": total,
        "old_seconds": 0,
        "trials_with_seconds": 0,
    }
    assert len(versions_of(trained, "classification")) == 2
    shown = trained.done("backbone", "migrate", "small", upper, "--plan")
    assert "student of /1, k 2, l 1, as /2" in shown
    assert "small and upper have the same P(1)" in shown
    assert "tasks: 1 valid, 2 to train again\n" in shown
    assert f"to run: 2 trials, {total:,.0f} layer passes" in shown
    assert "estimated from the old runs" not in shown


def test_what_does_not_stay_is_trained_again_and_makes_a_release_there(trained: Any, upper: str) -> None:
    trained.promote("token/1")
    answer = trained("backbone", "migrate", "small", upper, "--json")
    assert answer.code == 0, answer.err
    found = by_task(answer.json)
    assert {task: one["made"] for task, one in found.items()} == {"classification": [3], "regression": [3], "token": []}
    for task, metric in (("classification", "accuracy"), ("regression", "pearson")):
        was, now = versions_of(trained, task)[2], versions_of(trained, task)[3]
        assert (now["backbone"], now["kind"], now["teacher"]) == (upper, "student", 1)
        assert [now[name] for name in ("frozen_depth", "recipe", "seed")] == [
            was[name] for name in ("frozen_depth", "recipe", "seed")
        ]
        made = found[task]["replacement"]
        assert (made["number"], made["score"], made["new_score"]) == (3, was["metrics"][metric], now["metrics"][metric])
        assert made["gain"] == pytest.approx(made["new_score"] - made["score"])
    assert answer.json["run"] == [
        "trunkline task promote classification/3 --alias champion",
        "trunkline task promote regression/3 --alias champion",
    ]
    assert trained("task", "show", "classification", "--json").json["aliases"] == {"champion": 2}
    for command in answer.json["run"]:
        promoted = trained(*command.split()[1:])
        assert promoted.code == 0, promoted.err
    release = trained("release", "assemble", "--select", "champion", "--backbone", upper, "--json")
    assert release.code == 0, release.err
    assert release.json["release"]["tasks"] == {"classification": 3, "regression": 3, "token": 1}
    left = by_task(trained("backbone", "migrate", "small", upper, "--plan", "--json").json)["classification"]
    assert left["outcome"] == "left out"
    assert left["reason"] == "small does not carry it: it was trained on upper, and upper carries it"


def test_an_interrupted_run_goes_on_and_trains_nothing_twice(trained: Any, deeper: str, reached: Any) -> None:
    command = ("backbone", "migrate", "small", deeper, "--task", "classification")
    places = reached(interrupt_at=("train.optimised", 2))
    assert trained(*command).code == 130
    of_student = places[places.index("train.committed") :]
    assert of_student.count("cache.rows-written") == 1, "what its teacher says; the trunk ran once, for both"
    assert sorted(versions_of(trained, "classification")) == [1, 2, 3], "the teacher was registered"
    (planned,) = trained(*command, "--plan", "--json").json["tasks"]
    assert planned["estimate"]["registered"] == [3]
    assert "(there already: /3)" in trained.done(*command, "--plan")

    places = reached()
    answer = trained(*command)
    assert answer.code == 0, answer.err
    assert places.count("train.committed") == 1
    found = versions_of(trained, "classification")
    assert {number: (one["kind"], one["frozen_depth"], one["task_layers"]) for number, one in found.items()} == {
        1: ("teacher", 1, 3),
        2: ("student", 2, 1),
        3: ("teacher", 2, 3),
        4: ("student", 3, 1),
    }
    assert (found[4]["teacher"], found[4]["backbone"]) == (3, deeper)
    assert "trunkline task promote classification/4 --alias champion" in answer.out

    places = reached()
    assert trained(*command, "--json").json["tasks"][0]["made"] == [3, 4]
    assert not {"train.optimised", "train.committed"} & set(places)
    (planned,) = trained(*command, "--plan", "--json").json["tasks"]
    assert planned["estimate"]["registered"] == [3, 4]
    assert planned["estimate"]["layer_passes"] == 0


def test_a_task_whose_data_cannot_be_read_does_not_stop_the_others(trained: Any, upper: str) -> None:
    data = {task: trained("task", "show", task, "--json").json["spec"]["data"] for task in ("classification", "token")}
    train, dev = Path(data["classification"]["train"]), Path(data["token"]["dev"])
    kept = {path: path.read_bytes() for path in (train, dev)}
    chosen = ("--task", "classification", "--task", "token")
    try:
        train.write_text("no row\n")
        dev.write_bytes(b"".join(kept[dev].splitlines(keepends=True)[:-1]))
        planned = trained("backbone", "migrate", "small", upper, *chosen, "--plan")
        assert planned.code == 0
        assert "not counted: 1 whose cost is not known" in planned.out
        answer = trained("backbone", "migrate", "small", upper, *chosen, "--json")
        shown = trained("backbone", "migrate", "small", upper, *chosen)
    finally:
        for path, content in kept.items():
            path.write_bytes(content)
    assert (answer.code, shown.code) == (1, 1)
    found = by_task(answer.json)
    assert f"train data {train}" in found["classification"]["problem"]
    assert found["token"]["problem"] is None
    assert (found["token"]["replacement"]["not_compared"], found["token"]["replacement"]["gain"]) == (
        "other dev data",
        None,
    )
    assert answer.json["run"] == ["trunkline task promote token/3 --alias champion"]
    assert "failed" in shown.out
    assert "other dev data" in shown.out


def test_arguments_that_are_wrong_are_told_at_once(trunkline: Any, versions: Any) -> None:
    assert trunkline("backbone", "migrate", "small", "small").code == 2
    assert "OLD and NEW are both small" in trunkline("backbone", "migrate", "small", "small").problem
    trunkline.done("task", "retire", "rte", "--reason", "nobody asks")
    answer = trunkline("backbone", "migrate", "small", "large", "--task", "rte", "--task", "cola", "--alias", "latest")
    assert answer.code == 1
    for said in ("no backbone", "alias: 'latest' cannot be", "task rte is retired", "no task"):
        assert said in answer.err, said
    assert trunkline("backbone", "migrate", "small", "large").problem.startswith("there is no backbone")


def test_a_task_without_the_alias_is_named(trained: Any, upper: str) -> None:
    shown = trained("backbone", "migrate", "small", upper, "--alias", "shadow")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.count("no shadow") == 3
    assert "promote" not in shown.out


def test_seconds_are_told_of_the_trials_whose_time_was_kept(capsys: pytest.CaptureFixture[str]) -> None:
    def planned(task: str, *old_seconds: float | None) -> PlannedTask:
        estimate = Estimate(100, 10, registered=(), layer_passes=1000.0, old_seconds=old_seconds)
        return PlannedTask(TaskMigration(task=task, version=2, outcome=Outcome.RETRAIN, reason=""), estimate, "")

    both = [planned("cola", 1200.0, 300.4), planned("rte", None)]
    print_plan(both)
    shown = capsys.readouterr().out
    assert "1,500 s\n" in shown
    assert "estimated from the old runs: 1,500 s (2 of 3 recorded)" in shown
    total = plan_document("old", "new", "champion", both)["total"]
    assert total == {"trials": 3, "layer_passes": 2000.0, "old_seconds": 1500.4, "trials_with_seconds": 2}
