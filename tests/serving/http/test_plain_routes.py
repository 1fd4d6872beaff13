import asyncio
import json
import re
import threading
from contextlib import closing

import pytest

from serving.engine import EngineSettings
from serving.http import answers, open_inference, plain_bodies
from serving.http.limits import Limits
from serving.http.plain_bodies import ManyPredictions, OnePrediction, ReleaseDescription
from serving.http.refusals import ClientGone
from tests.serving.http.conftest import reply_of
from tests.waiting import eventually

UNHEARD = "xyzzy"


def events_of(body: bytes) -> list[tuple[str, dict]]:
    found = re.findall(r"event: (\w+)\ndata: (.*)\n\n", body.decode())
    assert "".join(f"event: {name}\ndata: {data}\n\n" for name, data in found) == body.decode()
    return [(name, json.loads(data)) for name, data in found]


def test_one_text_is_answered_by_every_task_of_its_form_with_release_and_versions(server, release):
    reply = server.predict(text="she visited new york")
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    found = OnePrediction.model_validate_json(reply.body)
    assert found.release.model_dump() == {"name": "r1", "digest": release.digest}
    assert found.versions == {"intent": 1, "city": 2, "mood": 4}
    assert list(found.answers) == ["city", "intent", "mood"]
    assert found.truncated is False


def test_a_list_is_answered_in_its_order_each_text_by_the_tasks_of_its_form(server):
    texts = ["hello", {"text": "hello", "text_pair": "world"}, {"text": "she visited new york"}]
    found = ManyPredictions.model_validate_json(server.predict(texts=texts).body)
    assert [set(one.answers) for one in found.predictions] == [
        {"intent", "city", "mood"},
        {"similarity"},
        {"intent", "city", "mood"},
    ]
    assert found.versions == {"intent": 1, "city": 2, "mood": 4, "similarity": 3}
    alone = OnePrediction.model_validate_json(server.predict(text="hello").body)
    assert found.predictions[0].answers["intent"].label == alone.answers["intent"].label


def test_only_the_tasks_that_are_asked_for_answer(server):
    assert list(server.predict(text="hello", tasks=["mood", "mood"]).json["answers"]) == ["mood"]


def test_a_text_that_lost_its_end_says_so(server, release):
    longest = release.manifest.trunk.max_length
    found = server.predict(texts=["york " * longest, "york"]).json["predictions"]
    assert [one["truncated"] for one in found] == [True, False]


def test_text_and_spans_beyond_ascii_come_back_as_they_were_sent(server):
    text = "Zürich 😀 new york"
    for span in server.predict(text=text, tasks=["city"]).json["answers"]["city"]["spans"]:
        assert text[span["start"] : span["end"]] == span["text"]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"text": "hello", "tasks": ["nothing"]}, 404, "not in this release: nothing; its tasks: city, intent"),
        ({"text": "hello", "tasks": ["similarity"]}, 422, "similarity: reads a pair of texts, and the input is a"),
        ({"texts": ["hello", " "]}, 422, "text 2: is empty"),
        ({"text": "hello", "tasks": []}, 422, "tasks: list should have at least 1 item"),
        ({"texts": []}, 422, "texts: list should have at least 1 item"),
        ({}, 422, "give either text or texts"),
        ({"text": "a", "texts": ["b"]}, 422, "give either text or texts"),
        ({"texts": ["a"], "text_pair": "b"}, 422, "text_pair goes with text"),
        ({"text": 5}, 422, "text: input should be a valid string"),
        ({"texts": ["a", 5]}, 422, "texts.1: input should be a valid string"),
        ({"texts": [{"text": "a", "more": 1}]}, 422, "texts.0.more: is no known field"),
        ({"text": "a", "timeout": "soon"}, 422, "timeout: input should be a valid number"),
        ({"text": "a", "timeout": 0}, 422, "timeout: input should be greater than 0"),
        ({"texts": {"a": 1}}, 422, "texts: input should be a valid array"),
        (["a"], 422, "input should be an object"),
        (b"{", 400, "the body is not JSON: EOF while parsing"),
        (b"", 400, "the body is not JSON"),
        (b'{"text": "\xff\xfe"}', 400, "the body is not JSON"),
        (rb'{"text": "\ud800"}', 400, "the body is not JSON: unexpected end of hex escape"),
        (b"[" * 100_000, 400, "the body is not JSON: recursion limit exceeded"),
        (b'{"text": "a", "timeout": NaN}', 422, "timeout: "),
    ],
)
def test_a_bad_request_is_told_what_is_wrong_and_harms_nobody(server, body, status, message):
    reply = server.post("/predict", body)
    assert (reply.status, message in reply.error) == (status, True), reply.body
    assert server.post("/predict/stream", body).status == status
    assert server.predict(text="hello").status == 200


@pytest.mark.parametrize(
    "body", [{"text": {"a": UNHEARD}}, {"texts": [[UNHEARD]]}, {"text": "a", "timeout": UNHEARD}, {"tasks": UNHEARD}]
)
def test_a_refusal_does_not_repeat_what_was_sent(server, body):
    assert UNHEARD not in server.post("/predict", body).error


def test_more_texts_than_the_server_takes_are_refused_before_they_are_read(start):
    server = start(texts=10)
    assert server.predict(texts=["a"] * 10).status == 200
    reply = server.predict(texts=["a"] * 100_000)
    assert (reply.status, reply.error) == (
        413,
        "100,000 texts in one request; this server takes 10: send several",
    )
    assert server.predict(texts=["a"] * 11).status == 413


def test_a_body_of_millions_of_texts_holds_nobody_up(server, monkeypatch):
    """Nothing is made of its items: the model that would validate them one by one is never asked."""

    class Unasked:
        def validate_json(self, *_):
            raise AssertionError("it is read item by item")

    monkeypatch.setattr(plain_bodies, "_REQUEST", Unasked())
    monkeypatch.setattr(open_inference, "_REQUEST", Unasked())
    many = ["a"] * 1_000_000
    assert server.predict(texts=many).status == 413
    tensor = {"name": "text", "shape": [len(many)], "datatype": "BYTES", "data": many}
    assert server.post("/v2/models/trunkline/infer", {"inputs": [tensor]}).status == 413


def test_names_that_nobody_has_do_not_come_back_by_the_thousand(server):
    reply = server.predict(text="a", tasks=[f"task-{number}" for number in range(900)])
    assert (reply.status, "and 895 more" in reply.error, len(reply.error) < 300) == (404, True, True)
    assert server.predict(text="a", tasks=["a"] * 1001).status == 422
    reply = server.predict(text="a", tasks=["x" * 201])
    assert (reply.status, "xxx" in reply.error) == (422, False)
    reply = server.predict(text="a", tasks=["similarity"] * 900)
    assert (reply.status, reply.error.count("similarity")) == (422, 1)


def test_a_text_of_too_many_characters_is_refused_by_its_number(start):
    reply = start(characters=100).predict(texts=["a", {"text": "a", "text_pair": "b" * 101}])
    assert (reply.status, reply.error) == (422, "input: text 2: has 101 characters; this server takes 100")


def test_a_server_that_refuses_long_texts_answers_none_of_them_in_part(start, release):
    server = start(refuse_long_texts=True)
    reply = server.predict(texts=["york", "york " * release.manifest.trunk.max_length])
    assert reply.status == 422
    assert "text 2: has more than 40 tokens" in reply.error
    assert server.predict(text="york", tasks=["intent"]).status == 200
    assert b'trunkline_answers_total{task="intent",version="1"} 1.0' in server.get("/metrics").body, "only that"


def test_a_stream_brings_each_answer_with_its_release_and_ends_with_an_event(server, release):
    reply = server.post("/predict/stream", {"texts": ["hello", "york " * 50]})
    assert (reply.status, reply.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    *answers, end = events_of(reply.body)
    assert end == ("end", {"release": {"name": "r1", "digest": release.digest}})
    assert {name for name, _ in answers} == {"answer"}
    assert {(one["index"], one["task"], one["version"], one["truncated"]) for _, one in answers} == {
        (index, task, version, index == 1)
        for index in (0, 1)
        for task, version in (("intent", 1), ("city", 2), ("mood", 4))
    }
    plain = server.predict(text="hello").json["answers"]
    assert {one["task"]: one["answer"] for _, one in answers if one["index"] == 0} == plain


class HeldModel:
    """Computes as `model` does, but not the second branch before `released` is set."""

    def __init__(self, model):
        self._model = model
        self.released = threading.Event()

    def __getattr__(self, name):
        return getattr(self._model, name)

    def one_pass(self, *arguments):
        return HeldPass(self._model.one_pass(*arguments), self.released)


class HeldPass:
    pieces = padding = 0

    def __init__(self, computed, released):
        self._computed, self._released = computed, released

    def __iter__(self):
        for number, found in enumerate(self._computed):
            assert number != 1 or self._released.wait(30)
            yield found


@pytest.fixture
def held_model(release):
    model = HeldModel(release.model)
    object.__setattr__(release, "model", model)
    return model


def test_the_answer_of_a_branch_leaves_before_the_next_branch_is_computed(held_model, server):
    with closing(server.connection()) as connection:
        connection.request("POST", "/predict/stream", json.dumps({"text": "hello world"}))
        response = connection.getresponse()
        assert response.readline() == b"event: answer\n"
        held_model.released.set()
        assert response.read().count(b"event: answer") == 2


def test_a_stream_that_is_cut_short_by_its_deadline_says_so_in_an_event(held_model, server):
    reply = server.post("/predict/stream", {"text": "hello world", "timeout": 0.5})
    held_model.released.set()
    assert reply.status == 200
    answer, error = events_of(reply.body)
    assert (answer[0], error[0], error[1]["status"]) == ("answer", "error", 504)
    ended = 'trunkline_errors_total{route="/predict/stream",status="504"} 1.0'
    eventually(lambda: ended in server.get("/metrics").body.decode(), "it is counted as what it ended with")


def test_a_stream_whose_reader_has_gone_is_counted_as_one(held_model, server):
    with closing(server.connection()) as connection:
        connection.request("POST", "/predict/stream", json.dumps({"text": "hello world"}))
        assert connection.getresponse().readline() == b"event: answer\n"
    ended = 'trunkline_errors_total{route="/predict/stream",status="499"} 1.0'
    eventually(lambda: ended in server.get("/metrics").body.decode(), "it is counted as gone")
    held_model.released.set()


def test_a_deadline_ends_a_request_with_504_whatever_the_engine_is_doing(server):
    server.metrics.gate.clear()
    assert server.predict(text="hello", timeout=0.05).status == 504
    for path in ("/predict", "/predict/stream"):
        reply = server.post(path, {"text": "hello"}, {"X-Request-Timeout": "0.05"})
        assert reply.status == 504
        assert "not answered within 0.05 s" in reply.error
    server.metrics.gate.set()
    assert server.predict(text="hello").status == 200


def test_texts_of_many_characters_leave_the_event_loop_to_others(server, monkeypatch):
    asked_by, engine_ask = [], server.engine.ask

    def noted(*arguments, **options):
        asked_by.append(threading.current_thread() is server.thread)
        return engine_ask(*arguments, **options)

    monkeypatch.setattr(server.engine, "ask", noted)
    for text in ("hello", "york " * 1000):
        assert server.predict(text=text).status == 200
    assert asked_by == [True, False]


def test_a_request_whose_time_passes_before_it_has_a_thread_is_not_computed(server, monkeypatch):
    asked, ran, to_thread = [], threading.Event(), asyncio.to_thread

    async def late(call):
        await asyncio.sleep(0.1)
        try:
            return await to_thread(call)
        finally:
            ran.set()

    monkeypatch.setattr(answers, "_TEXTS_ON_THE_LOOP", 0)
    monkeypatch.setattr(answers.asyncio, "to_thread", late)
    monkeypatch.setattr(server.engine, "ask", lambda *_, **__: asked.append(1))
    assert server.predict(text="hello", timeout=0.05).status == 504
    assert ran.wait(30)
    assert not asked


def test_a_request_whose_client_left_before_it_has_a_thread_is_not_computed(server, monkeypatch):
    asked, to_thread = [], asyncio.to_thread
    reached, noticed, ran = threading.Event(), asyncio.Event(), threading.Event()

    class NoticedGone(ClientGone):
        def __init__(self):
            super().__init__()
            noticed.set()

    async def once_the_client_has_left(call):
        reached.set()
        await noticed.wait()
        try:
            return await to_thread(call)
        finally:
            ran.set()

    monkeypatch.setattr(answers, "_TEXTS_ON_THE_LOOP", 0)
    monkeypatch.setattr(answers, "ClientGone", NoticedGone)
    monkeypatch.setattr(answers.asyncio, "to_thread", once_the_client_has_left)
    monkeypatch.setattr(server.engine, "ask", lambda *_, **__: asked.append(1))
    gone = server.connection()
    gone.request("POST", "/predict", json.dumps({"text": "hello"}))
    assert reached.wait(30)
    gone.close()
    counted = 'trunkline_errors_total{route="/predict",status="'
    eventually(lambda: counted in server.get("/metrics").body.decode(), "it has ended")
    assert ran.wait(30)
    assert (counted + '499"} 1.0' in server.get("/metrics").body.decode(), asked) == (True, [])


def test_the_time_for_an_answer_ends_while_texts_are_turned_into_tokens_and_so_does_their_turning(server, monkeypatch):
    turned, may_go_on, ended = [], threading.Event(), threading.Event()
    rows, ask = server.engine.release.encoder.rows, server.engine.ask

    def slow(texts):
        for row in rows(texts):
            assert may_go_on.wait(30)
            turned.append(1)
            yield row

    def noted(*arguments, **options):
        try:
            return ask(*arguments, **options)
        finally:
            ended.set()

    monkeypatch.setattr(server.engine.release.encoder, "rows", slow)
    monkeypatch.setattr(server.engine, "ask", noted)
    assert server.predict(texts=["hello"] * 40, timeout=1).status == 504, "the answer waits for no thread"
    may_go_on.set()
    assert ended.wait(30)
    assert len(turned) <= 1, "nobody would have read the others"
    monkeypatch.undo()
    assert server.predict(texts=["york"] * 40).status == 200


def test_more_texts_than_threads_can_turn_into_tokens_soon_are_refused(start, monkeypatch):
    monkeypatch.setattr(Limits, "untokenised_bytes", 5_000)
    server, within, over = start(), threading.Event(), threading.Event()
    rows = server.engine.release.encoder.rows

    def slow(texts):
        if len(texts[0][0]) > 2_000:
            within.set()
            assert over.wait(30)
        return rows(texts)

    monkeypatch.setattr(server.engine.release.encoder, "rows", slow)
    with closing(server.connection()) as first:
        first.request("POST", "/predict", json.dumps({"text": "york " * 700}))
        assert within.wait(30)
        refused = server.predict(text="york " * 600)
        assert (refused.status, refused.headers["retry-after"]) == (429, "1")
        assert "bytes of text are being turned into tokens already" in refused.error
        assert server.predict(text="hello").status == 200, "short texts need no thread"
        over.set()
        assert reply_of(first).status == 200
    assert server.predict(text="york " * 600).status == 200, "there is room again"


@pytest.mark.parametrize("timeout", ["soon", "0", "-1", "inf", "nan", ""])
def test_a_timeout_that_is_none_is_refused(server, timeout):
    reply = server.post("/predict", {"text": "hello"}, {"X-Request-Timeout": timeout})
    assert (reply.status, reply.error) == (422, "X-Request-Timeout: must be a number of seconds above 0")


def test_a_full_queue_says_when_to_come_back(start):
    server = start(settings=EngineSettings(waiting_texts=2))
    server.metrics.gate.clear()
    first = server.in_background("/predict", {"text": "in the batch"})
    assert server.metrics.at_gate.wait(30)
    second = server.in_background("/predict", {"texts": ["waits", "too"]})
    eventually(lambda: server.engine.waiting == 2, "two texts wait")
    reply = server.predict(text="one too many")
    assert reply.status == 429
    assert int(reply.headers["retry-after"]) >= 1
    server.metrics.gate.set()
    assert (first().status, second().status) == (200, 200)


@pytest.mark.parametrize("path", ["/predict", "/predict/stream", "/v2/models/trunkline/infer"])
def test_a_client_that_goes_away_takes_its_texts_out_of_the_queue(server, path):
    server.metrics.gate.clear()
    first = server.in_background("/predict", {"text": "in the batch"})
    assert server.metrics.at_gate.wait(30)
    body = {"text": "nobody waits"}
    if path.startswith("/v2"):
        body = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["nobody waits"]}]}
    gone = server.connection()
    gone.request("POST", path, json.dumps(body))
    eventually(lambda: server.engine.waiting == 1, "the text waits")
    gone.close()
    eventually(lambda: server.engine.waiting == 0, "the text leaves the queue")
    server.metrics.gate.set()
    assert first().status == 200


def test_the_release_is_described_with_its_tasks(server, release):
    found = ReleaseDescription.model_validate_json(server.get("/release").body)
    assert (found.release.name, found.release.digest, found.precision) == ("r1", release.digest, "fp32")
    assert found.tasks["intent"].labels == ["no", "yes", "perhaps"]
    assert found.following is None


def test_an_unknown_path_and_a_wrong_method_say_so(server):
    assert server.get("/nowhere").status == 404
    assert "GET /openapi.json" in server.get("/nowhere").error
    reply = server.get("/predict")
    assert (reply.status, reply.headers["allow"]) == (405, "POST")
    assert "GET is not among" in reply.error
