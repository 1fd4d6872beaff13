import io
import json
import math
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy
import pytest
import safetensors
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.artifacts.safetensors_file import ITEM_BYTES, SafetensorsFile, safetensors_bytes
from registry.domain.digests import TensorBytes
from registry.errors import InvalidWeights

on_one_file = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)


@st.composite
def tensors(draw: st.DrawFn) -> list[TensorBytes]:
    names = draw(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), max_size=5, unique=True))
    found = []
    for name in names:
        dtype = draw(st.sampled_from(sorted(ITEM_BYTES)))
        shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
        length = math.prod(shape) * ITEM_BYTES[dtype]
        found.append(TensorBytes(name, dtype, shape, draw(st.binary(min_size=length, max_size=length))))
    return [tensor for tensor in found if tensor.name != "__metadata__"]


def as_read(path: Path) -> dict[str, TensorBytes]:
    with SafetensorsFile(path) as file:
        read = {name: file.tensor(name) for name in file.entries}
        return {name: tensor._replace(data=bytes(tensor.data)) for name, tensor in read.items()}


def by_name(parts: list[TensorBytes]) -> dict[str, TensorBytes]:
    return {tensor.name: tensor for tensor in parts}


@on_one_file
@given(parts=tensors())
def test_what_is_written_is_read_back(tmp_path: Path, parts: list[TensorBytes]) -> None:
    path = tmp_path / "file.safetensors"
    path.write_bytes(safetensors_bytes(parts))
    assert as_read(path) == by_name(parts)


@given(tensors())
def test_the_safetensors_library_reads_what_is_written(parts: list[TensorBytes]) -> None:
    read = {
        name: TensorBytes(name, entry["dtype"], tuple(entry["shape"]), bytes(entry["data"]))
        for name, entry in safetensors.deserialize(safetensors_bytes(parts))
    }
    assert read == by_name(parts)


@given(tensors(), st.randoms())
def test_the_same_tensors_give_the_same_bytes_in_any_order(parts: list[TensorBytes], random: Any) -> None:
    shuffled = list(parts)
    random.shuffle(shuffled)
    assert safetensors_bytes(shuffled) == safetensors_bytes(parts)


@on_one_file
@given(parts=tensors())
def test_every_tensor_is_aligned_to_its_items(tmp_path: Path, parts: list[TensorBytes]) -> None:
    path = tmp_path / "file.safetensors"
    path.write_bytes(safetensors_bytes(parts))
    with SafetensorsFile(path) as file:
        assert all(entry.begin % ITEM_BYTES[entry.dtype] == 0 for entry in file.entries.values())


def test_what_the_library_writes_is_read(tmp_path: Path) -> None:
    arrays = {
        "half": numpy.arange(6, dtype=numpy.float16).reshape(2, 3),
        "single": numpy.array(1.5, dtype=numpy.float32),
        "whole": numpy.zeros((0, 4), dtype=numpy.int64),
        "bool": numpy.array([True, False, True]),
    }
    path = tmp_path / "file.safetensors"
    safetensors.numpy.save_file(arrays, path, metadata={"format": "np"})
    assert as_read(path) == {
        "half": TensorBytes("half", "F16", (2, 3), arrays["half"].tobytes()),
        "single": TensorBytes("single", "F32", (), arrays["single"].tobytes()),
        "whole": TensorBytes("whole", "I64", (0, 4), b""),
        "bool": TensorBytes("bool", "BOOL", (3,), arrays["bool"].tobytes()),
    }


def test_tensors_are_views_that_outlive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    path.write_bytes(safetensors_bytes([TensorBytes("a", "F32", (2,), b"12345678")]))
    with SafetensorsFile(path) as file:
        tensor = file.tensor("a")
    assert isinstance(tensor.data, memoryview)
    assert tensor.data.readonly
    assert bytes(tensor.data) == b"12345678"


def test_a_tensor_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    path.write_bytes(safetensors_bytes([]))
    with SafetensorsFile(path) as file, pytest.raises(InvalidWeights, match=r"file\.safetensors: has no tensor b"):
        file.tensor("b")


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([TensorBytes("a", "U8", (1,), b"1"), TensorBytes("a", "U8", (1,), b"2")], "two tensors are named a"),
        ([TensorBytes("a", "F32", (1,), b"123")], r"a: 3 bytes are not F32 \[1\]"),
    ],
)
def test_what_would_be_no_file_is_not_written(parts: list[TensorBytes], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        safetensors_bytes(parts)


def file_of(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def one(**changes: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


def torch_archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"weight": [1.0]}))
    return buffer.getvalue()


EIGHT = b"12345678"
TWO = {
    "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
    "b": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
}

DAMAGED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "it has only 0 bytes"),
    "seven bytes": (b"\x00" * 7, "it has only 7 bytes"),
    "zeros": (b"\x00" * 64, "its header is not JSON"),
    "header beyond the end": ((1000).to_bytes(8, "little") + b"{}", "its header claims 1000 bytes of 10"),
    "huge header": ((2**63).to_bytes(8, "little") + b"{}", "its header claims 9223372036854775808 bytes"),
    "text": (b"not weights at all", "its header claims"),
    "header not JSON": (file_of(b"{'a': 1}"), "its header is not JSON"),
    "header not UTF-8": (file_of(b'{"\xff": 1}'), "its header is not JSON"),
    "header nested without end": (file_of(b"[" * 200_000), "its header is not JSON"),
    "header not an object": (file_of([1, 2]), "its header is not a JSON object"),
    "tensor named twice": (
        file_of(
            b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'
        ),
        "names a tensor twice",
    ),
    "tensor not described": (file_of({"a": 3}), "tensor a is not described by dtype, shape and data_offsets"),
    "field missing": (file_of({"a": {"dtype": "F32", "shape": [0]}}), "tensor a is not described by"),
    "field too many": (file_of(one(strides=[1]), EIGHT), "tensor a is not described by"),
    "three offsets": (file_of(one(data_offsets=[0, 4, 8]), EIGHT), "tensor a is not described by"),
    "shape not a list": (file_of(one(shape=2), EIGHT), "tensor a is not described by"),
    "negative shape": (file_of(one(shape=[-1, -2]), EIGHT), "not whole numbers"),
    "boolean shape": (file_of(one(shape=[2, True]), EIGHT), "not whole numbers"),
    "fractional offset": (file_of(one(data_offsets=[0, 8.0]), EIGHT), "not whole numbers"),
    "unknown dtype": (file_of(one(dtype="F33"), EIGHT), "tensor a has the unknown dtype F33"),
    "bytes do not fit the shape": (file_of(one(shape=[3]), EIGHT), "tensor a has 8 bytes, which is not F32 [3]"),
    "bytes do not fit the dtype": (file_of(one(dtype="F16"), EIGHT), "tensor a has 8 bytes, which is not F16 [2]"),
    "offsets reversed": (file_of(one(shape=[0], data_offsets=[8, 0]), EIGHT), "tensor a has -8 bytes"),
    "truncated": (file_of(one(), EIGHT[:7]), "its tensors end at byte"),
    "bytes after the end": (file_of(one(), EIGHT + b"9"), "its tensors end at byte"),
    "gap": (file_of({"b": TWO["b"]}, EIGHT), "tensor b begins at byte"),
    "overlap": (file_of({**TWO, "c": TWO["b"]}, EIGHT), "tensor c begins at byte"),
    "pickle": (pickle.dumps({"weight": [1.0] * 100}), "is a pickled checkpoint; Trunkline reads only safetensors"),
    "old pickle": (pickle.dumps({"weight": [1.0] * 100}, protocol=2), "is a pickled checkpoint; Trunkline reads only"),
    "torch.save": (torch_archive(), "is a zip archive, most likely a pickled checkpoint; Trunkline reads only"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + b"\x00" * 64, "is an HDF5 file; Trunkline reads only safetensors"),
    "GGUF": (b"GGUF\x03\x00\x00\x00" + b"\x00" * 64, "is a GGUF file; Trunkline reads only safetensors"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "run `git lfs pull`"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_file_is_refused_and_named(tmp_path: Path, damage: str) -> None:
    data, said = DAMAGED[damage]
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(InvalidWeights) as refused:
        SafetensorsFile(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert said in str(refused.value)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.safetensors"):
        with pytest.raises(InvalidWeights, match=f"{path}: cannot be read"):
            SafetensorsFile(path)


WHOLE = safetensors_bytes([TensorBytes("a", "F32", (2,), EIGHT), TensorBytes("b", "BF16", (3, 1), b"123456")])


@on_one_file
@given(length=st.integers(0, len(WHOLE) - 1))
def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(WHOLE[:length])
    with pytest.raises(InvalidWeights):
        SafetensorsFile(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(place=st.integers(0, len(WHOLE) - 1), value=st.integers(0, 255))
def test_a_changed_byte_is_refused_or_leaves_a_file_that_the_library_reads_alike(
    tmp_path: Path, place: int, value: int
) -> None:
    changed = WHOLE[:place] + bytes([value]) + WHOLE[place + 1 :]
    path = tmp_path / "model.safetensors"
    path.write_bytes(changed)
    try:
        read = as_read(path)
    except InvalidWeights:
        return
    library = {
        name: TensorBytes(name, entry["dtype"], tuple(entry["shape"]), bytes(entry["data"]))
        for name, entry in safetensors.deserialize(changed)
    }
    assert read == library
