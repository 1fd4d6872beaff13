import hashlib
import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.domain.digests import (
    TensorBytes,
    first_difference,
    prefix_digests,
    prefix_root,
    tensors_digest,
    tokenizer_digest,
)

tensors = st.builds(
    TensorBytes,
    name=st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    dtype=st.sampled_from(["F32", "F16", "BF16"]),
    shape=st.lists(st.integers(0, 2**40), max_size=4).map(tuple),
    data=st.binary(max_size=32),
)
tensor_sets = st.lists(tensors, max_size=5, unique_by=lambda tensor: tensor.name)


def spelt_out(parts: list[TensorBytes]) -> str:
    """The layout of docs/digests.md, written a second time."""
    layout = b"trunkline tensors 1\n"
    for name, tensor in sorted((t.name.encode(), t) for t in parts):
        dtype = tensor.dtype.encode()
        layout += struct.pack("<Q", len(name)) + name + struct.pack("<Q", len(dtype)) + dtype
        layout += struct.pack(f"<Q{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        layout += struct.pack("<Q", len(tensor.data)) + tensor.data
    return hashlib.sha256(layout).hexdigest()


@given(tensor_sets)
def test_the_digest_of_tensors_has_the_documented_layout(parts: list[TensorBytes]) -> None:
    assert tensors_digest(parts) == spelt_out(parts)


@given(tensor_sets, st.randoms())
def test_the_order_of_tensors_does_not_matter(parts: list[TensorBytes], random: Any) -> None:
    shuffled = list(parts)
    random.shuffle(shuffled)
    assert tensors_digest(shuffled) == tensors_digest(parts)


@given(tensor_sets, tensor_sets)
def test_other_tensors_have_another_digest(left: list[TensorBytes], right: list[TensorBytes]) -> None:
    same = sorted(left, key=lambda t: t.name) == sorted(right, key=lambda t: t.name)
    assert (tensors_digest(left) == tensors_digest(right)) is same


def test_bytes_cannot_move_from_one_field_to_the_next() -> None:
    whole = TensorBytes("ab", "F32", (), b"")
    assert tensors_digest([whole]) != tensors_digest([whole._replace(name="a", dtype="bF32")])


def test_a_view_has_the_digest_of_its_bytes() -> None:
    tensor = TensorBytes("a", "F32", (1,), b"1234")
    assert tensors_digest([tensor._replace(data=memoryview(b"1234"))]) == tensors_digest([tensor])


def test_a_tokenizers_padding_and_truncation_are_not_its_identity() -> None:
    content = {"model": {"vocab": {"a": 0}}, "version": "1.0"}
    used = {"version": "1.0", "padding": {"pad_id": 0}, "truncation": {"max_length": 3}, "model": {"vocab": {"a": 0}}}
    expected = hashlib.sha256(b'{"model":{"vocab":{"a":0}},"version":"1.0"}').hexdigest()
    assert tokenizer_digest(json.dumps(content).encode()) == expected
    assert tokenizer_digest(json.dumps(used, indent=2).encode()) == expected
    assert tokenizer_digest(json.dumps(content | {"normalizer": None}).encode()) != expected


def root(**fields: Any) -> dict[str, Any]:
    parts: dict[str, Any] = {
        "model_type": "bert",
        "config": {"hidden_size": 4, "layer_norm_eps": 1e-12},
        "max_length": 128,
        "embeddings": "e" * 64,
        "tokenizer": "f" * 64,
    }
    return prefix_root(**(parts | fields))


def layer(number: int) -> str:
    return hashlib.sha256(bytes([number])).hexdigest()


def test_the_chain_of_prefixes_has_the_documented_layout() -> None:
    text = (
        '{"config":{"hidden_size":4,"layer_norm_eps":1e-12},"embeddings":"' + "e" * 64 + '","max_length":128,'
        '"model_type":"bert","tokenizer":"' + "f" * 64 + '"}'
    )
    zero = hashlib.sha256(b"trunkline prefix 1\n" + text.encode())
    one = hashlib.sha256(zero.digest() + bytes.fromhex(layer(1)))
    two = hashlib.sha256(one.digest() + bytes.fromhex(layer(2)))
    assert prefix_digests(root(), [layer(1), layer(2)]) == (zero.hexdigest(), one.hexdigest(), two.hexdigest())


@given(st.lists(st.integers(0, 3), max_size=6), st.lists(st.integers(0, 3), max_size=6))
def test_prefixes_agree_exactly_as_far_as_the_layers_do(left: list[int], right: list[int]) -> None:
    ours = prefix_digests(root(), [layer(n) for n in left])
    theirs = prefix_digests(root(), [layer(n) for n in right])
    for depth in range(min(len(left), len(right)) + 1):
        assert (ours[depth] == theirs[depth]) is (left[:depth] == right[:depth])


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        (root(model_type="roberta"), "model_type (bert against roberta)"),
        (root(max_length=64), "max_length (128 against 64)"),
        (root(tokenizer="0" * 64), "tokenizer"),
        (root(embeddings="0" * 64), "embeddings"),
        (
            root(config={"hidden_size": 4, "layer_norm_eps": 1e-6}),
            "config field layer_norm_eps (1e-12 against 1e-06)",
        ),
        (root(config={"hidden_size": 4}), "config field layer_norm_eps (1e-12 against None)"),
    ],
)
def test_the_field_that_differs_is_named(theirs: dict[str, Any], said: str) -> None:
    assert first_difference(root(), [layer(1)], theirs, [layer(2)], depth=1) == said
    assert prefix_digests(root(), []) != prefix_digests(theirs, [])


def test_the_first_layer_that_differs_is_named() -> None:
    ours, theirs = [layer(n) for n in (1, 2, 3)], [layer(n) for n in (1, 9)]
    assert first_difference(root(), ours, root(), theirs, depth=1) is None
    assert first_difference(root(), ours, root(), theirs, depth=2) == "layer 2"
    assert first_difference(root(), ours[:1], root(), theirs, depth=2) == "layer 2 (missing in one of them)"
