"""The server as a client that others wrote sees it."""

import json
from contextlib import closing

import numpy as np
import pytest
from tritonclient import http
from tritonclient.http import InferInput


@pytest.fixture
def triton(server):
    with closing(http.InferenceServerClient(f"127.0.0.1:{server.port}")) as client:
        yield client


def text_input(*texts: str, name: str = "text", binary: bool = True, column: bool = False):
    array = np.array([text.encode() for text in texts], dtype=np.object_)
    if column:
        array = array.reshape(-1, 1)
    tensor = InferInput(name, list(array.shape), "BYTES")
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def test_it_finds_the_server_and_its_model(triton):
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("trunkline")
    assert triton.is_model_ready("trunkline", "r1")
    assert not triton.is_model_ready("trunkline", "r2")
    assert triton.get_server_metadata()["name"] == "trunkline"
    assert triton.get_model_metadata("trunkline", "r1")["versions"] == ["r1"]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("column", [True, False])
def test_it_gets_what_the_plain_route_answers(triton, server, binary_in, binary_out, column):
    from tritonclient.http import InferRequestedOutput

    texts = ["she visited new york", "Zürich 😀"]
    names = ["intent", "intent.probabilities", "city", "truncated"]
    found = triton.infer(
        "trunkline",
        [text_input(*texts, binary=binary_in, column=column)],
        outputs=[InferRequestedOutput(name, binary_data=binary_out) for name in names],
        request_id="seven",
    )
    plain = server.predict(texts=texts, tasks=["intent", "city"]).json["predictions"]
    for task in ("intent", "city"):
        answers = [json.loads(one) for one in found.as_numpy(task)]
        assert answers == [one["answers"][task] for one in plain]
    probabilities = found.as_numpy("intent.probabilities")
    assert probabilities.shape == (2, 3)
    assert probabilities.dtype == np.float32
    expected = [list(one["answers"]["intent"]["probabilities"].values()) for one in plain]
    np.testing.assert_array_equal(probabilities, np.array(expected, dtype=np.float32))
    assert found.as_numpy("truncated").tolist() == [False, False]
    assert found.get_response()["id"] == "seven"
    assert found.get_response()["model_version"] == "r1"


def test_it_gets_every_output_without_naming_one_and_pairs_too(triton):
    found = triton.infer("trunkline", [text_input("hello"), text_input("world", name="text_pair")], timeout=20_000_000)
    assert "value" in json.loads(found.as_numpy("similarity")[0])


def test_it_reads_errors(triton):
    from tritonclient.utils import InferenceServerException

    with pytest.raises(InferenceServerException, match="text 1: is empty") as refused:
        triton.infer("trunkline", [text_input(" ")])
    assert refused.value.status() == "422"
    with pytest.raises(InferenceServerException, match="there is no model bert"):
        triton.get_model_metadata("bert")
