"""`search` as a user runs it, on a tiny encoder with real processes; and what it does when something comes between."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import yaml
from sqlalchemy import select

from cli.number_lists import positive_numbers, whole_numbers
from cli.search_options import default_students
from cli.searches import worth_promoting
from modeling import precision
from pipelines.execution import local_processes
from pipelines.execution.local_processes import LocalProcesses
from registry.database.engine import Database
from registry.database.schema import TrialRow
from registry.domain.searches import LedgerTrial, SearchChoice, TrialShape, TrialState
from registry.errors import UsageError
from tests.cli.conftest import Trunkline

SMALL = (
    *("--layers", "2-4", "--seeds", "2", "--students", "1", "--epochs", "3", "--student-epochs", "2"),
    *("--lr", "0.003", "--precision", "fp32", "--workers", "1"),
)


SHAPE = TrialShape(frozen_depth=2, task_layers=2, learning_rate=1e-4, seed=0, teacher=None, initialisation=None)


@pytest.fixture
def ready(trunkline, pinned, labelled):
    """A home with the task `topic` on the pinned backbone `small` of four layers."""
    trunkline.done("backbone", "pin", "small", pinned.backbone.source)
    trunkline.done("team", "create", "nlu")
    register(trunkline, labelled, "classification", "topic")
    return trunkline


@pytest.fixture
def ready_beside(ready, tmp_path_factory, capsys):
    """Another home with the same."""
    beside = Trunkline(tmp_path_factory.mktemp("beside"), capsys.readouterr)
    shutil.copytree(ready.home, beside.home)
    return beside


@pytest.fixture(scope="module")
def searches_run_whole() -> list[Any]:
    return []


@pytest.fixture
def run_whole(ready_beside, searches_run_whole):
    """A search that nobody cut off. It ends alike in every home, so it is run once."""
    if not searches_run_whole:
        searches_run_whole.append(searched(ready_beside))
    return searches_run_whole[0]


def register(trunkline, labelled, kind: str, task: str) -> Path:
    content = labelled(kind).fields | {"task": task, "data": labelled(kind).write(trunkline.folder)}
    path = trunkline.folder / f"{task}.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    trunkline.done("task", "register", path, "--team", "nlu")
    return path


def searched(trunkline, *arguments: str) -> Any:
    answer = trunkline("search", "topic", *SMALL, *arguments, "--json")
    assert answer.code == 0, answer.err
    return answer.json


def test_a_search_from_beginning_to_end(ready):
    answer = ready("search", "topic", *SMALL, "--json")
    assert answer.code == 0, answer.err
    assert "frozen activations of 4 depths will take up to" in answer.err
    found = answer.json
    assert found["state"] == "finished"
    by_version = {trial["version"]: trial for trial in found["trials"] if trial["version"]}
    versions = {version["number"]: version for version in json.loads(ready.done("task", "versions", "topic", "--json"))}
    assert by_version.keys() == versions.keys()
    for number, version in versions.items():
        trial = by_version[number]
        assert version["trial_key"] == trial["key"]
        assert version["metrics"]["accuracy"] == trial["score"]
        assert version["mlflow_run"]
    teacher = versions[found["choice"]["teacher"]]
    assert (teacher["kind"], teacher["task_layers"]) == ("teacher", found["choice"]["layers"])
    student = versions[found["choice"]["students"]["1"]]
    assert (student["kind"], student["teacher"], student["task_layers"]) == ("student", teacher["number"], 1)
    depths = {trial["shape"]["frozen_depth"] for trial in found["trials"] if trial["shape"]["teacher"]}
    assert len(depths) > 1, "students were tried at one depth only"
    assert {trial["state"] for trial in found["trials"]} == {"paused", "finished"}

    # MLflow: one run above, one a trial, whether it was stopped early or not.
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{ready.home / 'mlflow.db'}")
    parent = client.get_run(found["mlflow_run"])
    assert parent.data.tags["trunkline.teacher"] == f"topic/{found['choice']['teacher']}"
    figures = parent.data.metrics
    assert figures["chosen_dev_accuracy_runs"] >= 1
    assert figures["chosen_dev_accuracy_mean"] <= figures["chosen_dev_accuracy_max"] == figures["teacher_dev_accuracy"]
    children = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{found['mlflow_run']}'", max_results=1000
    )
    assert len(children) == len(found["trials"])
    assert {child.info.status for child in children} == {"FINISHED", "KILLED"}
    for child in children:
        trial = next(one for one in found["trials"] if one["key"] == child.data.tags["trunkline.trial"])
        curve = {one.step: one.value for one in client.get_metric_history(child.info.run_id, "dev_accuracy")}
        assert curve == {int(epoch): value for epoch, value in trial["curve"].items()}

    # Nothing is left of trials but their versions, and nothing of what the workers were told.
    assert not [path for path in (ready.home / "trials").iterdir() if path.suffix != ".lock"]
    assert not list((ready.home / "searches").iterdir())

    # The same search again is answered from the ledger, and gives nothing that failed to nobody to run.
    with Database.open(f"sqlite:///{ready.home / 'registry.db'}").write() as session:
        paused = session.scalars(select(TrialRow).where(TrialRow.state == TrialState.PAUSED)).first()
        assert paused is not None
        paused.state, paused.attempts, paused.error = TrialState.FAILED, 3, "killed"
    found = json.loads(ready.done("search", "show", "topic", "--json"))
    again = ready("search", "topic", *SMALL, "--json")
    assert again.json == found
    assert "was searched before" in again.err

    # What `train` would run was run: it gives the version that there is.
    train = ("train", "topic", "--layers", teacher["task_layers"], *("--epochs", 3, "--lr", 0.003), "--json")
    trained = ready(*train, "--precision", "fp32", "--seed", teacher["seed"])
    assert trained.json["number"] == teacher["number"]

    # One that it would not have run says what it takes on the disk: nothing, after the search.
    another = ready(*train, "--precision", "fp32", "--seed", 99)
    assert another.code == 0
    assert "frozen activations of 1 depth are there already" in another.err
    taught = ready("distil", f"topic/{teacher['number']}", "--layers", 1, "--depth", 3, "--epochs", 1, "--seed", 99)
    assert taught.code == 0
    assert "frozen activations of 2 depths" in taught.err

    shown = ready("search", "show", "topic", "--svg", "figure.svg")
    assert shown.code == 0
    assert "chosen" in shown.out
    ET.parse(ready.folder / "figure.svg")  # noqa: S314 - our own file
    assert ready("search", "show", "topic", "--json").json == found
    assert f"topic/{teacher['number']}" in ready.done("search", "list")
    assert ready.done("search", "list", "topic") == ready.done("search", "list")
    assert ready.done("fsck").endswith("all is well\n")


@pytest.mark.parametrize(
    ("scores", "worth"),
    [
        ({1: 0.70, 2: 0.955}, (3, "the smallest student that keeps 95% of its teacher's accuracy")),
        ({1: 0.955, 2: 0.70}, (2, "the smallest student that keeps 95% of its teacher's accuracy")),
        ({1: 0.5, 2: 0.9}, (1, "the teacher")),
        ({}, (1, "the teacher")),
        ({0: 0.0, 1: 0.5}, None),
    ],
)
def test_what_a_search_names_is_not_far_below_its_teacher(scores, worth):
    choice = SearchChoice(
        layers=4,
        learning_rate=1e-4,
        teacher=1,
        statistic="one run",
        students={layers: layers + 1 for layers in reversed(scores)},
    )
    scored = {1: 0.96} | {layers + 1: score for layers, score in scores.items()}  # l = 0 stands for the teacher
    trials = [
        LedgerTrial(key=str(version), shape=SHAPE, state=TrialState.FINISHED, epochs=1, score=score, version=version)
        for version, score in scored.items()
    ]
    assert worth_promoting(trials, choice, "accuracy") == worth


def start(trunkline, *arguments: str) -> subprocess.Popen[str]:
    """The command in a process of its own, as from a shell."""
    return subprocess.Popen(
        [sys.executable, "-P", "-c", "import sys; from cli.main import main; sys.exit(main())", *arguments],
        cwd=trunkline.folder,
        env=trunkline.environ | {"PATH": os.environ["PATH"], "TRUNKLINE_HOME": str(trunkline.home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Whoever runs the tests in the background may have them ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def until(trunkline, process: subprocess.Popen[str], holds: Any) -> Any:
    """Waits until the newest search, as `search show --json` gives it, is as wanted."""
    while process.poll() is None:
        answer = trunkline("search", "show", "topic", "--json")
        if answer.code == 0 and holds(answer.json):
            return answer.json
        time.sleep(0.1)
    raise AssertionError(process.communicate())


def winner(found: Any) -> Any:
    by_version = {trial["version"]: trial["shape"] for trial in found["trials"] if trial["version"]}
    choice = found["choice"]
    students = {layers: {**by_version[version], "teacher": 0} for layers, version in choice["students"].items()}
    return by_version[choice["teacher"]], students, choice["statistic"]


@pytest.mark.slow
@pytest.mark.parametrize("signal_", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_search_that_is_cut_off_goes_on_and_ends_with_the_same_winner(ready, run_whole, signal_):
    process = start(ready, "search", "topic", *SMALL)
    cut = until(ready, process, lambda found: any(trial["state"] == "finished" for trial in found["trials"]))
    process.send_signal(signal_)
    _, said = process.communicate(timeout=120)
    assert process.returncode == (-9 if signal_ == signal.SIGKILL else 128 + signal_), said
    after = ready("search", "show", "topic", "--json").json
    assert "running" not in {trial["state"] for trial in after["trials"]}
    assert after["runner"] is None
    assert "interrupted" in ready.done("search", "list")
    finished = {trial["key"]: trial for trial in cut["trials"] if trial["state"] == "finished"}
    resumed = searched(ready)
    assert winner(resumed) == winner(run_whole)
    for trial in resumed["trials"]:
        if trial["key"] in finished:
            assert trial == finished[trial["key"]], "a finished trial was run again"
    attempts = sum(trial["layer_passes"] for trial in resumed["trials"])
    assert attempts <= sum(trial["layer_passes"] for trial in run_whole["trials"]) * 1.5
    assert ready.done("fsck").endswith("all is well\n")


def test_heads_beginnings_and_distillation_are_as_they_were_asked_for(ready):
    found = searched(
        ready,
        *("--layers", "2", "--student-depths", "3", "--init", "teacher,backbone"),
        *("--pooling", "mean", "--gather", "mix"),
        *("--temperature", "3", "--soft-weight", "0.5", "--hidden-weight", "0.25"),
    )
    students = [trial for trial in found["trials"] if trial["shape"]["teacher"] is not None]
    assert sorted(trial["shape"]["initialisation"] for trial in students) == ["backbone", "teacher"]
    versions = {one["number"]: one for one in json.loads(ready.done("task", "versions", "topic", "--json"))}
    for trial in found["trials"]:
        version = versions[trial["version"]]
        assert (version["head"]["pooling"], version["head"]["gather"]) == ("mean", "mix")
        if trial in students:
            assert version["recipe"]["distillation"] == {
                "initialisation": trial["shape"]["initialisation"],
                "temperature": 3.0,
                "soft_weight": 0.5,
                "hidden_weight": 0.25,
            }


@pytest.mark.slow
def test_a_second_search_of_the_same_kind_is_told_who_runs_it_and_another_one_shares_its_trials(ready):
    process = start(ready, "search", "topic", *SMALL)
    until(ready, process, lambda found: found["runner"] is not None)
    refused = ready("search", "topic", *SMALL)
    assert refused.code == 5
    assert f"is being run by process {process.pid} on " in refused.problem
    # In a process too: the clock of commands that run in this one is another, and leases are by the clock.
    beside = start(ready, "search", "topic", *SMALL, "--rule", "best")
    for one in (process, beside):
        _, said = one.communicate(timeout=300)
        assert one.returncode == 0, said
    first, other = (ready("search", "show", "topic", "--number", number, "--json").json for number in (1, 2))
    shared = {trial["key"] for trial in first["trials"]} & {trial["key"] for trial in other["trials"]}
    teachers = {trial["key"] for trial in first["trials"] if trial["shape"]["teacher"] is None}
    assert teachers <= shared
    keys = [version["trial_key"] for version in json.loads(ready.done("task", "versions", "topic", "--json"))]
    assert len(keys) == len(set(keys))


@pytest.mark.slow
@pytest.mark.parametrize("change", ["retired", "redefined"])
def test_a_task_that_is_changed_in_mid_search_ends_the_search_and_keeps_what_was_finished(
    ready, labelled, change, monkeypatch
):
    process = start(ready, "search", "topic", *SMALL, "--seeds", "5", "--strategy", "exhaustive")
    until(ready, process, lambda found: any(trial["state"] == "finished" for trial in found["trials"]))
    if change == "retired":
        ready.done("task", "retire", "topic", "--reason", "nobody asks")
    else:
        path = ready.folder / "topic.yaml"
        content = yaml.safe_load(path.read_text())
        content["labels"] = [*content["labels"], "another"]
        path.write_text(yaml.safe_dump(content))
        ready.done("task", "update", path, "--no-check-data")
    _, said = process.communicate(timeout=300)
    assert process.returncode == (4 if change == "retired" else 5), said
    assert ("is retired" if change == "retired" else "was redefined") in said
    found = ready("search", "show", "topic", "--json").json
    assert "running" not in {trial["state"] for trial in found["trials"]}
    finished = [trial["version"] for trial in found["trials"] if trial["state"] == "finished"]
    versions = json.loads(ready.done("task", "versions", "topic", "--json"))
    assert sorted(finished) == [version["number"] for version in versions]
    if change == "redefined":
        assert not [path for path in (ready.home / "trials").iterdir() if path.is_dir()], "states that nobody will read"


def test_what_was_begun_in_one_precision_is_gone_on_with_where_another_is_found_faster(ready, monkeypatch):
    asked = ("search", "topic", *SMALL[: SMALL.index("--precision")], "--layers", "2", "--student-depths", "0,3")
    monkeypatch.setattr(precision, "best_precision", lambda _: "fp32")
    first = ready(*asked)
    assert first.code == 0, first.err
    assert "--student-depths 0: left out, for students leave after layer 2 to 3 here" in first.err
    monkeypatch.setattr(precision, "best_precision", lambda _: "bf16")
    again = ready(*asked)
    assert again.code == 0
    assert "this is topic#1, which was begun in fp32; with --precision bf16 it would be another search" in again.err
    assert [one["number"] for one in ready("search", "list", "topic", "--json").json] == [1]


def test_the_end_of_a_search_says_what_may_come_next_and_what_to_doubt(ready):
    answer = ready("search", "topic", *SMALL, "--students", "none")
    assert answer.code == 0, answer.err
    assert re.search(r"which is few to tell them apart by", answer.err)
    promote = r"a search promotes nothing: `trunkline task promote topic/(\d+) --alias champion` does \((.*)\)\n"
    advice = re.search(promote, answer.err)
    assert advice
    assert re.search(r"2 seeds, of which halving runs 1 at most; 3 epochs; strategy halving", answer.out)

    other = next(
        version
        for version in json.loads(ready.done("task", "versions", "topic", "--json"))
        if version["number"] != int(advice[1])
    )
    ready.promote(f"topic/{other['number']}")
    again = " ".join(ready("search", "topic", *SMALL, "--students", "none").err.split())
    assert f"the champion topic/{other['number']} has {other['metrics']['accuracy']:.4f} (" in again
    ready.promote(f"topic/{advice[1]}")
    assert "promotes nothing" not in ready("search", "topic", *SMALL, "--students", "none").err


def test_a_drawing_goes_where_it_is_asked_to_or_is_refused(ready):
    searched(ready, "--students", "none")
    ready("search", "show", "topic", "--svg", "figure.svg")
    figure, other = ready.folder / "figure.svg", ready.folder / "topic.yaml"
    assert figure.stat().st_mode == other.stat().st_mode, "nobody else may read it"
    refused = ready("search", "show", "topic", "--svg", "no/such/folder.svg")
    assert (refused.code, (ready.folder / "no").exists()) == (2, False)
    assert "cannot be written: No such file or directory" in refused.problem


def test_a_loss_that_becomes_nan_fails_its_trials_and_the_search_goes_on_and_says_so(ready):
    answer = ready("search", "topic", *SMALL, "--lr", "0.003,1e30", "--students", "none", "--seeds", "1", "--json")
    assert answer.code == 0, answer.err
    assert "failed, the search goes on without it" in answer.err
    states = {(trial["shape"]["learning_rate"], trial["state"]) for trial in answer.json["trials"]}
    assert (1e30, "failed") in states
    assert answer.json["choice"]["learning_rate"] == 0.003

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{ready.home / 'mlflow.db'}")
    (experiment,) = {client.get_run(answer.json["mlflow_run"]).info.experiment_id}
    failed = client.search_runs([experiment], "attributes.status = 'FAILED'")
    assert {run.data.params["learning_rate"] for run in failed} == {"1e+30"}


def test_a_damaged_file_of_the_cache_is_said_and_computed_again(ready):
    searched(ready, "--students", "none")
    kept = list((ready.home / "cache" / "activations").glob("*/*.safetensors"))
    assert kept
    for path in kept:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.chmod(0o600)
        path.write_bytes(content)
    answer = ready("search", "topic", *SMALL, "--students", "none", "--lr", "0.002", "--json")
    assert answer.code == 0, answer.err
    assert "is damaged (its bytes are not those that were written): its rows are computed again" in answer.err


@pytest.mark.slow
def test_a_worker_that_hangs_costs_the_attempt_and_not_the_search(ready, run_whole, monkeypatch):
    stopped: list[int] = []

    class FirstHangs(LocalProcesses):
        def start(self, file):
            super().start(file)
            self._hangs_after = 600.0 if stopped else 5.0  # the process that takes its place may need long to begin
            if not stopped:
                stopped.append(self._busy[file.key]._process.pid)
                os.kill(stopped[0], signal.SIGSTOP)

    monkeypatch.setattr(local_processes, "LocalProcesses", FirstHangs)
    answer = ready("search", "topic", *SMALL, "--json")
    assert answer.code == 0, answer.err
    assert "it said nothing for 5 seconds and was stopped" in " ".join(answer.err.split())
    assert winner(answer.json) == winner(run_whole)
    with pytest.raises(ProcessLookupError):
        os.kill(stopped[0], 0)


def test_data_that_changed_after_the_search_began_are_another_search(ready):
    first = searched(ready, "--students", "none")
    ready.promote(f"topic/{first['choice']['teacher']}")
    for data in yaml.safe_load((ready.folder / "topic.yaml").read_text())["data"].values():
        lines = Path(data).read_text().splitlines()
        Path(data).write_text("\n".join(lines[:-1]) + "\n")
    answer = ready("search", "topic", *SMALL, "--students", "none", "--json")
    assert f"the champion topic/{first['choice']['teacher']} was scored on other dev data" in " ".join(
        answer.err.split()
    )
    second = json.loads(answer.out)
    assert (first["number"], second["number"]) == (1, 2)
    assert not {trial["key"] for trial in first["trials"]} & {trial["key"] for trial in second["trials"]}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--layers", "0-9"), ("--layers 0: must be 1 to 4", "--layers 9: must be 1 to 4")),
        (("--layers", "4-2"), ("4-2 ends before it begins",)),
        (("--layers", "few"), ("neither a number nor a range",)),
        (
            ("--students", "5", "--student-depths", "4"),
            ("--students 5: must be 1 to 4", "--student-depths 4: must be 0"),
        ),
        (("--init", "chance"), ("--init chance: must be teacher or backbone",)),
        (("--lr", "0"), ("must be numbers above 0",)),
        (("--lr", "x"), ("must be numbers above 0",)),
        (("--crf",), ("crf",)),
        (("--backbone", "large"), ("no backbone",)),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_runs(ready, arguments, said):
    answer = ready("search", "topic", *arguments)
    assert answer.code in (1, 2)
    for part in said:
        assert part in answer.problem
    assert ready("search", "list", "--json").json == []


def test_a_task_that_nobody_registered_and_one_that_is_retired(ready):
    assert ready("search", "nothing").code == 1
    assert "has not been searched yet" in ready("search", "show", "topic").problem
    ready.done("task", "retire", "topic", "--reason", "nobody asks")
    assert ready("search", "topic").code == 4


@pytest.mark.parametrize(("layers", "students"), [((1,), (1,)), ((1, 2), (1, 2)), ((4, 5, 10), (1, 2, 3))])
def test_students_have_as_many_layers_as_a_teacher_at_most(layers, students):
    assert default_students(layers) == students


def test_lists_of_numbers():
    assert whole_numbers("4-6,9, 5", "--layers") == (4, 5, 6, 9)
    assert positive_numbers("2e-4,1e-4", "--lr") == (1e-4, 2e-4)
    with pytest.raises(UsageError, match=r"'x' is neither.*'1.5' is neither"):
        whole_numbers("x,1.5,3", "--layers")
