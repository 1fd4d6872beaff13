import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling.text import NO_TOKEN, EncodedText
from pipelines.training.activation_cache import EncodedRows
from pipelines.training.batches import cached_batch, epoch_batches
from pipelines.training.packed_rows import PackedRows

lengths_of_rows = st.lists(st.integers(1, 60), min_size=1, max_size=300)


@settings(max_examples=50)
@given(lengths=lengths_of_rows, batch_size=st.integers(1, 40), seed=st.integers(0, 9), epoch=st.integers(1, 5))
def test_an_epoch_holds_every_row_once_in_batches_of_the_size(lengths, batch_size, seed, epoch):
    batches = epoch_batches(lengths, batch_size=batch_size, seed=seed, epoch=epoch)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert all(1 <= len(batch) <= batch_size for batch in batches)
    assert len(batches) == -(-len(lengths) // batch_size)


def test_the_order_is_decided_by_seed_and_epoch_alone():
    lengths = list(range(1, 200))

    def batches(seed, epoch):
        return epoch_batches(lengths, batch_size=8, seed=seed, epoch=epoch)

    assert batches(0, 1) == batches(0, 1)
    assert batches(0, 1) != batches(0, 2)
    assert batches(0, 1) != batches(1, 1)


def test_rows_of_like_length_share_a_batch():
    lengths = [5 + 50 * (row % 2) for row in range(640)]
    batches = epoch_batches(lengths, batch_size=32, seed=0, epoch=1)
    padding = sum(max(lengths[row] for row in batch) * len(batch) for batch in batches) - sum(lengths)
    assert padding / sum(lengths) < 0.06


def test_a_cached_batch_is_padded_with_zeros_and_masked():
    values = torch.arange(1.0, 11.0).reshape(5, 2)
    encoded = [
        EncodedText((1, 2), (0, 0), (), (0, 1), 2),
        EncodedText((1, 2, 3), (0, 0, 0), (), (NO_TOKEN,), 1),
    ]
    batch = cached_batch(PackedRows(values, [0, 2, 5]), encoded, [1, 0], torch.device("cpu"))
    assert batch.hidden.shape == (2, 3, 2)
    assert torch.equal(batch.hidden[0], values[2:])
    assert torch.equal(batch.hidden[1, :2], values[:2])
    assert batch.hidden[1, 2:].eq(0).all()
    assert batch.mask.sum(1).tolist() == [3, 2]
    assert batch.word_tokens.tolist() == [[NO_TOKEN, NO_TOKEN], [0, 1]]


def test_the_lengths_of_the_rows_are_counted_once():
    rows = EncodedRows([EncodedText((1, 2), (0, 0), (), (), 0)] * 3, "digest")
    assert rows.lengths == [2, 2, 2]
    assert rows.lengths is rows.lengths, "a loop over the rows would count all of them for each"
