"""`serve` in a process of its own, as a user runs it."""

import itertools
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cli import serve as cli_serve
from serving.engine import EngineSettings
from serving.http.limits import Limits
from tests.cli.conftest import Trunkline, assembled
from tests.waiting import eventually

COMMAND = Path(sys.executable).parent / "trunkline"
UNFLUSHED = 120
"""What Python exits with when a stream could not be written to its end."""


class Served:
    """A server that has said where it listens."""

    def __init__(self, trunkline: Trunkline, *arguments: str, log: Path | None = None, **environ: str) -> None:
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "LC_ALL")}
        self.log = log or trunkline.folder / "server.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [COMMAND, "serve", *arguments, "--port", "0", "--threads", "1", "--precision", "fp32", "--json"],
                cwd=trunkline.folder,
                env=kept | trunkline.environ | environ,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        said = ""
        for line in self.process.stdout:
            said += line
            if line == "}\n":
                break
        assert said, self.log.read_text()
        self.started: Any = json.loads(said)

    def ask(self, path: str, body: Any = None) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(self.started["url"] + path, data, timeout=30) as response:  # noqa: S310
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def metrics(self) -> bytes:
        with urllib.request.urlopen(self.started["url"] + "/metrics", timeout=30) as response:  # noqa: S310
            return response.read()

    def release(self) -> str:
        return self.ask("/predict", {"text": "she saw york"})[1]["release"]["name"]

    def logged(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            self.process.stdout.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    running: list[Served] = []

    def begin(*arguments: Any, **keywords: Any) -> Served:
        running.append(Served(*arguments, **keywords))
        return running[-1]

    yield begin
    for one in running:
        if one.process.poll() is None:
            one.end()


@contextmanager
def asked_all_the_while(server: Served) -> Iterator[list[tuple[int, Any]]]:
    """Two threads ask as fast as they are answered, always another text; gives what they were told."""
    over, told, numbers = threading.Event(), [], itertools.count()

    def keep_asking() -> None:
        while not over.is_set():
            told.append(server.ask("/predict", {"text": f"she saw york {next(numbers)}"}))

    threads = [threading.Thread(target=keep_asking) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield told
    finally:
        over.set()
        for thread in threads:
            thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_release_is_served_until_a_signal_ends_it_well(trained, serve, number):
    release = assembled(trained)["release"]
    server = serve(trained, "r1")
    assert (server.started["release"], server.started["digest"]) == ("r1", release["manifest"])
    status, found = server.ask("/predict", {"text": "she saw york", "tasks": ["classification"]})
    assert (status, found["release"]["digest"]) == (200, release["manifest"])
    told = trained("predict", "r1", "she saw york", "--tasks", "classification", "--json").json
    answer = found["answers"]["classification"]
    assert answer["label"] == told["answers"]["classification"]["label"]
    assert answer["probability"] == pytest.approx(told["answers"]["classification"]["probability"], abs=1e-4)
    assert server.end(number) == 0
    requests = [line for line in server.logged() if line["message"] == "request"]
    assert [(line["route"], line["texts"]) for line in requests] == [("/predict", 1)]


def test_what_is_asked_for_reaches_the_engine_and_the_server(trained, monkeypatch):
    assembled(trained)
    found: dict[str, Any] = {}

    def noted(listening, load, settings, limits, **more):
        listening.close()
        found.update(more, settings=settings, limits=limits)

    monkeypatch.setattr(cli_serve, "_answer", noted)
    trained.done(
        *("serve", "r1", "--port", "0", "--precision", "fp32", "--lanes", "3", "--threads", "2", "--cache-mb", "0"),
        *("--batch-pieces", "512", "--queue-texts", "99", "--max-texts", "9", "--max-characters", "77"),
        *("--max-body-mb", "2", "--long-texts", "refuse", "--timeout", "5", "--drain-seconds", "3"),
    )
    assert found["settings"] == EngineSettings(lanes=3, threads=2, batch_pieces=512, waiting_texts=99, cache_bytes=0)
    assert found["limits"] == Limits(texts=9, characters=77, body_bytes=2_000_000, refuse_long_texts=True, seconds=5.0)
    assert found["drain_seconds"] == 3.0


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(trained, serve):
    assembled(trained)
    server = serve(trained, "r1")
    with socket.create_connection(("127.0.0.1", int(server.started["url"].rpartition(":")[2]))) as unfinished:
        unfinished.sendall(b"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Length: 100\r\n\r\n{")
        eventually(lambda: b"requests_in_flight 1.0" in server.metrics(), "the request is being read")
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: server.ask("/v2/health/ready")[0] == 503, "the server drains")
        assert server.end(signal.SIGTERM) == 128 + signal.SIGTERM


@pytest.mark.slow
def test_a_full_disk_under_the_log_hurts_no_request(trained, serve):
    assembled(trained)
    server = serve(trained, "r1", log=Path("/dev/full"))
    for _ in range(3):
        assert server.ask("/predict", {"text": "she saw york"})[0] == 200
    assert server.ask("/predict", {"text": ""})[0] == 422
    assert server.ask("/v2/health/ready")[0] == 200
    assert server.end() in (0, UNFLUSHED)


@pytest.mark.slow
def test_a_disk_that_fills_up_keeps_the_old_release_until_there_is_room(trained, serve, s3, s3_bucket):
    """A limit on the size of files fails every write of the server as a full disk does: the log, and the local copies
    of what a promoted release has in the bucket."""
    first = assembled(trained)["release"]["name"]
    trained.promote("classification/1")
    second = assembled(trained)["release"]["name"]
    for name in (first, second):
        trained.done("release", "push", name, f"s3://{s3_bucket}")
    trained.done("channel", "create", "production", "--takes", "verified")
    trained.done("release", "promote", first, "--channel", "production")
    bucket = s3.environment | {"TRUNKLINE_ARTIFACT_ROOT": f"s3://{s3_bucket}"}
    server = serve(trained, "--channel", "production", "--poll-seconds", "0.1", **bucket)
    whole = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (100, whole[1]))
    trained.done("release", "promote", second, "--channel", "production")
    eventually(lambda: server.ask("/release")[1]["following"]["failure"] is not None, "the full disk is met")
    failure = server.ask("/release")[1]["following"]["failure"]
    assert failure["release"] == second
    assert "free some space" in failure["error"]
    assert server.release() == first
    assert server.ask("/v2/health/ready")[0] == 200
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, whole)
    eventually(lambda: server.release() == second, "with room, the promoted release answers")
    assert server.end() == 0


@pytest.mark.slow
def test_the_limits_of_the_command_line_hold(trained, serve):
    assembled(trained)
    limits = ["--max-texts", "2", "--max-characters", "50", "--max-body-mb", "0.001", "--long-texts", "refuse"]
    server = serve(trained, "latest", *limits, "--model-name", "tasks")
    assert server.ask("/predict", {"texts": ["a"] * 3})[0] == 413
    assert server.ask("/predict", {"text": "a" * 51})[0] == 422
    assert server.ask("/predict", {"text": "a" * 1001})[0] == 413
    assert server.ask("/predict", {"text": "a " * 25, "tasks": ["classification"]})[0] == 200
    assert server.ask("/v2/models/tasks")[0] == 200


@pytest.mark.slow
def test_what_is_promoted_on_the_channel_takes_over(trained, serve):
    first = assembled(trained)["release"]["name"]
    trained.done("channel", "create", "production", "--takes", "verified")
    trained.done("release", "promote", first, "--channel", "production")
    server = serve(trained, "--channel", "production", "--poll-seconds", "0.1")
    assert server.release() == first
    trained.promote("classification/1")
    second = assembled(trained)["release"]["name"]
    with asked_all_the_while(server) as told:
        trained.done("release", "promote", second, "--channel", "production")
        eventually(lambda: server.release() == second, "the promoted release answers")
        trained.done("release", "revert", "--channel", "production")
        eventually(lambda: server.release() == first, "the reverted release answers")
    versions = {first: 2, second: 1}
    assert {status for status, _ in told} == {200}, "no request is lost"
    assert {found["release"]["name"] for _, found in told} == {first, second}
    assert all(found["versions"]["classification"] == versions[found["release"]["name"]] for _, found in told)
    assert server.ask("/release")[1]["following"] == {
        "channel": "production",
        "failure": None,
        "registry_error": None,
    }
    assert server.end() == 0
    swaps = [(line["old"], line["new"]) for line in server.logged() if line["message"] == "swapped"]
    assert swaps == [(first, second), (second, first)]


@pytest.mark.slow
def test_a_registry_that_goes_away_leaves_the_release_that_is_there(trained, serve):
    first = assembled(trained)["release"]["name"]
    trained.done("channel", "create", "production", "--takes", "verified")
    trained.done("release", "promote", first, "--channel", "production")
    server = serve(trained, "--channel", "production", "--poll-seconds", "0.1")
    registry = trained.home / "registry.db"
    registry.rename(trained.home / "elsewhere.db")
    eventually(lambda: server.ask("/release")[1]["following"]["registry_error"] is not None, "it is seen")
    assert server.release() == first
    (trained.home / "elsewhere.db").rename(registry)
    eventually(lambda: server.ask("/release")[1]["following"]["registry_error"] is None, "it is back")


@pytest.mark.slow
def test_a_release_is_served_from_an_artifact_root_without_a_registry(trained, serve, tmp_path):
    digest = assembled(trained)["release"]["manifest"]
    (trained.home / "registry.db").unlink()
    server = serve(trained, "--from", str(trained.home / "artifacts"), digest)
    assert server.ask("/predict", {"text": "she saw york"})[1]["release"] == {"name": digest[:12], "digest": digest}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name either a RELEASE or a --channel"),
        (["r1", "--channel", "production"], "name either a RELEASE or a --channel"),
        (["--channel", "production", "--from", "/srv"], "with --from, name the release by the whole digest"),
        (["r1", "--from", "/srv"], "with --from, name the release by the whole digest"),
        (["r7", "--timeout", "inf"], "finite numbers"),
        (["r7", "--queue-texts", "512"], "a request of 1,024 texts would never find room"),
        (["r7"], "there is no release r7"),
        (["--channel", "production"], "production"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(trunkline, arguments, message):
    assert message in trunkline("serve", *arguments).problem
    assert trunkline("serve", *arguments).code in (1, 2)


@pytest.mark.slow
def test_a_port_that_is_taken_is_said_before_anything_is_loaded(trained, serve):
    assembled(trained)
    server = serve(trained, "r1")
    port = server.started["url"].rpartition(":")[2]
    assert f"cannot listen on 127.0.0.1 port {port}" in trained("serve", "r1", "--port", port).problem


def test_an_estimate_says_what_the_machine_bears_and_serves_nothing(trained, monkeypatch):
    monkeypatch.setattr("serving.estimate._SECONDS", 0.2)
    assembled(trained)
    answer = trained("serve", "r1", "--estimate", "--precision", "fp32", "--json")
    assert answer.code == 0, answer.err
    for form in answer.json["forms"]:
        shares = [form["trunk_share"], *(task["share"] for task in form["tasks"])]
        assert sum(shares) == pytest.approx(1.0)
        assert list(form["with_one_more"]) == ["1", "2", "3"]
    drawn = trained("serve", "r1", "--estimate", "--precision", "fp32")
    assert drawn.code == 0, drawn.err
    for form in answer.json["forms"]:
        assert f"{form['form']} texts of " in drawn.out
        assert all(task["task"] in drawn.out for task in form["tasks"])


AFTER_DRAINING = """
import os, signal, time
from cli.serve import _later_signals_leave_at_once
with _later_signals_leave_at_once():
    pass
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
with _later_signals_leave_at_once():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
"""


def test_a_signal_while_a_drained_server_waits_for_its_threads_ends_it_at_once():
    ended = subprocess.run([sys.executable, "-P", "-c", AFTER_DRAINING], capture_output=True, check=False)
    assert ended.returncode == 128 + signal.SIGTERM, ended.stderr


def test_of_an_only_task_no_rate_without_it_is_estimated(trained, monkeypatch):
    monkeypatch.setattr("serving.estimate._SECONDS", 0.2)
    assert trained("release", "assemble", "--task", "classification/2").code == 0
    answer = trained("serve", "r1", "--estimate", "--precision", "fp32", "--json")
    assert [task["texts_per_second_without"] for task in answer.json["forms"][0]["tasks"]] == [None]
    drawn = trained("serve", "r1", "--estimate", "--precision", "fp32")
    assert drawn.code == 0, drawn.err
    (row,) = (line.split() for line in drawn.out.splitlines() if line.startswith("classification"))
    assert row[-1].endswith("%"), row
