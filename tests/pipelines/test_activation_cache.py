"""Frozen activations of real trunks: each text computed once, whatever the data set that it stands in."""

import hashlib
import logging
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modeling.backbone import load_text_encoder, load_trunk
from pipelines.data.dataset import load_dataset
from pipelines.training import batches
from pipelines.training.activation_cache import ActivationCache, EncodedRows, batches_of_one_width
from pipelines.training.cache_forecast import forecast
from pipelines.training.cache_room import CacheRoom, size_in_words
from pipelines.training.initialisation import teacher_module
from pipelines.training.packed_rows import PackedRows
from pipelines.training.recipes import Distillation
from pipelines.training.trial_run import open_trial
from registry.progress import silent

CPU = torch.device("cpu")
TOLERANCE = 1e-5
"""Of fp32 between batches of one width and different numbers of rows. On the machines at hand the bits are equal."""


@dataclass
class Watched:
    """A cache and what its trunk was asked: rows in all, and the depths of each pass."""

    cache: ActivationCache
    rows: int = 0
    passes: list[tuple[int, ...]] = field(default_factory=list)


@pytest.fixture(scope="session")
def watched(pinned):
    def make(folder: Path, depth: int = 4, **changes) -> Watched:
        backbone = pinned.backbone
        trunk = load_trunk(
            config=backbone.config, embeddings=backbone.embeddings, layers=backbone.layers[:depth], store=pinned.store
        )
        encoder = load_text_encoder(backbone, pinned.store)
        made = Watched(ActivationCache(folder, trunk, encoder, backbone.prefix_digests, CPU, silent, **changes))

        def note(_, arguments):
            made.rows += len(arguments[0].input_ids)
            made.passes.append(tuple(arguments[1]))

        trunk.register_forward_pre_hook(note)
        return made

    return make


def encoded(cache: ActivationCache, texts) -> EncodedRows:
    digests = [hashlib.sha256(repr(text).encode()).hexdigest() for text in texts]
    return EncodedRows(cache.encoder.encode([(text, None) for text in texts]), digests)


def alone(cache: ActivationCache, rows: EncodedRows, depth: int) -> list[torch.Tensor]:
    """Each row in a batch of its own."""
    found = []
    for row in rows.encoded:
        with torch.no_grad():
            found.append(cache.trunk(cache.encoder.collate([row]), [depth])[depth][0, : len(row.input_ids)])
    return found


def close(rows, expected) -> None:
    for answer, one in zip(rows.rows(range(len(expected))), expected, strict=True):
        torch.testing.assert_close(answer, one, rtol=0, atol=TOLERANCE)


words = st.sampled_from(["the", "new", "york", "hello", "world", "x", "is", "a", "1"])
texts_of = st.lists(st.lists(words, min_size=1, max_size=14).map(" ".join), min_size=1, max_size=10)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_data_sets_that_grow_shrink_and_are_corrected_or_shuffled_compute_only_what_is_new(
    tmp_path_factory, watched, data
):
    made = watched(tmp_path_factory.mktemp("cache"))
    cache, seen, texts = made.cache, set(), data.draw(texts_of)
    for _ in range(data.draw(st.integers(1, 4))):
        rows = encoded(cache, texts)
        made.rows = 0
        close(cache.frozen(rows, depth=2, precision="fp32", stage="data"), alone_uncounted(made, rows, 2))
        assert made.rows == len({*texts} - seen)
        seen |= {*texts}
        kept = data.draw(st.lists(st.sampled_from(texts), max_size=10))
        texts = data.draw(st.permutations([*kept, *data.draw(texts_of)]))


def alone_uncounted(made: Watched, rows: EncodedRows, depth: int) -> list[torch.Tensor]:
    before = made.rows
    expected = alone(made.cache, rows, depth)
    made.rows = before
    return expected


def test_one_pass_serves_all_depths_that_will_be_asked_for(tmp_path, watched):
    made = watched(tmp_path, depths=(0, 1, 3, 4))
    rows = encoded(made.cache, ["the new york", "hello world"])
    for depth in (3, 4, 1, 0):
        close(
            made.cache.frozen(rows, depth=depth, precision="fp32", stage="data"),
            alone_uncounted(watched(tmp_path), rows, depth),
        )
    assert made.passes == [(3, 0, 1, 4)]


def test_depths_below_the_trunks_end_are_left_alone(tmp_path, watched):
    made = watched(tmp_path, depth=2, depths=(1, 2, 3, 4))
    rows = encoded(made.cache, ["the new york"])
    made.cache.frozen(rows, depth=2, precision="fp32", stage="data")
    assert made.passes == [(2, 1)]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_rows_computed_on_the_fly_are_those_of_the_cache(tmp_path, watched, precision, caplog):
    texts = ["the new york", "x", "hello " * 9, "world is a world", "the new york"]
    kept, none = watched(tmp_path / "kept"), watched(tmp_path / "none", limit_bytes=100)
    rows = encoded(kept.cache, texts)
    cached = kept.cache.frozen(rows, depth=3, precision=precision, stage="data")
    with caplog.at_level(logging.WARNING):
        computed = none.cache.frozen(rows, depth=3, precision=precision, stage="data")
    assert "limit 100 bytes" in caplog.text
    assert none.rows == 0
    order = [4, 2, 0, 0, 1, 3]
    for one, other in zip(cached.rows(order), computed.rows(order), strict=True):
        assert one.dtype == other.dtype
        assert not other.is_inference()
        torch.testing.assert_close(one, other, rtol=0, atol=TOLERANCE if precision == "fp32" else 0.05)
    assert none.rows == 5, "a row that is asked for twice is computed twice"
    assert not list((tmp_path / "none").rglob("*.safetensors"))


@settings(max_examples=50)
@given(
    lengths=st.lists(st.integers(1, 600), min_size=1, max_size=200), padded_to=st.sampled_from([1, 8]), data=st.data()
)
def test_batches_of_one_width_hold_every_row_once_and_few_tokens(lengths, padded_to, data):
    numbers = data.draw(st.lists(st.sampled_from(range(len(lengths))), unique=True))
    made = list(batches_of_one_width(lengths, numbers, padded_to=padded_to))
    assert sorted(row for batch in made for row in batch) == sorted(numbers)
    for batch in made:
        widths = {-(-lengths[row] // padded_to) for row in batch}
        assert len(widths) == 1
        assert len(batch) * padded_to * widths.pop() <= 4096


def test_the_cost_on_the_disk_is_known_to_the_byte_and_falls_as_rows_are_there(tmp_path, watched, pinned):
    made = watched(tmp_path, depths=(1, 2))
    train = encoded(made.cache, ["the new york", "hello world", "hello world"])
    dev = encoded(made.cache, ["hello world", "x"])
    more = encoded(made.cache, ["hello world", "x", "york is new"])
    sizes = {"depths": (1, 2), "hidden_size": 24}

    def told(*asked, limit=10**9):
        room = CacheRoom(tmp_path, limit)
        return forecast(room, asked, prefix_digests=pinned.backbone.prefix_digests, **sizes)

    before = told((train, "bf16"), (dev, "fp32"))
    expected = before.total
    assert before.missing == expected
    assert before.fits
    cost = f"will take up to {size_in_words(expected)} on the disk (limit 1 GB"
    assert f"frozen activations of 2 depths {cost}" in str(before)
    for depth in (1, 2):
        made.cache.frozen(train, depth=depth, precision="bf16", stage="data")
        made.cache.frozen(dev, depth=depth, precision="fp32", stage="data")
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors")) == expected
    after = told((train, "bf16"), (dev, "fp32"))
    assert (after.missing, after.total) == (0, expected)
    assert "are there already" in str(after)
    growth = told((train, "bf16"), (more, "fp32")).missing
    for room, fits in ((0, True), (-1, False)):
        grown = told((train, "bf16"), (more, "fp32"), limit=expected + growth + room)
        assert 0 < grown.missing < expected
        assert grown.fits is fits
        assert ("TRUNKLINE_ACTIVATION_CACHE_GB" in str(grown)) is not fits
    # What is there already needs no room, even where the rest has none or its files are being read.
    reading = made.cache.frozen(train, depth=1, precision="bf16", stage="data")
    assert told((train, "bf16"), (more, "fp32"), limit=expected + grown.missing).fits
    del reading
    # A search that needs them does not count on dropping them.
    assert not told((more, "fp32"), (train, "bf16"), limit=expected).fits


def test_the_cost_of_a_mix_counts_what_the_head_reads_below(tmp_path, watched, pinned):
    made = watched(tmp_path)
    rows = encoded(made.cache, ["the new york", "hello world"])
    told = forecast(
        CacheRoom(tmp_path, None),
        [(rows, "fp32")],
        prefix_digests=pinned.backbone.prefix_digests,
        depths=(0, 1, 3),
        hidden_size=24,
        reading="words",
    )
    for depth in (0, 1, 3):
        made.cache.frozen(rows, depth=depth, precision="fp32", stage="data")
        if depth:
            made.cache.below(rows, "words", depth=depth, precision="fp32", stage="data")
    assert told.total == sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("kind", ["classification", "token_classification"])
def test_a_trial_without_room_for_its_cache_is_trained_all_the_same(
    make_trial, with_recipe, run, as_version, tmp_path, pinned, kind
):
    trial = with_recipe(make_trial(kind), evaluate_from=1)
    teacher = as_version(run(trial, tmp_path / "kept"))
    student = with_recipe(
        make_trial(kind, spec=trial.spec, task_layers=1, teacher=teacher), distillation=Distillation(hidden_weight=1.0)
    )
    for one in (trial, student):
        expected = run(one, tmp_path / "kept")
        with open_trial(one, tmp_path / "none", cache_bytes=100) as held:
            trained = held.run(store=pinned.store, device=CPU, report=silent)
        assert not list((tmp_path / "none").rglob("cache/*/*/*"))
        for epoch, loss in expected.state.epoch_losses.items():
            assert trained.state.epoch_losses[epoch] == pytest.approx(loss, rel=1e-3)
        assert trained.metrics == pytest.approx(expected.metrics, abs=0.05)


def test_a_teachers_answers_are_computed_for_new_texts_alone(make_trial, run, as_version, tmp_path, watched, pinned):
    trial = make_trial("token_classification")
    teacher = teacher_module(trial, as_version(run(trial)), pinned.store)
    made = watched(tmp_path / "cache")
    whole = EncodedRows.of(load_dataset(trial.spec, "train"), made.cache.encoder)
    answered: list[int] = []

    def answers(numbers):
        return made.cache.of_teacher(
            teacher,
            lambda batch: answered.append(len(batch.hidden)) or teacher(batch.hidden, batch.mask, batch.word_tokens),
            whole.only(numbers),
            kind="teacher_outputs",
            depth=2,
            module_digest="0" * 64,
            width=trial.head.outputs,
            token_level=True,
            precision="fp32",
            stage="data",
        )

    different = list({digest: row for row, digest in enumerate(whole.digests)}.values())[:12]
    answers(different[:8])
    assert sum(answered) == 8
    answered.clear()
    grown = answers(different[::-1])
    assert sum(answered) == 4
    for row, answer in zip(different[::-1], grown.rows(range(12)), strict=True):
        hidden = PackedRows(alone(made.cache, whole.only([row]), 2)[0], [0, len(whole.encoded[row].input_ids)])
        one = batches.cached_batch(hidden, [whole.encoded[row]], [0], CPU)
        with torch.no_grad():
            expected = teacher(one.hidden, one.mask, one.word_tokens)[one.word_tokens >= 0]
        torch.testing.assert_close(answer, expected, rtol=0, atol=TOLERANCE)


def test_a_teacher_that_reads_in_another_way_gives_other_answers(
    make_trial, run, as_version, tmp_path, watched, pinned
):
    trial = make_trial()
    version = as_version(run(trial))
    made = watched(tmp_path / "cache")
    rows = encoded(made.cache, ["the new york", "hello world"])

    def answers(pooling):
        head = version.head.model_copy(update={"pooling": pooling})
        found = made.cache.teacher_outputs(
            teacher_module(trial, version.model_copy(update={"head": head}), pinned.store),
            rows,
            depth=2,
            module_digest=version.module,
            outputs=trial.head.outputs,
            token_level=False,
            precision="fp32",
            stage="data",
        )
        return torch.cat(found.rows([0, 1]))

    first = answers("first")
    assert not torch.equal(first, answers("mean"))
    assert torch.equal(first, answers("first"))
