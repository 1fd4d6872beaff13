import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import InvalidInput
from serving.http.open_inference import decode_request
from serving.http.refusals import Refused
from tests.waiting import eventually

PATH = "/v2/models/trunkline/infer"


def packed(*elements: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def binary_request(raw: bytes, *, count: int, **fields) -> tuple[bytes, dict[str, str]]:
    tensor = {"name": "text", "shape": [count], "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
    header = json.dumps({"inputs": [tensor], **fields}).encode()
    return header + raw, {"Inference-Header-Content-Length": str(len(header))}


def json_request(*texts: str, shape: list[int] | None = None, **fields) -> dict:
    tensor = {"name": "text", "shape": shape or [len(texts)], "datatype": "BYTES", "data": list(texts)}
    return {"inputs": [tensor], **fields}


def elements(raw: bytes) -> list[bytes]:
    found = []
    while raw:
        (length,) = struct.unpack_from("<I", raw)
        found.append(raw[4 : 4 + length])
        raw = raw[4 + length :]
    return found


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1))
def test_texts_are_the_same_whether_they_come_in_the_json_or_behind_it(texts):
    in_json = decode_request(json.dumps(json_request(*texts)).encode(), None, most_texts=1000)
    body, headers = binary_request(packed(*(text.encode() for text in texts)), count=len(texts))
    behind_it = decode_request(body, headers["Inference-Header-Content-Length"], most_texts=1000)
    assert [text.text for text in in_json.texts] == [text.text for text in behind_it.texts] == texts


@given(st.binary(), st.one_of(st.none(), st.text(), st.integers(0, 100).map(str)))
def test_any_bytes_are_a_request_or_refused(body, header_length):
    with pytest.raises((Refused, InvalidInput)):
        decode_request(body, header_length, most_texts=1000)


@given(st.binary(min_size=1))
def test_any_bytes_of_a_tensor_are_texts_or_refused(raw):
    body, headers = binary_request(raw, count=1)
    try:
        (text,) = decode_request(body, headers["Inference-Header-Content-Length"], most_texts=1000).texts
    except (Refused, InvalidInput):
        return
    assert packed(text.text.encode()) == raw


def test_each_task_is_an_output_and_classes_have_probabilities_beside(server, release):
    reply = server.post(PATH, json_request("hello", "she visited york", id="seven"))
    found = reply.json
    assert reply.status == 200
    assert (found["model_name"], found["model_version"], found["id"]) == ("trunkline", "r1", "seven")
    assert found["parameters"] == {"digest": release.digest, "truncated_texts": 0}
    by_name = {one["name"]: one for one in found["outputs"]}
    assert set(by_name) == {"truncated", "intent", "intent.probabilities", "city", "mood", "mood.probabilities"}
    plain = server.predict(texts=["hello", "she visited york"], tasks=["intent"]).json["predictions"]
    assert by_name["intent"]["shape"] == [2]
    assert by_name["intent"]["parameters"] == {"version": 1}
    assert [json.loads(one) for one in by_name["intent"]["data"]] == [one["answers"]["intent"] for one in plain]
    assert by_name["intent.probabilities"]["shape"] == [2, 3]
    assert by_name["intent.probabilities"]["data"][3:] == list(plain[1]["answers"]["intent"]["probabilities"].values())
    assert by_name["truncated"] == {
        "name": "truncated",
        "datatype": "BOOL",
        "shape": [2],
        "parameters": {},
        "data": [False, False],
    }


def test_requested_outputs_come_alone_in_their_order_and_as_each_is_wanted(server):
    wanted = [
        {"name": "mood.probabilities", "parameters": {"binary_data": True}},
        {"name": "intent"},
        {"name": "truncated", "parameters": {"binary_data": True}},
    ]
    reply = server.post(PATH, json_request("hello", "york " * 50, outputs=wanted))
    length = int(reply.headers["inference-header-content-length"])
    found = json.loads(reply.body[:length])
    assert found["parameters"]["truncated_texts"] == 1
    probabilities, intent, truncated = found["outputs"]
    assert [probabilities["name"], intent["name"], truncated["name"]] == ["mood.probabilities", "intent", "truncated"]
    assert probabilities["parameters"] == {"version": 4, "binary_data_size": 24}
    assert "data" not in probabilities
    assert len(intent["data"]) == 2
    raw = reply.body[length:]
    assert len(raw) == 24 + 2
    assert sum(struct.unpack("<3f", raw[:12])) == pytest.approx(1.0)
    assert raw[24:] == b"\x00\x01"


def test_all_outputs_come_as_bytes_where_the_request_says_so(server):
    parameters = {"binary_data_output": True}
    reply = server.post(PATH, json_request("hello", parameters=parameters, outputs=[{"name": "city"}]))
    assert reply.headers["content-type"] == "application/octet-stream"
    length = int(reply.headers["inference-header-content-length"])
    (city,) = elements(reply.body[length:])
    assert "spans" in json.loads(city)


def test_a_column_of_texts_and_one_of_pairs_are_rows_of_pairs(server):
    shape = [2, 1]
    inputs = [
        {"name": "text", "shape": shape, "datatype": "BYTES", "data": [["hello"], ["york"]]},
        {"name": "text_pair", "shape": shape, "datatype": "BYTES", "data": ["world", "city"]},
    ]
    found = server.post(PATH, {"inputs": inputs}).json["outputs"]
    assert [one["name"] for one in found] == ["truncated", "similarity"]
    assert [set(json.loads(one)) for one in found[1]["data"]] == [{"value"}, {"value"}]


def test_a_request_may_name_the_release_and_gets_no_other(server):
    assert server.post("/v2/models/trunkline/versions/r1/infer", json_request("hello")).status == 200
    for path, message in {
        "/v2/models/trunkline/versions/r2": "version r2 is not served; this server serves r1 alone",
        "/v2/models/bert": "there is no model bert; this server serves trunkline",
    }.items():
        replies = [server.post(f"{path}/infer", json_request("hello")), server.get(path), server.get(f"{path}/ready")]
        assert [(one.status, one.error) for one in replies] == [(404, message)] * 3


def test_the_metadata_names_inputs_outputs_and_labels(server, release):
    found = server.get("/v2/models/trunkline").json
    assert found == server.get("/v2/models/trunkline/versions/r1").json
    assert (found["name"], found["versions"]) == ("trunkline", ["r1"])
    assert [one["name"] for one in found["inputs"]] == ["text", "text_pair"]
    outputs = {one["name"]: one for one in found["outputs"]}
    assert outputs["intent.probabilities"] == {
        "name": "intent.probabilities",
        "datatype": "FP32",
        "shape": [-1, 3],
        "parameters": {
            "version": 1,
            "type": "classification",
            "input_form": "single",
            "labels": ["no", "yes", "perhaps"],
        },
    }
    assert found["parameters"]["digest"] == release.digest


def test_the_server_says_that_it_lives_and_is_ready(server):
    assert server.get("/v2").json["extensions"] == ["binary_tensor_data"]
    assert server.get("/v2/health/live").json == {"live": True}
    for path in ("/v2/health/ready", "/v2/models/trunkline/ready", "/v2/models/trunkline/versions/r1/ready"):
        reply = server.get(path)
        assert (reply.status, reply.json) == (200, {"ready": True, "release": "r1", "following": None})


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_server_whose_lane_has_ended_is_not_ready(server, monkeypatch):
    def fail(*_):
        raise SystemError("broken")

    monkeypatch.setattr(server.engine, "_compute_next", fail)
    server.predict(text="the lane finds out with its next batch")
    eventually(lambda: not server.engine.working, "the lane ends")
    reply = server.get("/v2/health/ready")
    assert (reply.status, reply.json["ready"]) == (503, False)
    assert "a thread that computes has ended" in reply.json["error"]
    assert server.get("/v2/health/live").status == 200


def tensor(**changes) -> dict:
    return {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["hello"]} | changes]}


@pytest.mark.parametrize(
    ("request_body", "status", "message"),
    [
        (tensor(name="words"), 422, "words: is no input; the inputs are text and text_pair"),
        (tensor(name="text_pair"), 422, "text: is missing"),
        (tensor(datatype="FP32"), 422, "text: must be BYTES, not FP32"),
        (tensor(shape=[2]), 422, "text: has fewer elements than its shape [2]"),
        (tensor(shape=[1, 2]), 422, "text: its shape must be [n] or [n, 1]"),
        (tensor(shape=[1, 1_000_000]), 422, "text: its shape must be [n] or [n, 1]"),
        (tensor(shape=[1_000_000, 1]), 413, "1,000,000 texts in one request"),
        (tensor(shape=[]), 422, "text: its shape must be [n] or [n, 1]"),
        (tensor(shape=[-1]), 422, "text: its shape must be [n] or [n, 1]"),
        (tensor(shape=[0], data=[]), 422, "text: its shape must be [n] or [n, 1]"),
        (tensor(shape="[1]"), 422, "inputs.0.shape: input should be a valid array"),
        (tensor(data=None), 422, "text: has no data"),
        (tensor(data=[5]), 422, "text: every element of its data must be a string"),
        (tensor(data=[["a", "b"]]), 422, "text: every element of its data must be a string"),
        (tensor(data=[" "]), 422, "text 1: is empty"),
        (tensor(parameters={"binary_data_size": 3}), 400, "header Inference-Header-Content-Length is missing"),
        ({"inputs": []}, 422, "text: is missing"),
        ({"inputs": tensor()["inputs"] * 2}, 422, "text: is there twice"),
        ({}, 422, "inputs: is missing"),
        ({**tensor(), "outputs": [{"name": "nothing"}]}, 404, "not an output of this release: nothing"),
        ({**tensor(), "outputs": [{"name": "similarity"}]}, 422, "similarity: reads a pair of texts"),
        ({**tensor(), "outputs": [{"name": "truncated"}]}, 422, "name a task beside truncated"),
        ({**tensor(), "outputs": [{"name": "city"}] * 2}, 422, "outputs: one is named twice"),
        ({**tensor(), "parameters": {"timeout": "soon"}}, 422, "parameters.timeout: must be a whole number"),
        ({**tensor(), "parameters": {"timeout": 0}}, 422, "parameters.timeout: must be a whole number"),
        ({**tensor(), "parameters": {"binary_data_output": 1}}, 422, "binary_data_output: must be true or false"),
        (b"{", 400, "the body is not JSON"),
        (b"\xff\xfe", 400, "the body is not JSON"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(server, request_body, status, message):
    reply = server.post(PATH, request_body)
    assert (reply.status, message in reply.error) == (status, True), reply.body
    assert server.get("/v2/health/ready").status == 200


@pytest.mark.parametrize(
    ("raw", "count", "message"),
    [
        (b"\x05\x00", 1, "its bytes end within the length of element 0"),
        (packed(b"a") + b"\x05\x00\x00\x00abc", 2, "its bytes end within element 1"),
        (packed(b"\xff\xfe"), 1, "element 0 is not UTF-8"),
        (packed("\ud800".encode("utf-8", "surrogatepass")), 1, "element 0 is not UTF-8"),
        (packed(b"a", b"b"), 1, "has more elements than its shape [1]"),
        (b"\xff\xff\xff\xff", 1, "its bytes end within element 0"),
    ],
)
def test_broken_binary_texts_are_refused(server, raw, count, message):
    body, headers = binary_request(raw, count=count)
    reply = server.post(PATH, body, headers)
    assert reply.status in (400, 422)
    assert message in reply.error


@pytest.mark.parametrize(
    ("length", "message"),
    [
        ("many", "must be a number of bytes"),
        ("-1", "must be a number of bytes"),
        ("99999999", "and the whole body has"),
        ("0", "the body is not JSON"),
    ],
)
def test_a_wrong_header_length_is_refused(server, length, message):
    body, _ = binary_request(packed(b"hello"), count=1)
    reply = server.post(PATH, body, {"Inference-Header-Content-Length": length})
    assert (reply.status, message in reply.error) == (400, True), reply.body


def test_bytes_that_belong_to_no_input_are_refused(server):
    body, headers = binary_request(packed(b"hello"), count=1)
    reply = server.post(PATH, body + b"more", headers)
    assert (reply.status, reply.error) == (400, "4 bytes at the body's end belong to no input")


def test_the_timeout_of_a_request_is_in_microseconds(server):
    server.metrics.gate.clear()
    reply = server.post(PATH, json_request("hello", parameters={"timeout": 50_000}))
    assert (reply.status, "within 0.05 s" in reply.error) == (504, True)
