import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeling.words import carry_tags, continued_tag, split_words
from registry.domain.task_specs import TagScheme
from tests.hard_text import HARD

texts = st.one_of(st.text(max_size=60), st.text(st.sampled_from(HARD), max_size=60))


def words_of(text: str) -> list[str]:
    return [text[word.start : word.end] for word in split_words(text)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        (" \t\n\u3000", []),
        ("The cat sat.", ["The", "cat", "sat", "."]),
        ("John's dogs don't", ["John", "'", "s", "dogs", "don", "'", "t"]),
        ("l’homme d'Italie", ["l", "’", "homme", "d", "'", "Italie"]),
        ("state-of-the-art — yes", ["state", "-", "of", "-", "the", "-", "art", "—", "yes"]),
        ("3.5 and 1,000.50, or 7.", ["3.5", "and", "1,000.50", ",", "or", "7", "."]),
        ("$5 50% 12:30 v1.2kg", ["$", "5", "50", "%", "12", ":", "30", "v1.2kg"]),
        (
            "see https://t.co/a?b=c. Or (www.x.com/y)!",
            ["see", "https://t.co/a?b=c", ".", "Or", "(", "www.x.com/y", ")", "!"],
        ),
        ("HTTP://X.com/中文", ["HTTP://X.com/", "中", "文"]),
        ("http:// www. x", ["http", ":", "/", "/", "www", ".", "x"]),
        ("ask a.b+c@x.co.uk. now", ["ask", "a.b+c@x.co.uk", ".", "now"]),
        ("@user_1 #tag a@b C# @ #", ["@user_1", "#tag", "a", "@b", "C", "#", "@", "#"]),
        ("東京へ行く。", ["東", "京", "へ", "行", "く", "。"]),
        ("iPhone版3.5も", ["iPhone", "版", "3.5", "も"]),
        ("한국어 текст עברית", ["한국어", "текст", "עברית"]),
        ("สวัสดี", ["ส", "วั", "ส", "ดี"]),
        ("हिन्दी", ["हिन्दी"]),
        ("cafe\u0301 می\u200cخواهم", ["cafe\u0301", "می\u200cخواهم"]),
        ("ok👍🏽👩\u200d💻!", ["ok", "👍🏽", "👩\u200d💻", "!"]),
        ("🇫🇷🇩🇪 1\ufe0f\u20e3 ❤\ufe0f", ["🇫🇷", "🇩🇪", "1\ufe0f\u20e3", "❤\ufe0f"]),
        ("wait...", ["wait", ".", ".", "."]),
    ],
)
def test_the_splitter_keeps_whole_what_nobody_would_cut_and_splits_the_rest(text: str, words: list[str]) -> None:
    assert words_of(text) == words


@given(texts)
def test_words_are_in_order_disjoint_and_cover_all_but_white_space(text: str) -> None:
    words = split_words(text)
    covered = [position for word in words for position in range(word.start, word.end)]
    assert covered == [position for position, character in enumerate(text) if not character.isspace()]


@given(texts)
def test_splitting_words_joined_by_spaces_gives_the_same_words(text: str) -> None:
    words = words_of(text)
    assert words_of(" ".join(words)) == words


def test_a_tag_is_carried_to_every_word_of_its_token() -> None:
    tokens = ["flights", "to", "St.Paul's", "New York", "."]
    text, words, tags = carry_tags(tokens, ["O", "O", "B-city", "B-city", "I-city"], TagScheme.BIO)
    assert text == "flights to St.Paul's New York ."
    assert list(zip([text[w.start : w.end] for w in words], tags, strict=True)) == [
        ("flights", "O"),
        ("to", "O"),
        ("St", "B-city"),
        (".", "I-city"),
        ("Paul", "I-city"),
        ("'", "I-city"),
        ("s", "I-city"),
        ("New", "B-city"),
        ("York", "I-city"),
        (".", "I-city"),
    ]


def test_plain_tags_are_repeated_even_when_they_look_like_bio() -> None:
    assert carry_tags(["don't"], ["B-x"], TagScheme.PLAIN)[2] == ("B-x", "B-x", "B-x")


def test_a_text_of_one_token_begins_its_span_with_its_first_word() -> None:
    assert carry_tags(["don't"], ["B-x"], TagScheme.BIO)[2] == ("B-x", "I-x", "I-x")


def test_neighbouring_tokens_that_each_begin_a_span_stay_two_spans() -> None:
    assert carry_tags(["a", "a"], ["B-x", "B-x"], TagScheme.BIO)[2] == ("B-x", "B-x")


@pytest.mark.parametrize("token", ["", " ", "\u00a0"])
def test_a_blank_token_is_refused(token: str) -> None:
    with pytest.raises(ValueError, match=r"tokens 1 .*empty"):
        carry_tags(["a", token], ["O", "O"], TagScheme.BIO)


def test_tags_of_another_number_than_the_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="2 tokens have 1 tags"):
        carry_tags(["a", "b"], ["O"], TagScheme.BIO)


@given(st.lists(st.text(st.sampled_from(HARD), min_size=1, max_size=8).filter(str.strip), min_size=1, max_size=8))
def test_every_word_gets_the_tag_of_the_one_token_it_lies_in(tokens: list[str]) -> None:
    tags = [str(number) for number in range(len(tokens))]
    text, words, carried = carry_tags(tokens, tags, TagScheme.PLAIN)
    parts: dict[str, str] = dict.fromkeys(tags, "")
    for word, tag in zip(words, carried, strict=True):
        parts[tag] += text[word.start : word.end]
    assert list(parts.values()) == ["".join(token.split()) for token in tokens]


@pytest.mark.parametrize(("tag", "continued"), [("B-x", "I-x"), ("I-x", "I-x"), ("O", "O")])
def test_the_tag_of_a_continued_word(tag: str, continued: str) -> None:
    assert continued_tag(tag) == continued
