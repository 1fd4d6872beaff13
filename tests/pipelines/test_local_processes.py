"""Processes that behave, die, hang and babble: small programs in the place of `trunkline trial work`."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.execution.executor import Ended, Event, Progressed
from pipelines.execution.local_processes import LocalProcesses
from pipelines.execution.trial_file import Place, TrialFile, TrialOutcome, TrialResult

PROLOGUE = """
import json, os, sys, time
def say(**line):
    print(json.dumps(line), flush=True)
def answer(request, epochs):
    outcome = {"epochs_done": epochs, "metrics": {}, "losses": {}, "seconds": 1, "layer_passes": 1, "version": None}
    with open(request["result"], "w") as file:
        json.dump({"outcome": outcome}, file)
for line in sys.stdin:
    request = json.loads(line)
    specification = json.load(open(request["specification"]))
    epoch = specification["until_epoch"]
"""
WELL = """
    say(stage="epoch 1 of 3", done=1, total=9)
    answer(request, os.getpid())
    say(ended=request["result"])
"""


@pytest.fixture
def file(make_trial: Any, tmp_path: Path) -> Callable[..., TrialFile]:
    trial = make_trial()

    def make(key: str, until_epoch: int = 1) -> TrialFile:
        return TrialFile(
            key=key,
            spec=trial.spec,
            spec_revision=1,
            backbone=trial.backbone,
            frozen_depth=2,
            task_layers=2,
            recipe=trial.recipe,
            seed=0,
            head=trial.head,
            teacher=None,
            until_epoch=until_epoch,
            place=Place(
                work=str(tmp_path / "work"),
                artifact_root="nowhere",
                blob_cache=str(tmp_path / "blobs"),
                blob_cache_bytes=1,
                activation_cache_bytes=0,
                device="cpu",
                threads=1,
            ),
        )

    return make


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Callable[..., LocalProcesses]]:
    opened = []

    def open_one(program: str, *, count: int = 1, hangs_after: float = 60.0) -> LocalProcesses:
        opened.append(
            LocalProcesses(
                count,
                folder=tmp_path / "searches",
                command=(sys.executable, "-P", "-c", PROLOGUE + program),
                environ={},
                hangs_after=hangs_after,
            )
        )
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def until_ended(executor: LocalProcesses, count: int = 1) -> tuple[list[Event], list[Ended]]:
    events: list[Event] = []
    while len(ended := [event for event in events if isinstance(event, Ended)]) < count:
        events += executor.events(seconds=0.05)
    return events, ended


def failure_of(ended: Ended) -> str:
    assert ended.result.failure is not None
    assert ended.result.failure.kind == "broken"
    return ended.result.failure.message


def outcome_of(ended: Ended) -> TrialOutcome:
    assert ended.result.outcome is not None, ended.result
    return ended.result.outcome


def test_a_trial_goes_in_as_a_file_and_comes_out_as_one(processes, file, tmp_path):
    executor = processes(WELL)
    executor.start(file("a"))
    events, (ended,) = until_ended(executor)
    assert events[0] == Progressed("a", "epoch 1 of 3", 1, 9)
    assert ended.key == "a"
    written = TrialFile.model_validate_json((tmp_path / "searches" / "a.json").read_bytes())
    assert written == file("a")
    TrialResult.model_validate_json((tmp_path / "searches" / "a.result.json").read_bytes())


def test_one_process_serves_trial_after_trial(processes, file):
    executor = processes(WELL)
    numbers = set()
    for key in "abc":
        assert executor.room() == 1
        executor.start(file(key))
        assert executor.room() == 0
        numbers.add(outcome_of(until_ended(executor)[1][0]).epochs_done)
    assert len(numbers) == 1


def test_several_run_at_once(processes, file):
    executor = processes(WELL, count=3)
    for key in "abc":
        executor.start(file(key))
    assert executor.room() == 0
    _, ended = until_ended(executor, 3)
    assert {one.key for one in ended} == set("abc")
    assert len({outcome_of(one).epochs_done for one in ended}) == 3


def test_a_process_that_dies_costs_its_trial_only(processes, file):
    dies_on_epoch_2 = """
    if epoch == 2:
        print("out of memory", file=sys.stderr, flush=True)
        os._exit(9)
"""
    executor = processes(dies_on_epoch_2 + WELL)
    executor.start(file("a", until_epoch=2))
    message = failure_of(until_ended(executor)[1][0])
    assert "status 9" in message
    assert "out of memory" in message
    assert executor.room() == 1
    executor.start(file("b"))
    assert outcome_of(until_ended(executor)[1][0])


def test_a_process_that_died_while_it_was_idle_is_replaced(processes, file):
    dies_afterwards = """
    answer(request, 1)
    say(ended=request["result"])
    os._exit(0)
"""
    executor = processes(dies_afterwards)
    executor.start(file("a"))
    until_ended(executor)
    (idle,) = executor._idle
    idle._process.wait()
    executor.start(file("b"))
    assert outcome_of(until_ended(executor)[1][0])


def test_a_process_that_says_nothing_is_given_up(processes, file):
    executor = processes("    time.sleep(3600)\n", hangs_after=0.3)
    executor.start(file("a"))
    assert "said nothing for 0.3 seconds" in failure_of(until_ended(executor)[1][0])
    assert executor.room() == 1


def test_one_that_goes_on_talking_is_not_given_up(processes, file):
    slow = """
    for number in range(8):
        say(stage="epoch", done=number, total=8)
        time.sleep(0.1)
"""
    executor = processes(slow + WELL, hangs_after=0.6)
    executor.start(file("a"))
    assert outcome_of(until_ended(executor)[1][0])


@pytest.mark.parametrize("content", ["", "{", '{"outcome": {"epochs_done": "many"}}'])
def test_a_result_that_cannot_be_read_is_a_broken_attempt(processes, file, content):
    garbles = f"""
    open(request["result"], "w").write({content!r})
    say(ended=request["result"])
"""
    executor = processes(garbles)
    executor.start(file("a"))
    assert "cannot be read" in failure_of(until_ended(executor)[1][0])


def test_an_older_result_of_the_same_trial_is_never_taken(processes, file):
    executor = processes(WELL)
    executor.start(file("a"))
    until_ended(executor)
    executor.close()
    silent = processes("    say(ended=request['result'])\n")
    silent.start(file("a"))
    assert "cannot be read" in failure_of(until_ended(silent)[1][0])


def test_what_a_library_prints_is_passed_over(processes, file):
    executor = processes("    print('Downloading… 50 %', flush=True)\n    print('[1, 2]', flush=True)\n" + WELL)
    executor.start(file("a"))
    assert outcome_of(until_ended(executor)[1][0])


def test_closing_ends_every_process(processes, file):
    executor = processes("    say(stage='epoch', done=0, total=1)\n    time.sleep(3600)\n", count=2)
    executor.start(file("a"))
    executor.start(file("b"))
    running = [process._process for process in executor._busy.values()]
    executor.close()
    assert all(process.poll() is not None for process in running)


WORK = "import sys; from cli.main import main; sys.exit(main())"


def test_our_own_command_runs_a_trial_and_ends_with_its_stdin(file, make_trial, pinned, tmp_path):
    trial = make_trial()
    place = file("x").place.model_copy(update={"artifact_root": str(pinned.store_folder)})
    executor = LocalProcesses(
        1,
        folder=tmp_path / "searches",
        command=(sys.executable, "-P", "-c", WORK, "trial", "work"),
        environ={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )
    planned = file(trial.key, until_epoch=2).model_copy(
        update={"place": place.model_copy(update={"blob_cache_bytes": 10**9})}
    )
    with executor:
        executor.start(planned)
        paused = outcome_of(until_ended(executor)[1][0])
        assert (paused.epochs_done, paused.version) == (2, None)
        assert paused.metrics.keys() == {2}
        executor.start(planned.model_copy(update={"until_epoch": None}))
        done = outcome_of(until_ended(executor)[1][0])
        assert done.epochs_done == 3
        assert done.version is not None
        assert done.version.trial_key == trial.key
        assert done.layer_passes < paused.layer_passes  # one epoch more, not three
        executor.start(planned.model_copy(update={"key": "another", "until_epoch": None}))
        ended = until_ended(executor)[1][0]
        assert ended.result.failure.kind == "refused"
        assert "plan again" in ended.result.failure.message
        process = executor._idle[0]._process
        process.stdin.close()
        assert process.wait(timeout=60) == 0


def test_the_request_is_one_line_of_json(processes, file):
    echoes = """
    answer(request, 1)
    say(stage=json.dumps(sorted(request)), done=0, total=0)
    say(ended=request["result"])
"""
    executor = processes(echoes)
    executor.start(file("a"))
    events, _ = until_ended(executor)
    assert json.loads(events[0].stage) == ["result", "specification"]
