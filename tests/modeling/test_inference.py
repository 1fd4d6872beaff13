"""The prepared model answers as the merged one does, whatever is packed together and in whatever order."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModel

from modeling import inference, inference_layers
from modeling.backbone import layers_of, load_text_encoder
from modeling.batching import all_words, place_counts, row_outputs
from modeling.inference import Form, InferenceBranch, InferenceModel, InferenceTrunk
from modeling.inference_layers import (
    FirstPieceLayer,
    FirstPieceLayerOnStates,
    InferenceLayer,
    attention_by_products,
    best_attention,
    first_piece_layer,
    fused_attention,
)
from modeling.multitask import load_merged_model
from modeling.packing import Packed
from modeling.products import WAYS
from modeling.text import EncodedText
from registry.domain.families import FAMILIES
from registry.domain.task_specs import TaskType
from tests.conftest import family_config, randomise

CLASSIFICATION, REGRESSION, TOKENS = TaskType.CLASSIFICATION, TaskType.REGRESSION, TaskType.TOKEN_CLASSIFICATION
TEXTS = [
    ("hello", None),
    ("new york and the world, hello", None),
    ("a", "the end of the hello world"),
    ("she visited new york", None),
    ("hello world " * 30, None),
    ("the", None),
]
CPU = torch.device("cpu")


def prepared(model, precision="fp32"):
    form = Form(precision, CPU)
    branches = {task: InferenceBranch(model.branch(task), depth, form) for task, depth in model.frozen_depths.items()}
    return InferenceModel(InferenceTrunk.of(model.trunk, form), branches, form)


def merged_outputs(model, encoder, encoded, tasks):
    """Task -> one output a row, of the merged model, in one padded batch."""
    with torch.no_grad():
        outputs = model(encoder.collate(encoded), dict.fromkeys(tasks))
    return {task: row_outputs(outputs[task], encoded) for task in tasks}


def packed_outputs(model, encoded, rows):
    found = {}
    for task, outputs in model.one_pass(encoded, rows):
        if model.branches[task].head.reading == "words":
            of_task = [encoded[row] for row in rows[task]]
            outputs = outputs.split(place_counts(of_task, token_level=True))
            outputs = map(all_words, outputs, of_task)
        found[task] = dict(zip(rows[task], outputs, strict=True))
    return found


def assert_same(found, expected, rows, tolerance=2e-5):
    for task, asked in rows.items():
        assert list(found[task]) == list(asked)
        for row in asked:
            torch.testing.assert_close(found[task][row], expected[task][row], atol=tolerance, rtol=tolerance)


@pytest.fixture
def merged(pinned, make_branch, make_manifest):
    """Every kind of head, leaving at depths 0 to 3."""
    branches = {
        "topic": make_branch(pinned, CLASSIFICATION, depth=2, layers=1, seed=1),
        "score": make_branch(pinned, REGRESSION, depth=0, layers=2, seed=2),
        "cities": make_branch(pinned, TOKENS, depth=3, layers=1, seed=3, crf=True),
        "mood": make_branch(pinned, CLASSIFICATION, depth=2, layers=2, seed=4, pooling="mean"),
        "mixed": make_branch(pinned, CLASSIFICATION, depth=3, layers=1, seed=5, gather="mix"),
        "mixed-tags": make_branch(pinned, TOKENS, depth=1, layers=2, seed=6, gather="mix"),
    }
    manifest = make_manifest(pinned, branches)
    return load_merged_model(manifest, pinned.store), load_text_encoder(manifest.trunk, pinned.store)


every_attention = pytest.mark.parametrize("attention", [attention_by_products, fused_attention])
every_last_layer = pytest.mark.parametrize("last_layer", [FirstPieceLayer, FirstPieceLayerOnStates])


@every_attention
@every_last_layer
def test_all_heads_answer_as_the_merged_model_does(merged, monkeypatch, attention, last_layer):
    monkeypatch.setattr(inference_layers, "best_attention", lambda dtype, device: attention)
    monkeypatch.setattr(inference, "first_piece_layer", lambda dtype, device: last_layer)
    model, encoder = merged
    encoded = encoder.encode(TEXTS)
    rows = {task: list(range(len(TEXTS))) for task in model.frozen_depths}
    expected = merged_outputs(model, encoder, encoded, rows)
    assert_same(packed_outputs(prepared(model), encoded, rows), expected, rows)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_family_answers_as_the_merged_model_does(pinned_family, make_branch, make_manifest, model_type):
    pinned = pinned_family(model_type)
    branches = {
        "topic": make_branch(pinned, CLASSIFICATION, depth=2, layers=2, seed=1),
        "cities": make_branch(pinned, TOKENS, depth=1, layers=1, seed=2),
    }
    manifest = make_manifest(pinned, branches)
    model, encoder = load_merged_model(manifest, pinned.store), load_text_encoder(manifest.trunk, pinned.store)
    encoded = encoder.encode(TEXTS)
    rows = {task: list(range(len(TEXTS))) for task in branches}
    assert_same(packed_outputs(prepared(model), encoded, rows), merged_outputs(model, encoder, encoded, rows), rows)


@pytest.mark.parametrize("activation", ["relu", "gelu_new", "silu"])
def test_other_activations_are_applied(pin_model, make_branch, make_manifest, activation):
    pinned = pin_model(hidden_act=activation)
    manifest = make_manifest(pinned, {"topic": make_branch(pinned, CLASSIFICATION, depth=2, layers=2)})
    model, encoder = load_merged_model(manifest, pinned.store), load_text_encoder(manifest.trunk, pinned.store)
    encoded = encoder.encode(TEXTS)
    rows = {"topic": list(range(len(TEXTS)))}
    assert_same(packed_outputs(prepared(model), encoded, rows), merged_outputs(model, encoder, encoded, rows), rows)


@pytest.mark.parametrize("text", ["! " * 1000, "\u200b" * 1000])
def test_a_word_that_has_no_piece_costs_nothing(merged, text):
    """Cut off, or swallowed: a text may have a hundred thousand of them."""
    model, encoder = merged
    (encoded,) = encoder.encode([(text, None)])
    pieces = len(encoded.input_ids) - 2
    for task, outputs in prepared(model).one_pass([encoded], {"cities": [0], "mixed-tags": [0]}):
        assert len(outputs) == pieces < len(encoded.words), task


def test_each_task_answers_for_the_rows_that_asked_in_every_order_of_tasks(merged):
    model, encoder = merged
    encoded = encoder.encode(TEXTS)
    expected = merged_outputs(model, encoder, encoded, model.frozen_depths)
    asked = {"topic": [4, 0], "score": [1], "cities": [0, 3], "mixed": [5, 4, 2], "mixed-tags": [1, 0]}
    inference = prepared(model)
    for order in itertools.permutations(asked):
        rows = {task: asked[task] for task in order}
        found = packed_outputs(inference, encoded, rows)
        assert list(found) == list(order)
        assert_same(found, expected, rows)


def test_only_the_layers_and_rows_that_are_needed_are_computed(merged):
    model, encoder = merged
    encoded = encoder.encode(TEXTS)
    inference = prepared(model)
    computed = []

    def watched(layer, depth):
        def call(hidden, packed):
            computed.append((depth, packed.rows))
            return layer(hidden, packed)

        return call

    inference.trunk.layers[:] = [watched(layer, depth) for depth, layer in enumerate(inference.trunk.layers, 1)]
    packed_outputs(inference, encoded, {"topic": [0, 2], "mixed-tags": [1]})
    assert computed == [(1, (0, 1, 2)), (2, (0, 2))]


def test_an_answer_is_there_before_deeper_layers_are_computed(merged):
    model, encoder = merged
    inference = prepared(model)
    computed = []
    inference.trunk.layers[:] = [
        lambda hidden, packed, layer=layer, depth=depth: computed.append(depth) or layer(hidden, packed)
        for depth, layer in enumerate(inference.trunk.layers, 1)
    ]
    answers = iter(inference.one_pass(encoder.encode(TEXTS), {"score": [0], "cities": [0]}))
    assert next(answers)[0] == "score"
    assert computed == []
    assert next(answers)[0] == "cities"
    assert computed == [1, 2, 3]


@every_attention
@every_last_layer
def test_bf16_stays_near_fp32(merged, monkeypatch, attention, last_layer):
    monkeypatch.setattr(inference_layers, "best_attention", lambda dtype, device: attention)
    monkeypatch.setattr(inference, "first_piece_layer", lambda dtype, device: last_layer)
    model, encoder = merged
    encoded = encoder.encode(TEXTS)
    rows = {task: list(range(len(TEXTS))) for task in model.frozen_depths}
    expected = merged_outputs(model, encoder, encoded, rows)
    found = packed_outputs(prepared(model, "bf16"), encoded, rows)
    for task in rows:
        for row in rows[task]:
            ours, theirs = found[task][row], expected[task][row]
            assert ours.dtype == torch.float32
            scale = max(1.0, float(theirs.abs().max())) if theirs.numel() else 1.0
            assert ours.numel() == 0 or float((ours - theirs).abs().max()) / scale < 0.1


@pytest.mark.parametrize(
    ("capabilities", "dtype", "last_layer"),
    [
        ({"amx_bf16": True}, torch.bfloat16, FirstPieceLayer),
        ({"amx_bf16": True}, torch.float32, FirstPieceLayerOnStates),
        ({"avx512_bf16": True}, torch.bfloat16, FirstPieceLayerOnStates),
    ],
)
def test_keys_and_values_are_computed_where_amx_makes_them_cheap(monkeypatch, capabilities, dtype, last_layer):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert first_piece_layer(dtype, CPU) is last_layer


@pytest.mark.parametrize(
    ("of_products", "of_the_kernel", "chosen"),
    [(1.0, 0.7, fused_attention), (1.0, 0.95, attention_by_products), (1.0, 1.2, attention_by_products)],
)
def test_the_fused_attention_is_taken_where_it_is_worth_it(monkeypatch, of_products, of_the_kernel, chosen):
    seconds = {attention_by_products: of_products, fused_attention: of_the_kernel}
    monkeypatch.setattr(inference_layers, "_seconds", lambda dtype: seconds)
    best_attention.cache_clear()
    try:
        assert best_attention(torch.float32, CPU) is chosen
    finally:
        best_attention.cache_clear()


def test_both_attentions_are_timed():
    seconds = inference_layers._seconds(torch.float32)
    assert set(seconds) == {attention_by_products, fused_attention}
    assert all(one > 0 and math.isfinite(one) for one in seconds.values())


def test_on_a_gpu_nothing_is_timed_and_keys_and_values_are_computed(monkeypatch):
    monkeypatch.setattr(inference_layers, "_seconds", lambda dtype: pytest.fail("timed"))
    assert best_attention(torch.float16, torch.device("cuda")) is attention_by_products
    assert first_piece_layer(torch.float16, torch.device("cuda")) is FirstPieceLayer


@pytest.mark.parametrize("linear", WAYS)
def test_every_way_to_multiply_gives_the_same(merged, monkeypatch, linear):
    model, encoder = merged
    monkeypatch.setattr(inference_layers, "best_linear", lambda dtype, device: linear)
    encoded = encoder.encode(TEXTS)
    rows = dict.fromkeys(model.frozen_depths, range(len(TEXTS)))
    assert_same(packed_outputs(prepared(model), encoded, rows), merged_outputs(model, encoder, encoded, rows), rows)


def test_a_pass_tells_its_pieces_and_the_places_that_they_leave_over(merged):
    model, _ = merged
    rows = [EncodedText((5,) * length, (0,) * length, (), (), 0) for length in (128, 120)]
    one_pass = prepared(model).one_pass(rows, dict.fromkeys(model.frozen_depths, (0, 1)))
    assert (one_pass.pieces, one_pass.padding) == (248, 8)


def test_a_pass_has_the_groups_that_pay_with_its_attention(merged, monkeypatch):
    model, _ = merged
    rows = [EncodedText((5,) * length, (0,) * length, (), (), 0) for length in [40] * 3 + [16] * 3]
    groups = {}
    for attention in (attention_by_products, fused_attention):
        monkeypatch.setattr(inference_layers, "best_attention", lambda dtype, device, found=attention: found)
        one_pass = prepared(model).one_pass(rows, dict.fromkeys(model.frozen_depths, range(len(rows))))
        groups[attention] = len(one_pass._packed.groups)
    assert groups[attention_by_products] == 1
    assert groups[fused_attention] == 2


@pytest.fixture(scope="module")
def one_layer():
    config = AutoConfig.for_model(**family_config("bert"))
    model = AutoModel.from_config(config).eval()
    randomise(model, seed=1)
    return layers_of(model, config.to_dict())[0], config


def line_of(lengths):
    rows = [EncodedText((5,) * length, (0,) * length, (), (), 0) for length in lengths]
    return Packed(rows, range(len(rows)), device=CPU)


KINDS = (InferenceLayer, FirstPieceLayer, FirstPieceLayerOnStates)


@every_attention
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=12))
def test_every_layer_sees_of_a_row_what_it_sees_where_the_row_is_alone(one_layer, attention, lengths):
    layer, config = one_layer
    packed = line_of(lengths)
    hidden = torch.randn(packed.pieces, config.hidden_size, generator=torch.Generator().manual_seed(2))
    with pytest.MonkeyPatch.context() as patched, torch.inference_mode():
        patched.setattr(inference_layers, "best_attention", lambda dtype, device: attention)
        whole, *last = (kind(layer, config, dtype=torch.float32, device=CPU) for kind in KINDS)
        together = packed.read(whole(hidden, packed), "first", packed.rows)
        alone = [whole(packed.gathered(hidden, row), row)[:1] for row in map(packed.only, zip(packed.rows))]
        torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)
        for found in last:
            torch.testing.assert_close(found(hidden, packed), together, atol=1e-5, rtol=1e-5)


@every_attention
def test_what_is_no_number_in_one_block_reaches_no_other(one_layer, monkeypatch, attention):
    monkeypatch.setattr(inference_layers, "best_attention", lambda dtype, device: attention)
    layer, config = one_layer
    packed = line_of([128, 120, 60])
    hidden = torch.randn(packed.pieces, config.hidden_size, generator=torch.Generator().manual_seed(3))
    hidden[packed._pieces_of([2])] = math.nan
    with torch.inference_mode():
        whole, *last = (kind(layer, config, dtype=torch.float32, device=CPU)(hidden, packed) for kind in KINDS)
    for found in (packed.read(whole, "first", packed.rows), *last):
        assert found.isnan().any(1).tolist() == [False, False, True]
