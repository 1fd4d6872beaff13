import torch
from hypothesis import given
from hypothesis import strategies as st

from modeling.batching import all_words, place_counts, places, row_outputs, token_batches
from modeling.text import TextEncoder


@given(st.lists(st.integers(1, 60), max_size=40), st.integers(1, 200))
def test_every_row_is_in_one_batch_and_a_batch_of_several_keeps_to_the_limit(lengths: list[int], limit: int) -> None:
    batches = token_batches(lengths, tokens=limit)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert all(len(batch) * max(lengths[row] for row in batch) <= limit for batch in batches if len(batch) > 1)


def test_rows_of_like_length_share_a_batch() -> None:
    assert token_batches([9, 1, 8, 2, 30], tokens=20) == [[1, 3], [2, 0], [4]]


def test_outputs_are_given_back_row_by_row_without_padding(wordpiece_json: bytes) -> None:
    rows = TextEncoder(wordpiece_json, max_length=20, pad_id=0).encode([("a \u200b b c", None), ("d", None)])
    words = torch.arange(24.0).reshape(2, 4, 3)
    first, second = row_outputs(words, rows)
    assert torch.equal(first, words[0])
    assert torch.equal(second, words[1, :1])
    texts = torch.arange(6.0).reshape(2, 3)
    assert all(torch.equal(one, text) for one, text in zip(row_outputs(texts, rows), texts, strict=True))


def test_words_without_a_piece_are_answered_by_zeros(wordpiece_json: bytes) -> None:
    (row,) = TextEncoder(wordpiece_json, max_length=4, pad_id=0).encode([("a \u200b b c", None)])
    assert all_words(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), row).tolist() == [[1, 2], [0, 0], [3, 4], [0, 0]]


def test_predicted_places_are_the_words_that_have_a_token(wordpiece_json: bytes) -> None:
    encoder = TextEncoder(wordpiece_json, max_length=20, pad_id=0)
    rows = encoder.encode([("a \u200b b c", None), ("d", None)])
    outputs = torch.arange(24.0).reshape(2, 4, 3)
    found = places(outputs, encoder.collate(rows).word_tokens)
    assert torch.equal(found, outputs.reshape(8, 3)[[0, 2, 3, 4]])
    assert place_counts(rows, token_level=True) == [3, 1]


def test_a_text_level_output_is_one_place_a_row(wordpiece_json: bytes) -> None:
    rows = TextEncoder(wordpiece_json, max_length=20, pad_id=0).encode([("a b", None), ("", None)])
    outputs = torch.arange(6.0).reshape(2, 3)
    assert torch.equal(places(outputs, torch.zeros(2, 2, dtype=torch.int64)), outputs)
    assert place_counts(rows, token_level=False) == [1, 1]
