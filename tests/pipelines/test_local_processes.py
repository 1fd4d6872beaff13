"""Processes that behave, die, hang and babble: small programs in the place of `trunkline trial work`."""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.execution.executor import Ended, Event, Progressed, Warned
from pipelines.execution.local_processes import LocalProcesses
from pipelines.execution.trial_file import Place, TrialFile, TrialOutcome
from tests.waiting import eventually

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

    def open_one(program: str, *, count: int = 1, **limits: float) -> LocalProcesses:
        opened.append(
            LocalProcesses(
                count,
                folder=tmp_path / "searches",
                command=(sys.executable, "-P", "-c", PROLOGUE + program),
                environ={},
                **limits,
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
    assert outcome_of(ended)
    assert list((tmp_path / "searches").iterdir()) == []


def test_the_files_of_an_attempt_that_broke_stay_until_the_trial_has_run(processes, file, tmp_path):
    executor = processes("""
    open(request["result"], "w").write("half a")
    os._exit(9)
""")
    executor.start(file("a"))
    failure_of(until_ended(executor)[1][0])
    assert TrialFile.model_validate_json((tmp_path / "searches" / "a.json").read_bytes()) == file("a")
    assert (tmp_path / "searches" / "a.result.json").read_text() == "half a"
    again = processes(WELL)
    again.start(file("a"))
    assert outcome_of(until_ended(again)[1][0])
    assert list((tmp_path / "searches").iterdir()) == []


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


@pytest.mark.parametrize("said", ["alive=True", "stage='epoch', done=1, total=8", "warning='the disk is full'"])
def test_one_that_lives_is_not_given_up_though_it_comes_no_further(processes, file, said):
    slow = f"""
    for number in range(8):
        say({said})
        time.sleep(0.2)
"""
    executor = processes(slow + WELL, hangs_after=1.2)
    executor.start(file("a"))
    assert outcome_of(until_ended(executor)[1][0])


def test_one_that_lives_and_comes_no_further_is_given_up_in_the_end(processes, file):
    stuck = """
    while True:
        say(alive=True)
        say(stage="epoch", done=1, total=8)
        say(warning="still waiting")
        time.sleep(0.05)
"""
    executor = processes(stuck, stuck_after=0.5)
    executor.start(file("a"))
    assert "came no further for 0.5 seconds" in failure_of(until_ended(executor)[1][0])
    assert executor.room() == 1


def test_one_that_comes_further_is_not_given_up(processes, file):
    slow = """
    for number in range(8):
        say(alive=True)
        say(stage=f"epoch {number // 4}", done=number % 4, total=4)
        time.sleep(0.2)
"""
    executor = processes(slow + WELL, stuck_after=1.2)
    executor.start(file("a"))
    assert outcome_of(until_ended(executor)[1][0])


WAITS = """
    while not os.path.exists(specification["place"]["work"]):
        say(stage="waiting for another process's activations", done=0, total=1)
        time.sleep(0.05)
"""


def test_one_that_waits_for_another_process_is_not_given_up(processes, file, tmp_path):
    executor = processes(WAITS + WELL, stuck_after=600)
    executor.start(file("a"))
    (process,) = executor._busy.values()
    eventually(lambda: process.waits_since is not None, "it says that it waits")
    process.moved_at -= 1000  # and it says nothing else from now on
    eventually(lambda: time.monotonic() - process.moved_at < 600, "another thread hears of it")
    (tmp_path / "work").mkdir()
    assert outcome_of(until_ended(executor)[1][0])


def test_of_one_that_waits_for_long_it_is_said(processes, file, tmp_path):
    executor = processes(WAITS + WELL, stuck_after=7200)
    executor.start(file("a"))
    (process,) = executor._busy.values()
    eventually(lambda: process.waits_since is not None, "it says that it waits")
    process.waits_since -= 8000
    events: list[Event] = []

    def said() -> bool:
        events.extend(executor.events(seconds=0.0))
        return any(isinstance(event, Warned) for event in events)

    eventually(said, "that it waits is passed on")
    (tmp_path / "work").mkdir()
    more, (ended,) = until_ended(executor)
    warnings = [event for event in events + more if isinstance(event, Warned)]
    assert warnings == [Warned("a", "waiting for another process's activations, for 2 h")]
    assert outcome_of(ended)


def test_what_was_not_heard_while_this_process_itself_was_stopped_is_held_against_nobody(processes, file, tmp_path):
    quiet = """
    while not os.path.exists(specification["place"]["work"]):
        time.sleep(0.05)
"""
    executor = processes(quiet + WELL)
    executor.start(file("a"))
    (process,) = executor._busy.values()
    executor._asked_at -= 1000
    process.heard_at -= 1000
    process.moved_at -= 1000
    assert executor.events(seconds=0.0) == []
    (tmp_path / "work").mkdir()
    assert outcome_of(until_ended(executor)[1][0])


def test_what_a_worker_warns_of_is_passed_on(processes, file):
    executor = processes("    say(warning='the disk is full')\n    say(warning='x' * 10_000)\n" + WELL)
    executor.start(file("a"))
    events, (ended,) = until_ended(executor)
    full, long = (event for event in events if isinstance(event, Warned))
    assert full == Warned("a", "the disk is full")
    assert 100 < len(long.message) < 1000
    assert outcome_of(ended)


def test_a_request_that_is_refused_ends_the_trial_and_not_the_process(processes, file):
    executor = processes(
        """
    if specification["key"] == "a":
        say(refused="cannot write the result")
        continue
"""
        + WELL
    )
    executor.start(file("a"))
    (ended,) = until_ended(executor)[1]
    assert (ended.result.failure.kind, ended.result.failure.message) == ("refused", "cannot write the result")
    executor.start(file("b"))
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


@pytest.mark.parametrize(
    "printed",
    [
        "Downloading… 50 %",
        "[1, 2]",
        "{}",
        '{"done": 1}',
        '{"stage": "epoch", "done": "1", "total": null}',
        '{"warning": 3}',
        '{"refused": []}',
        '{"ended": true}',
        '{"ended": "/elsewhere/a.result.json"}',
        "[" * 100_000,
    ],
    ids=lambda text: text[:30],
)
def test_what_a_library_prints_is_passed_over(processes, file, printed):
    executor = processes(f"    print({printed!r}, flush=True)\n" + WELL)
    executor.start(file("a"))
    events, (ended,) = until_ended(executor)
    assert len(events) == 2
    assert outcome_of(ended)


def test_bytes_that_are_no_text_are_passed_over(processes, file):
    executor = processes("    os.write(1, b'caf\\xe9\\n')\n    os.write(2, b'caf\\xe9\\n')\n" + WELL)
    executor.start(file("a"))
    assert outcome_of(until_ended(executor)[1][0])


def test_the_last_words_of_a_process_may_be_no_text(processes, file):
    executor = processes("    os.write(1, b'\\xe9')\n    os.write(2, b'caf\\xe9: no memory')\n    os._exit(9)\n")
    executor.start(file("a"))
    assert "no memory" in failure_of(until_ended(executor)[1][0])


def test_closing_ends_every_process(processes, file, tmp_path):
    executor = processes("    say(stage='epoch', done=0, total=1)\n    time.sleep(3600)\n", count=2)
    executor.start(file("a"))
    executor.start(file("b"))
    running = [process._process for process in executor._busy.values()]
    executor.close()
    assert all(process.poll() is not None for process in running)
    assert list((tmp_path / "searches").iterdir()) == []


def test_a_process_that_has_started_others_is_ended_with_them(processes, file):
    begets = """
    import subprocess
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    say(stage=str(child.pid), done=0, total=1)
    time.sleep(3600)
"""
    executor = processes(begets)
    executor.start(file("a"))
    executor.events(seconds=60)
    (process,) = executor._busy.values()
    executor.close()
    assert not any(listener.is_alive() for listener in process._listeners)


def test_one_that_waits_for_events_may_be_closed_meanwhile(processes, file):
    executor = processes("    say(stage='epoch', done=0, total=1)\n    time.sleep(3600)\n", count=2)
    executor.start(file("a"))
    executor.start(file("b"))
    heard: list[Event] = []
    closed = threading.Event()

    def listen() -> None:
        while not closed.is_set():
            heard.extend(executor.events(seconds=0.01))

    listener = threading.Thread(target=listen)
    listener.start()
    all_threads = [thread for process in executor._busy.values() for thread in process._listeners]
    executor.close()
    closed.set()
    listener.join()
    assert not any(isinstance(event, Ended) for event in heard + executor.events(seconds=0))
    assert not any(thread.is_alive() for thread in all_threads)
    assert executor.room() == 2


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
        events, (ended,) = until_ended(executor)
        paused = outcome_of(ended)
        assert any(event.message.startswith("no room for") for event in events if isinstance(event, Warned))
        assert (paused.epochs_done, paused.version) == (2, None)
        assert 2 in paused.metrics
        executor.start(planned.model_copy(update={"until_epoch": None}))
        done = outcome_of(until_ended(executor)[1][0])
        assert done.epochs_done == 3
        assert done.version is not None
        assert done.version.trial_key == trial.key
        assert done.layer_passes == pytest.approx(paused.layer_passes * 3 / 2)  # of the whole trial
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
