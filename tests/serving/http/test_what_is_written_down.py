"""Logs, metrics and spans: one of each a request, and no text in any."""

import io
import json
import logging
import re
from contextlib import closing
from threading import Event

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from serving.structured_logs import JsonLines
from tests.waiting import eventually

UNHEARD = "xyzzy"


@pytest.fixture
def log():
    """What the server logs, as it is written."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield written
    root.removeHandler(handler)
    root.setLevel(level)


def lines_of(log) -> list[dict]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


def requests_of(log, count: int) -> list[dict]:
    """The lines of so many requests; the last is written after its answer was."""
    eventually(lambda: log.getvalue().count('"message": "request"') >= count, f"{count} requests are logged")
    return [line for line in lines_of(log) if line["message"] == "request"]


def sample(exposition: bytes, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", exposition.decode(), re.MULTILINE)
    assert found, f"{name} is not in\n{exposition.decode()}"
    return float(found[1])


def test_each_request_is_a_line_with_what_it_asked_and_no_text(server, log):
    server.post("/predict", {"texts": [UNHEARD, "hello"], "tasks": ["intent"]}, {"X-Request-Id": "seven"})
    (line,) = requests_of(log, 1)
    assert line.pop("seconds") > 0
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "info",
        "logger": "serving.http.request_watch",
        "message": "request",
        "route": "/predict",
        "status": 200,
        "texts": 2,
        "tasks": ["intent"],
        "release": "r1",
        "request": "seven",
    }


def test_who_watches_the_server_is_not_logged(server, log):
    for path in ("/v2/health/live", "/v2/health/ready", "/metrics", "/v2/models/trunkline/ready"):
        assert server.get(path).status == 200
    assert server.get("/v2/models/trunkline/versions/r1/ready").status == 200
    server.get("/v2/models/trunkline")
    (line,) = requests_of(log, 1)
    assert line["route"] == "/v2/models/{name}"


def test_nothing_that_is_written_down_holds_a_text(start, release, log):
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    server = start(tracer_provider=provider)
    for body in ({"text": UNHEARD}, {"text": "a", "tasks": [UNHEARD]}, {UNHEARD: 1}, {"text": [UNHEARD]}):
        for path in ("/predict", f"/predict?text={UNHEARD}", "/predict/stream"):
            server.post(path, body)

    def fail(*_):
        raise ValueError(UNHEARD)

    object.__setattr__(release, "encoder", type("Broken", (), {"rows": fail})())
    reply = server.predict(text=UNHEARD + " again")
    assert (reply.status, UNHEARD in reply.error) == (500, False)
    assert reply.headers["x-request-id"] in [line["request"] for line in requests_of(log, 13) if line["status"] == 500]
    assert "ValueError" in log.getvalue()
    assert UNHEARD not in log.getvalue()
    assert UNHEARD not in server.get("/metrics").body.decode()
    spans = "".join(span.to_json() for span in exporter.get_finished_spans())
    assert '"/predict"' in spans
    assert UNHEARD not in spans


def test_a_request_keeps_the_id_that_it_came_with(server):
    assert server.get("/release", {"X-Request-Id": "a-7.b"}).headers["x-request-id"] == "a-7.b"


@pytest.mark.parametrize("given", ["", "a b", "x" * 200, "é", "a\tb"])
def test_a_request_without_a_sane_id_is_given_one(server, given):
    reply = server.get("/release", {"X-Request-Id": given})
    assert re.fullmatch(r"[0-9a-f]{32}", reply.headers["x-request-id"])


def test_metrics_count_requests_answers_and_tokens(server):
    server.predict(texts=["hello", "york"], tasks=["intent"])
    server.predict(texts=["hello"], tasks=["intent"])
    server.predict(text=" ")
    for path in ("/one", "/two"):
        server.get(path)
    eventually(lambda: 'route="unknown",status="404"} 2' in server.get("/metrics").body.decode(), "all are counted")
    eventually(lambda: sample(server.get("/metrics").body, "trunkline_lanes_idle") == 1, "its one lane is idle")
    found = server.get("/metrics")
    assert found.headers["content-type"].startswith("text/plain; version=0.0.4")
    wanted = {
        'trunkline_requests_total{route="/predict",status="200"}': 2,
        'trunkline_errors_total{route="/predict",status="422"}': 1,
        'trunkline_request_seconds_count{route="/predict"}': 3,
        'trunkline_stage_seconds_count{stage="total"}': 2,
        'trunkline_stage_seconds_count{stage="tokenise"}': 1,
        'trunkline_stage_seconds_count{stage="queue"}': 1,
        'trunkline_stage_seconds_count{stage="compute"}': 1,
        'trunkline_answers_total{task="intent",version="1"}': 3,
        'trunkline_task_seconds_count{task="intent"}': 2,
        "trunkline_batch_texts_sum": 2,
        "trunkline_cache_hits_total": 1,
        "trunkline_cache_misses_total": 2,
        "trunkline_cache_entries": 2,
        "trunkline_queue_texts": 0,
        "trunkline_requests_in_flight": 0,
        'trunkline_swaps_total{result="failed"}': 0,
    }
    assert {name: sample(found.body, name) for name in wanted} == wanted
    assert sample(found.body, "trunkline_cache_bytes") > 0
    assert sample(found.body, "trunkline_text_tokens_total") == sample(found.body, "trunkline_batch_tokens_sum") > 0
    assert sample(found.body, "trunkline_padding_tokens_total") >= 0
    release = server.engine.release
    assert f'trunkline_release_info{{digest="{release.digest}",precision="fp32",release="r1"}}' in found.body.decode()


def test_places_that_a_short_text_leaves_beside_a_long_one_are_counted_as_padding(server):
    def padding_of_batch(number: int) -> float:
        eventually(
            lambda: sample(server.get("/metrics").body, "trunkline_batch_texts_count") == number, "it is counted"
        )
        return sample(server.get("/metrics").body, "trunkline_padding_tokens_total")

    server.predict(text="hello")
    assert padding_of_batch(1) == 0, "one text fills its own block"
    server.predict(texts=["york " * count for count in (38, 34)])
    assert padding_of_batch(2) > 0


def test_answers_that_nobody_got_are_counted_and_the_help_says_so(server, release, monkeypatch):
    branch, gone = release.model.branches["mood"], Event()
    outputs = type(branch).outputs

    def held(of, *arguments):
        assert of is not branch or gone.wait(30)
        return outputs(of, *arguments)

    monkeypatch.setattr(type(branch), "outputs", held)
    counted = b'trunkline_answers_total{task="intent",version="1"} 1.0'
    with closing(server.connection()) as connection:
        connection.request("POST", "/predict", b'{"text": "hello"}')
        eventually(lambda: counted in server.get("/metrics").body, "the first answer is there")
    left = b'trunkline_errors_total{route="/predict",status="499"} 1.0'
    eventually(lambda: left in server.get("/metrics").body, "the client has left")
    gone.set()
    found = server.get("/metrics").body
    assert counted in found
    assert b"# HELP trunkline_answers_total Answers computed" in found
    assert b"may have ended before it got them" in found


def test_a_span_tells_the_route_and_what_was_asked_within_the_callers_trace(start):
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    server = start(tracer_provider=provider)
    trace_id, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    server.post("/predict", {"texts": ["a", "b"]}, {"traceparent": f"00-{trace_id}-{parent}-01"})
    eventually(lambda: bool(exporter.get_finished_spans()), "the span is ended")
    (span,) = exporter.get_finished_spans()
    assert (span.name, f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (
        "POST /predict",
        trace_id,
        parent,
    )
    wanted = {
        "http.route": "/predict",
        "http.response.status_code": 200,
        "trunkline.texts": 2,
        "trunkline.tasks": ("city", "intent", "mood"),
        "trunkline.release": "r1",
    }
    assert wanted.items() <= dict(span.attributes).items()
