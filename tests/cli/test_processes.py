"""Names of processes: one that runs, one that ended, and those of which nothing can be known."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli import processes
from cli.processes import is_gone, own_name

PROGRAM = "from cli.processes import own_name; print(own_name(), flush=True); input()"


@pytest.fixture
def child() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


@pytest.fixture
def name(child) -> str:
    return child.stdout.readline().strip()


def begun(name: str, began: str) -> str:
    return f"{name.rpartition(':')[0]}:{began}"


def test_one_that_runs_is_not_gone(child, name):
    assert str(child.pid) in name.replace("/", ":").split(":")
    assert not is_gone(name)
    assert not is_gone(own_name())


def test_one_that_ended_is_gone(child, name):
    child.communicate("\n")
    assert is_gone(name)


def test_one_that_ended_and_that_its_parent_has_not_asked_for_is_gone(child, name):
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert is_gone(name)


def test_one_that_is_stopped_is_not_gone(child, name):
    child.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
    assert not is_gone(name)


def test_one_whose_number_was_given_to_another_process_is_gone(child, name):
    assert is_gone(begun(name, "1"))


@pytest.mark.parametrize("part", [0, 1, 2], ids=["host", "boot", "namespace"])
def test_of_one_in_another_place_nothing_is_known(child, name, part):
    child.communicate("\n")
    place = name.split("/")
    place[part] = "another"
    assert not is_gone("/".join(place))


def test_where_the_system_does_not_tell_its_place_nothing_is_known(child, name, monkeypatch):
    child.communicate("\n")
    monkeypatch.setattr(processes, "_own_place", lambda: None)
    assert own_name().split("/")[0] == name.split("/")[0]
    for known in (name, f"{name.split('/')[0]}/{child.pid}:1", f"{child.pid}:1", f"/{child.pid}:1"):
        assert not is_gone(known)


@pytest.mark.parametrize("error", [PermissionError, ProcessLookupError, FileNotFoundError])
def test_one_that_may_not_be_looked_at_is_not_gone(child, name, monkeypatch, error):
    read = Path.read_text

    def refused(path: Path, **how: str) -> str:
        if path == Path(f"/proc/{child.pid}/stat"):
            raise error
        return read(path, **how)

    monkeypatch.setattr(Path, "read_text", refused)
    assert not is_gone(begun(name, "1"))


def test_one_of_another_user_is_not_gone(child, name, monkeypatch):
    def refused(number: int, sign: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refused)
    assert not is_gone(name)


@pytest.mark.parametrize("nonsense", ["", "nonsense", "a:1:1", "a/b/c/d:e", "///:", "node7:4711:88213"])
def test_a_name_that_is_none_says_nothing(nonsense):
    assert not is_gone(nonsense)


def test_a_number_that_no_process_can_have_says_nothing():
    place = own_name().rpartition("/")[0]
    for process in ("9" * 30 + ":1", "-1:1", "²:1", "1", ":1", "1:"):
        assert not is_gone(f"{place}/{process}")


def test_a_name_is_short_and_one_word(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "a host\n" + "x" * 300)
    assert len(own_name()) < 200
    assert own_name().split() == [own_name()]
    assert not is_gone(own_name())
