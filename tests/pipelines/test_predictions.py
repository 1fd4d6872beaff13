import json

import pytest

from pipelines.data.predictions import DevPredictions
from registry.errors import ArtifactDamaged


def test_what_is_written_is_read_again() -> None:
    for gold, predicted in (
        (["a", "b"], ["b", "b"]),
        ([0.5, -1.0], [0.25, 2.0]),
        ([["O", "B-x"], ["O"]], [["O", None], ["B-x"]]),
    ):
        written = DevPredictions(gold, predicted)
        assert DevPredictions.parse(written.to_bytes(), "rte/1") == written


def test_it_is_one_line_a_row() -> None:
    lines = DevPredictions(["a"], ["b"]).to_bytes().splitlines()
    assert [json.loads(line) for line in lines] == [{"row": 0, "gold": "a", "predicted": "b"}]


@pytest.mark.parametrize(
    "data",
    [
        b"not json\n",
        b"[1]\n",
        b'{"row": 0, "gold": "a"}\n',
        b'{"row": 1, "gold": "a", "predicted": "b"}\n',
        b'{"row": 0, "gold": "a", "predicted": "b"}\n{"row": 0, "gold": "a", "predicted": "b"}\n',
    ],
)
def test_a_damaged_file_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(ArtifactDamaged, match="rte/1"):
        DevPredictions.parse(data, "rte/1")
