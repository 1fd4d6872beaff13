"""The end of a server: what it has taken in is answered, what is new is refused."""

import asyncio
import json
import signal
import threading
from contextlib import closing

import pytest

from serving.http import answers
from serving.http.lifecycle import Lifecycle
from tests.serving.http.conftest import reply_of
from tests.waiting import eventually


def ended(server) -> bool:
    server.thread.join(0.01)
    return not server.thread.is_alive()


def test_what_was_taken_in_is_answered_while_what_is_new_is_refused(server):
    with closing(server.connection()) as open_before:
        open_before.request("GET", "/release")
        assert reply_of(open_before).status == 200
        server.metrics.gate.clear()
        plain = server.in_background("/predict", {"text": "hello"})
        stream = server.in_background("/predict/stream", {"text": "hello world"})
        assert server.metrics.at_gate.wait(30)
        eventually(lambda: server.service.lifecycle.in_flight == 2, "both are in flight")
        server.drain()
        for path in ("/v2/health/ready", "/v2/models/trunkline/ready", "/v2/models/trunkline/versions/r1/ready"):
            reply = server.get(path)
            assert (reply.status, reply.json["ready"]) == (503, False)
        assert server.get("/v2/health/live").status == 200
        assert server.get("/metrics").status == 200
        open_before.request("POST", "/predict", json.dumps({"text": "new"}))
        refused = reply_of(open_before)
        assert (refused.status, refused.headers["connection"]) == (503, "close")
        assert "stopping" in refused.error
        counted = 'trunkline_errors_total{route="/predict",status="503"} 1.0'
        eventually(lambda: counted in server.get("/metrics").body.decode(), "it is counted under its route")
    server.metrics.gate.set()
    assert (plain().status, stream().status) == (200, 200)
    eventually(lambda: ended(server), "the server ends")


def test_an_idle_server_ends_at_once_even_with_connections_open(server):
    with closing(server.connection()) as idle:
        idle.request("GET", "/release")
        reply_of(idle)
        server.drain()
        eventually(lambda: ended(server), "the server ends")


def test_who_is_not_answered_in_the_time_for_draining_is_told_so(start):
    server = start(drain_seconds=0.2)
    server.metrics.gate.clear()
    late = server.in_background("/predict", {"text": "hello"})
    assert server.metrics.at_gate.wait(30)
    server.drain()
    reply = late()
    assert (reply.status, "the server stopped before this was answered" in reply.error) == (503, True)
    eventually(lambda: ended(server), "the server ends")


def test_who_still_sends_a_body_when_the_time_is_over_is_told_so(start):
    server = start(drain_seconds=0.2)
    with closing(server.connection()) as slow:
        slow.putrequest("POST", "/predict")
        slow.putheader("Content-Length", "1000")
        slow.endheaders(b'{"text": "hel')
        eventually(lambda: server.service.lifecycle.in_flight == 1, "it is being read")
        server.drain()
        reply = reply_of(slow)
    assert (reply.status, "the server stopped before this was answered" in reply.error) == (503, True)
    eventually(lambda: ended(server), "the server ends")


def test_who_reaches_the_engine_only_when_the_time_is_over_is_told_so(start, monkeypatch):
    monkeypatch.setattr(answers, "_TEXTS_ON_THE_LOOP", 0)
    server = start(drain_seconds=0.2)
    server.metrics.gate.clear()
    ask, reached, may_go_on = server.engine.ask, threading.Event(), threading.Event()

    def slowly(*arguments, **options):
        reached.set()
        assert may_go_on.wait(30)
        return ask(*arguments, **options)

    monkeypatch.setattr(server.engine, "ask", slowly)
    late = server.in_background("/predict", {"text": "hello"})
    assert reached.wait(30)
    server.drain()
    eventually(lambda: server.service.lifecycle.stopped, "the time for draining is over")
    may_go_on.set()
    reply = late()
    assert (reply.status, "the server stopped before this was answered" in reply.error) == (503, True)
    eventually(lambda: ended(server), "the server ends")


def test_who_still_is_turned_into_tokens_when_the_time_is_over_is_told_so_at_once_and_is_not_waited_for(
    start, monkeypatch
):
    monkeypatch.setattr(answers, "_TEXTS_ON_THE_LOOP", 0)
    server = start(drain_seconds=0.2)
    rows, reached, may_go_on, turned = server.engine.release.encoder.rows, threading.Event(), threading.Event(), []

    def slow(texts):
        for row in rows(texts):
            reached.set()
            assert may_go_on.wait(30)
            turned.append(1)
            yield row

    monkeypatch.setattr(server.engine.release.encoder, "rows", slow)
    late = server.in_background("/predict", {"texts": ["hello"] * 3})
    assert reached.wait(30)
    server.drain()
    reply = late()
    assert (reply.status, "the server stopped before this was answered" in reply.error) == (503, True)
    may_go_on.set()
    eventually(lambda: ended(server), "the server ends")
    assert len(turned) == 1


def test_a_body_whose_time_ends_at_the_same_moment_is_left_alone():
    lifecycle = Lifecycle()

    async def read() -> None:
        async with asyncio.timeout(0) as patience:
            lifecycle.reading.add(patience)
            asyncio.get_running_loop().call_soon(lifecycle.end_waiting)  # behind the one that ends the patience
            await asyncio.sleep(30)

    with pytest.raises(TimeoutError):
        asyncio.run(read())
    assert lifecycle.stopped


def test_a_second_signal_ends_it_at_once(server):
    server.metrics.gate.clear()
    abandoned = server.connection()
    abandoned.request("POST", "/predict", json.dumps({"text": "hello"}))
    assert server.metrics.at_gate.wait(30)
    server.drain()
    server.server.handle_exit(signal.SIGINT, None)
    eventually(lambda: ended(server), "the server ends")
    abandoned.close()
