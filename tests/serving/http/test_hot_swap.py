"""A release takes over while requests are being answered."""

import threading
from types import SimpleNamespace

import pytest

from serving.channel_following import ChannelFollower
from serving.release_loading import load_served_release
from tests.serving.conftest import CPU_FP32


@pytest.fixture
def second(stored, branches, pinned):
    digest = stored({task: branch for task, branch in branches.items() if task != "mood"})
    return load_served_release(digest, pinned.store, name="r2", form=CPU_FP32)


def test_every_request_is_answered_by_one_release_and_none_fails(server, release, second):
    tasks = {"r1": {"city", "intent", "mood"}, "r2": {"city", "intent"}}
    found, stop = [], threading.Event()

    def keep_asking(number):
        asked = 0
        while not stop.is_set():
            asked += 1
            found.append(server.predict(texts=[f"hello {number} {asked}", "world"]))

    threads = [threading.Thread(target=keep_asking, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for turn in range(20):
        server.engine.swap((second, release)[turn % 2])
        server.predict(text=f"turn {turn}")
    stop.set()
    for thread in threads:
        thread.join()
    assert {reply.status for reply in found} == {200}
    for reply in found:
        name = reply.json["release"]["name"]
        assert [set(one["answers"]) for one in reply.json["predictions"]] == [tasks[name]] * 2


def test_what_was_taken_in_before_the_swap_is_answered_by_the_old_release(server, release, second):
    server.metrics.gate.clear()
    before = server.in_background("/predict", {"text": "hello"})
    assert server.metrics.at_gate.wait(30)
    server.engine.swap(second)
    after = server.in_background("/predict", {"text": "hello"})
    server.metrics.gate.set()
    assert before().json["release"]["name"] == "r1"
    assert after().json["release"]["name"] == "r2"
    assert server.get("/v2/models/trunkline").json["versions"] == ["r2"]
    assert server.get("/v2/models/trunkline/versions/r1").status == 404


def test_a_swap_that_failed_is_seen_where_people_look(start, second):
    def fail(*_):
        raise OSError("disk")

    def follow(engine, metrics):
        return ChannelFollower(
            "production", engine, metrics, current=lambda: ("r2", second.digest), load=fail, poll_seconds=1.0
        )

    server = start(follower=follow)
    server.service.follower.look()
    shown = [
        server.get("/release").json["following"],
        server.get("/v2/health/ready").json["following"],
        server.get("/v2/models/trunkline").json["parameters"]["following"],
    ]
    for one in shown:
        found = SimpleNamespace(**one)
        assert (found.channel, found.failure["release"], found.failure["attempts"]) == ("production", "r2", 1)
    assert server.get("/v2/health/ready").status == 200
    assert server.predict(text="hello").json["release"]["name"] == "r1"
    assert 'trunkline_swaps_total{result="failed"} 1.0' in server.get("/metrics").body.decode()
