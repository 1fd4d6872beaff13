import json
import string
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from modeling import text as text_module
from modeling.text import NO_TOKEN, EncodedText, TextEncoder, collate
from modeling.words import Word, carry_tags
from registry.domain.task_specs import TagScheme
from registry.errors import InvalidInput
from tests.conftest import byte_level, unigram
from tests.hard_text import HARD


def encode(tokenizer: bytes, text: str, text_pair: str | None = None, *, max_length: int = 64) -> EncodedText:
    return TextEncoder(tokenizer, max_length=max_length, pad_id=0).encode([(text, text_pair)])[0]


def pieces_of_words(tokenizer: bytes, text: str, *, max_length: int = 64) -> list[tuple[str, str | None]]:
    """Each word with the piece that stands for it."""
    encoded = encode(tokenizer, text, max_length=max_length)
    vocabulary = Tokenizer.from_str(tokenizer.decode())
    return [
        (text[word.start : word.end], None if token == NO_TOKEN else vocabulary.id_to_token(encoded.input_ids[token]))
        for word, token in zip(encoded.words, encoded.word_tokens, strict=True)
    ]


def test_a_word_stands_at_its_first_wordpiece(wordpiece_json: bytes) -> None:
    assert pieces_of_words(wordpiece_json, "Hello NEW-yorks 3.5  worlding") == [
        ("Hello", "hello"),
        ("NEW", "new"),
        ("-", "-"),
        ("yorks", "york"),
        ("3.5", "3"),
        ("worlding", "world"),
    ]


def test_a_word_that_the_normaliser_swallows_has_no_piece(wordpiece_json: bytes) -> None:
    assert pieces_of_words(wordpiece_json, "a \u200b b\u0301") == [("a", "a"), ("\u200b", None), ("b\u0301", "b")]


def test_a_sentencepiece_counts_to_the_word_after_the_space_it_takes_in(metaspace_json: bytes) -> None:
    assert pieces_of_words(metaspace_json, "hello New York") == [
        ("hello", "▁hello"),
        ("New", "▁new"),
        ("York", "▁york"),
    ]


def test_words_inside_an_earlier_words_piece_have_none(metaspace_json: bytes) -> None:
    assert pieces_of_words(metaspace_json, "new's ($ab).") == [
        ("new", "▁new"),
        ("'", "'s"),
        ("s", None),
        ("(", "▁($"),
        ("$", None),
        ("ab", "a"),
        (")", ")."),
        (".", None),
    ]


def test_a_bare_space_marker_stands_for_no_word(metaspace_json: bytes) -> None:
    assert pieces_of_words(metaspace_json, "ab new") == [("ab", "a"), ("new", "▁new")]


def test_a_piece_of_white_space_alone_stands_for_no_word() -> None:
    pieces = {"<s>": 0, "</s>": 1, "a": 2, "b": 3, "Ġ": 4, "Ġb": 5}
    tokenizer = Tokenizer(models.BPE(pieces, [("Ġ", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    assert tokenizer.encode("a  b").tokens == ["<s>", "a", "Ġ", "Ġb", "</s>"]
    assert pieces_of_words(tokenizer.to_str().encode(), "a  b") == [("a", "a"), ("b", "Ġb")]


@pytest.fixture(scope="module")
def byte_level_json() -> bytes:
    return byte_level("the new york hello").to_str().encode()


@pytest.fixture(scope="module")
def unigram_json() -> bytes:
    return unigram(["▁new", "▁york", "▁Zoë", "'s", "▁👍", "▁($", ")."]).to_str().encode()


def test_a_byte_level_piece_counts_to_the_word_after_the_space_it_takes_in(byte_level_json: bytes) -> None:
    assert pieces_of_words(byte_level_json, "a new  york\tthe\nhello") == [
        ("a", "a"),
        ("new", "Ġnew"),
        ("york", "Ġyork"),
        ("the", "t"),
        ("hello", "h"),
    ]


def test_a_word_of_many_bytes_stands_at_its_first_byte(byte_level_json: bytes) -> None:
    # é is two bytes, 中 three, an emoji four; the space before a word is a byte of its own here.
    found = pieces_of_words(byte_level_json, "é 中文 👍🏽! new")
    assert found == [("é", "Ã"), ("中", "ä"), ("文", "æ"), ("👍🏽", "ð"), ("!", "!"), ("new", "Ġnew")]
    encoded = encode(byte_level_json, "é 中文 👍🏽! new")
    assert encoded.word_tokens == (1, 4, 7, 11, 19, 20)


def test_a_piece_of_the_last_byte_of_one_word_and_the_first_of_the_next_begins_neither() -> None:
    # 中文 are the bytes ä ¸ Ń æ ĸ ĩ; "Ń" + "æ" is one piece here, as training on bytes can make it.
    pieces = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "Ńæ"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("Ń", "æ")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    assert tokenizer.encode("中文").tokens == ["<s>", "ä", "¸", "Ńæ", "ĸ", "ĩ", "</s>"]
    assert pieces_of_words(tokenizer.to_str().encode(), "中文") == [("中", "ä"), ("文", "ĸ")]


@pytest.mark.parametrize("trim_offsets", [True, False])
@pytest.mark.parametrize("add_prefix_space", [True, False])
def test_spaces_in_offsets_make_no_difference(trim_offsets: bool, add_prefix_space: bool) -> None:
    tokenizer = byte_level()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, trim_offsets=trim_offsets)
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=trim_offsets, add_prefix_space=add_prefix_space
    )
    first = "Ġnew" if add_prefix_space else "n"
    expected = [("new", first), ("york", "Ġyork"), (",", ","), ("👍", "ð")]
    assert pieces_of_words(tokenizer.to_str().encode(), "new york, 👍") == expected


def test_a_unigram_word_stands_at_its_first_piece_past_the_space(unigram_json: bytes) -> None:
    assert pieces_of_words(unigram_json, "new Zoë's 👍🏽 ($x). ①") == [
        ("new", "▁new"),
        ("Zoë", "▁Zoë"),
        ("'", "'s"),
        ("s", None),
        ("👍🏽", "▁👍"),
        ("(", "▁($"),
        ("$", None),
        ("x", "x"),
        (")", ")."),
        (".", None),
        ("①", "1"),
    ]


unicode_texts = st.one_of(st.text(max_size=40), st.text(st.sampled_from(HARD + "newyork"), max_size=40))


@pytest.mark.parametrize("make", [byte_level, unigram], ids=["byte level", "unigram"])
@settings(max_examples=150)
@given(text=unicode_texts)
def test_every_word_stands_at_the_first_piece_that_begins_in_it(make: Callable[[], Tokenizer], text: str) -> None:
    tokenizer = make()
    encoded = TextEncoder(tokenizer.to_str().encode(), max_length=512, pad_id=1, type_count=1).encode([(text, None)])[0]
    tokenizer.encode_special_tokens = True
    pieces = tokenizer.encode(text)
    taken = [token for token in encoded.word_tokens if token != NO_TOKEN]
    assert taken == sorted(set(taken))
    for word, token in zip(encoded.words, encoded.word_tokens, strict=True):
        inside = [
            number
            for number, (start, end) in enumerate(pieces.offsets)
            if pieces.tokens[number] != "▁"
            and (held := [place for place in range(start, end) if not text[place].isspace()])
            and word.start <= held[0] < word.end
        ]
        assert token == (inside[0] if inside else NO_TOKEN)


@settings(max_examples=150)
@given(text=unicode_texts)
def test_no_word_of_a_byte_level_tokenizer_is_without_a_piece(byte_level_json: bytes, text: str) -> None:
    # Every byte is in the vocabulary, and no piece but a merged one reaches over two words.
    encoded = encode(byte_level_json, text, max_length=512)
    assert NO_TOKEN not in encoded.word_tokens


@pytest.mark.parametrize("tags", [["O", "B-city", "I-city", "O"]])
@pytest.mark.parametrize("make", [byte_level, unigram], ids=["byte level", "unigram"])
def test_tags_meet_the_pieces_of_their_words(make: Callable[[], Tokenizer], tags: list[str]) -> None:
    text, words, carried = carry_tags(["in", "St.Paul", "new", "😀"], tags, TagScheme.BIO)
    tokenizer = make()
    encoded = TextEncoder(tokenizer.to_str().encode(), max_length=64, pad_id=1).encode([(text, None)])[0]
    assert encoded.words == words
    tagged = {
        tokenizer.id_to_token(encoded.input_ids[token]).lstrip("Ġ▁"): tag
        for token, tag in zip(encoded.word_tokens, carried, strict=True)
    }
    smiley = "ð" if make is byte_level else "<unk>"
    expected = {"i": "O", "S": "B-city", ".": "I-city", "P": "I-city", "new": "I-city", smiley: "O"}
    assert tagged == expected


@pytest.mark.parametrize("text", ["a </s> b", "<s>struck</s>", "x<pad>y", "<mask>", "</s></s>"])
def test_special_pieces_that_a_text_spells_out_are_the_unknown_piece_where_the_vocabulary_has_them(
    unigram_json: bytes, text: str
) -> None:
    encoder = TextEncoder(unigram_json, max_length=64, pad_id=1, type_count=1)
    (single,), (pair,) = encoder.encode([(text, None)]), encoder.encode([("a", text)])
    tokenizer = Tokenizer.from_str(unigram_json.decode())
    assert tokenizer.token_to_id("<pad>") == 1
    assert set(single.input_ids[1:-1]).isdisjoint({0, 1, 2, tokenizer.token_to_id("<mask>")})
    assert 3 in single.input_ids
    assert (single.input_ids[0], single.input_ids[-1]) == (0, 2)
    assert pair.input_ids.count(2) == 3
    assert 1 not in pair.input_ids


def test_a_special_piece_that_cannot_be_read_as_anything_else_is_refused() -> None:
    vocabulary = {"[X]": 0, "[Y]": 1, "a": 2}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="none"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[X] $A [Y]", pair="[X] $A [Y] $B [Y]", special_tokens=[("[X]", 0), ("[Y]", 1)]
    )
    encoder = TextEncoder(tokenizer.to_str().encode(), max_length=64, pad_id=0)
    assert encoder.encode([("a a", None)])[0].input_ids == (0, 2, 2, 1)
    with pytest.raises(InvalidInput, match="one spells out a special piece"):
        encoder.encode([("a", None), ("a [Y] a", None)])


def test_a_backbone_of_one_token_type_is_given_no_other(wordpiece_json: bytes) -> None:
    encoder = TextEncoder(wordpiece_json, max_length=64, pad_id=0, type_count=1)
    (row,) = encoder.encode([("new york", "hello world")])
    assert set(row.type_ids) == {0}
    assert row.input_ids == encode(wordpiece_json, "new york", "hello world").input_ids


def test_a_byte_level_pair_is_parted_by_two_separators(byte_level_json: bytes) -> None:
    row = encode(byte_level_json, " new", " york")
    tokenizer = Tokenizer.from_str(byte_level_json.decode())
    assert [tokenizer.id_to_token(number) for number in row.input_ids] == [
        "<s>",
        "Ġnew",
        "</s>",
        "</s>",
        "Ġyork",
        "</s>",
    ]


def test_one_piece_over_two_characters_of_an_unspaced_script(metaspace_json: bytes) -> None:
    assert pieces_of_words(metaspace_json, "中文") == [("中", "▁中文"), ("文", None)]


def test_words_of_a_pair_are_those_of_its_first_text(wordpiece_json: bytes) -> None:
    encoded = encode(wordpiece_json, "hello world", "new york")
    assert encoded.words == (Word(0, 5), Word(6, 11))
    assert encoded.word_tokens == (1, 2)
    assert encoded.type_ids == (0, 0, 0, 0, 1, 1, 1)


def test_words_beyond_max_length_are_cut_off(wordpiece_json: bytes) -> None:
    encoded = encode(wordpiece_json, "new york worlding hello", max_length=5)
    assert encoded.word_tokens == (1, 2, 3, NO_TOKEN)
    assert encoded.words_seen == 3
    assert len(encoded.input_ids) == 5


def test_a_merged_word_at_the_end_was_seen(metaspace_json: bytes) -> None:
    encoded = encode(metaspace_json, "ab).")
    assert encoded.word_tokens[-1] == NO_TOKEN
    assert encoded.words_seen == len(encoded.words) == 3


def test_a_merged_word_whose_piece_was_cut_off_was_cut_off_too(metaspace_json: bytes) -> None:
    # <s> ▁ a b ). </s>: six pieces, the fifth cut off
    encoded = encode(metaspace_json, "ab).", max_length=5)
    assert encoded.word_tokens == (2, NO_TOKEN, NO_TOKEN)
    assert encoded.words_seen == 1


def test_a_text_slimmed_is_the_special_pieces_alone(wordpiece_json: bytes) -> None:
    encoded = encode(wordpiece_json, " ")
    assert (len(encoded.input_ids), encoded.words, encoded.word_tokens, encoded.words_seen) == (2, (), (), 0)


def test_special_pieces_written_in_a_text_are_text(wordpiece_json: bytes) -> None:
    encoded = encode(wordpiece_json, "a [SEP] b [PAD]")
    vocabulary = Tokenizer.from_str(wordpiece_json.decode())
    separator, padding = vocabulary.token_to_id("[SEP]"), vocabulary.token_to_id("[PAD]")
    assert encoded.input_ids.count(separator) == 1
    assert padding not in encoded.input_ids


plain_texts = st.text(st.sampled_from(string.ascii_letters + string.digits + " ',-"), max_size=40)


@given(first=plain_texts, second=st.none() | plain_texts, max_length=st.integers(3, 20))
@settings(max_examples=200)
def test_texts_are_cut_as_the_tokenizers_library_cuts_them(
    wordpiece_json: bytes, first: str, second: str | None, max_length: int
) -> None:
    library = Tokenizer.from_str(wordpiece_json.decode())
    library.enable_truncation(max_length, strategy="longest_first")
    expected = library.encode(first, second)
    encoded = encode(wordpiece_json, first, second, max_length=max_length)
    assert (list(encoded.input_ids), list(encoded.type_ids)) == (expected.ids, expected.type_ids)


def test_padding_and_truncation_saved_with_the_tokenizer_are_ignored(wordpiece_json: bytes) -> None:
    library = Tokenizer.from_str(wordpiece_json.decode())
    library.enable_padding(length=30)
    library.enable_truncation(4)
    saved = library.to_str().encode()
    assert json.loads(saved)["padding"] is not None
    assert encode(saved, "hello world new york") == encode(wordpiece_json, "hello world new york")


def test_many_texts_are_encoded_as_each_alone(wordpiece_json: bytes) -> None:
    encoder = TextEncoder(wordpiece_json, max_length=64, pad_id=0)
    rows = [("hello", None), ("new", "york"), ("", None), ("a", "")]
    assert encoder.encode(rows) == [encoder.encode([row])[0] for row in rows]


def test_many_characters_are_read_in_parts(wordpiece_json: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = TextEncoder(wordpiece_json, max_length=64, pad_id=0)
    rows = [("a b", None), ("hello world", "c"), ("d", None), ("e", "f"), ("hello", None)]
    together = encoder.encode(rows)
    for most in (1, 4, 12):
        monkeypatch.setattr(text_module, "_TOGETHER", most)
        assert encoder.encode(rows) == together
        with pytest.raises(InvalidInput, match="text 6: holds half of a surrogate pair"):
            encoder.encode([*rows, ("a\ud800b", None)])
    assert encoder.encode([]) == []


@settings(max_examples=150)
@given(text=unicode_texts, max_length=st.integers(4, 20))
def test_words_that_are_left_out_are_found_again(wordpiece_json: bytes, text: str, max_length: int) -> None:
    row = encode(wordpiece_json, text, max_length=max_length)
    small = row.slimmed()
    assert len(small.words) <= len(row.input_ids)
    assert small.whole(text) == row


def test_half_a_surrogate_pair_is_refused_with_the_texts_number(wordpiece_json: bytes) -> None:
    encoder = TextEncoder(wordpiece_json, max_length=64, pad_id=0)
    with pytest.raises(InvalidInput, match="text 2: holds half of a surrogate pair"):
        encoder.encode([("fine", None), ("ok", "a\ud800b")])


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"version": "1.0"}'])
def test_a_tokenizer_that_cannot_be_read_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidInput, match=r"tokenizer\.json: cannot be read"):
        TextEncoder(content, max_length=64, pad_id=0)


def test_a_max_length_without_room_for_a_pair_is_refused(metaspace_json: bytes) -> None:
    with pytest.raises(InvalidInput, match="4 special pieces around a pair"):
        TextEncoder(metaspace_json, max_length=3, pad_id=0)


def test_a_tokenizer_that_swaps_the_texts_is_refused(wordpiece_json: bytes) -> None:
    content = json.loads(wordpiece_json)
    template = content["post_processor"]["pair"]
    template[1], template[3] = template[3], template[1]
    with pytest.raises(InvalidInput, match="does not keep the texts whole and in order"):
        TextEncoder(json.dumps(content).encode(), max_length=64, pad_id=0)


def test_a_batch_is_padded_to_a_multiple_with_its_padding_masked(wordpiece_json: bytes) -> None:
    rows = TextEncoder(wordpiece_json, max_length=64, pad_id=0).encode([("hello world", None), ("a b c d e f g", "h")])
    batch = collate(rows, pad_id=7, multiple_of=8)
    assert batch.input_ids.shape == batch.type_ids.shape == batch.mask.shape == (2, 16)
    assert batch.input_ids[0].tolist() == [*rows[0].input_ids, *[7] * 12]
    assert batch.type_ids[1].tolist() == [*rows[1].type_ids, *[0] * 5]
    assert batch.mask.sum(dim=1).tolist() == [4, 11]
    assert not batch.mask[0, 4:].any()
    assert batch.word_tokens.tolist() == [[1, 2, -1, -1, -1, -1, -1], [1, 2, 3, 4, 5, 6, 7]]


def test_a_batch_never_grows_beyond_max_length(wordpiece_json: bytes) -> None:
    encoder = TextEncoder(wordpiece_json, max_length=11, pad_id=0)
    assert encoder.collate(encoder.encode([("a b c d e f g h i j k", None)])).input_ids.shape == (1, 11)
    assert encoder.collate(encoder.encode([("a", None)])).input_ids.shape == (1, 8)


def test_a_batch_slimmed_has_no_word_column(wordpiece_json: bytes) -> None:
    encoder = TextEncoder(wordpiece_json, max_length=11, pad_id=0)
    assert encoder.collate(encoder.encode([("", None), (" ", None)])).word_tokens.shape == (2, 0)


def test_a_batch_moves_to_a_device_whole(wordpiece_json: bytes) -> None:
    encoder = TextEncoder(wordpiece_json, max_length=11, pad_id=0)
    moved = encoder.collate(encoder.encode([("a b", None)])).to("meta")
    parts = (moved.input_ids, moved.type_ids, moved.mask, moved.word_tokens)
    assert [(part.device.type, part.dtype) for part in parts] == [
        ("meta", torch.int64),
        ("meta", torch.int64),
        ("meta", torch.bool),
        ("meta", torch.int64),
    ]
