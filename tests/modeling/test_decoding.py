import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modeling.crf import TagTransitions
from modeling.decoding import LabelAnswer, NumberAnswer, SpansAnswer, TagsAnswer, decode, word_labels
from modeling.text import EncodedText, TextEncoder
from modeling.words import split_words
from registry.domain.task_specs import TagScheme, TaskType

BIO = ("O", "B-city", "I-city", "B-day", "I-day")
TEXT = "from New York to Paris"


def encoded_text(text: str, word_tokens: list[int], words_seen: int | None = None) -> EncodedText:
    seen = len(word_tokens) if words_seen is None else words_seen
    return EncodedText((), (), split_words(text), tuple(word_tokens), seen)


def outputs_for(tags: list[str], labels: tuple[str, ...] = BIO) -> torch.Tensor:
    """Raw outputs in which each word's tag leads clearly."""
    return torch.nn.functional.one_hot(torch.tensor([labels.index(tag) for tag in tags]), len(labels)) * 5.0


def spans_of(
    tags: list[str], word_tokens: list[int] | None = None, words_seen: int | None = None
) -> list[tuple[str, str]]:
    answer = decode(
        outputs_for(tags),
        type=TaskType.TOKEN_CLASSIFICATION,
        labels=BIO,
        tag_scheme=TagScheme.BIO,
        text=TEXT,
        encoded=encoded_text(TEXT, word_tokens or [1, 2, 3, 4, 5], words_seen),
    )
    assert isinstance(answer, SpansAnswer)
    assert all(TEXT[span.start : span.end] == span.text for span in answer.spans)
    return [(span.text, span.label) for span in answer.spans]


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=3))
def test_label_probabilities_sum_to_one_and_the_likeliest_is_the_answer(values: list[float]) -> None:
    answer = decode(
        torch.tensor(values),
        type=TaskType.CLASSIFICATION,
        labels=("no", "yes", "perhaps"),
        tag_scheme=None,
        text="x",
        encoded=encoded_text("x", [1]),
    )
    assert isinstance(answer, LabelAnswer)
    assert list(answer.probabilities) == ["no", "yes", "perhaps"]
    assert sum(answer.probabilities.values()) == pytest.approx(1.0, abs=1e-12)
    assert answer.probability == answer.probabilities[answer.label] == max(answer.probabilities.values())
    assert values[["no", "yes", "perhaps"].index(answer.label)] == pytest.approx(max(values), abs=1e-3)


def test_probabilities_are_the_softmax_of_the_outputs() -> None:
    answer = decode(
        torch.tensor([0.0, 1.0]).log1p(),
        type=TaskType.CLASSIFICATION,
        labels=("no", "yes"),
        tag_scheme=None,
        text="x",
        encoded=encoded_text("x", [1]),
    )
    assert isinstance(answer, LabelAnswer)
    assert answer.label == "yes"
    assert answer.probabilities == pytest.approx({"no": 1 / 3, "yes": 2 / 3})


def test_a_number_is_the_output_itself() -> None:
    answer = decode(
        torch.tensor([3.25]),
        type=TaskType.REGRESSION,
        labels=(),
        tag_scheme=None,
        text="x",
        encoded=encoded_text("x", [1]),
    )
    assert answer == NumberAnswer(value=3.25)


def test_a_span_runs_from_its_b_to_its_last_i() -> None:
    assert spans_of(["O", "B-city", "I-city", "O", "B-city"]) == [("New York", "city"), ("Paris", "city")]


def test_neighbouring_spans_stay_apart() -> None:
    assert spans_of(["B-city", "B-city", "I-city", "B-day", "I-day"]) == [
        ("from", "city"),
        ("New York", "city"),
        ("to Paris", "day"),
    ]


def test_an_i_that_continues_nothing_of_its_type_begins_a_span() -> None:
    assert spans_of(["I-city", "O", "I-city", "I-day", "I-day"]) == [
        ("from", "city"),
        ("York", "city"),
        ("to Paris", "day"),
    ]


def test_no_span_is_an_empty_answer() -> None:
    assert spans_of(["O"] * 5) == []


def test_a_word_merged_into_the_piece_before_it_continues_its_span() -> None:
    # York's own outputs say O, but nothing was read there.
    assert spans_of(["O", "B-city", "O", "O", "O"], [1, 2, -1, 4, 5]) == [("New York", "city")]


def test_a_span_ends_where_the_text_was_cut() -> None:
    assert spans_of(["O", "B-city", "I-city", "I-city", "I-city"], [1, 2, -1, -1, -1], words_seen=2) == [
        ("New", "city")
    ]


def test_a_spans_probability_is_that_of_its_least_sure_word() -> None:
    outputs = outputs_for(["O", "B-city", "I-city", "O", "O"])
    outputs[2] /= 2.0
    answer = decode(
        outputs,
        type=TaskType.TOKEN_CLASSIFICATION,
        labels=BIO,
        tag_scheme=TagScheme.BIO,
        text=TEXT,
        encoded=encoded_text(TEXT, [1, 2, 3, 4, 5]),
    )
    assert isinstance(answer, SpansAnswer)
    assert answer.spans[0].probability == pytest.approx(torch.softmax(outputs[2], dim=0)[2].item())


def test_plain_tags_are_given_word_by_word_with_offsets() -> None:
    answer = decode(
        outputs_for(["down", "up", "down"], ("down", "up")),
        type=TaskType.TOKEN_CLASSIFICATION,
        labels=("down", "up"),
        tag_scheme=TagScheme.PLAIN,
        text="to Paris now",
        encoded=encoded_text("to Paris now", [1, 2, -1], words_seen=2),
    )
    assert isinstance(answer, TagsAnswer)
    assert [(word.start, word.end, word.text, word.label) for word in answer.words] == [
        (0, 2, "to", "down"),
        (3, 8, "Paris", "up"),
        (9, 12, "now", None),
    ]
    assert answer.words[0].probability == pytest.approx(1 / (1 + torch.tensor(-5.0).exp().item()))
    assert answer.words[2].probability is None


@pytest.mark.parametrize(
    ("tags", "word_tokens", "words_seen", "expected"),
    [
        (["O", "B-day", "O", "O", "O"], [1, 2, -1, -1, 5], 5, ["O", "B-day", "I-day", "I-day", "O"]),
        (["O", "I-day", "O", "O", "O"], [1, 2, -1, 4, 5], 5, ["O", "I-day", "I-day", "O", "O"]),
        (["O", "B-day", "B-day", "O", "O"], [1, 2, 3, -1, -1], 3, ["O", "B-day", "B-day", None, None]),
        (["B-day"] * 5, [-1, 2, 3, 4, -1], 5, ["O", "B-day", "B-day", "B-day", "I-day"]),
    ],
)
def test_bio_labels_of_words_without_a_piece(
    tags: list[str], word_tokens: list[int], words_seen: int, expected: list[str | None]
) -> None:
    assert word_labels(outputs_for(tags), BIO, encoded_text(TEXT, word_tokens, words_seen), TagScheme.BIO) == expected


def test_plain_labels_of_words_without_a_piece() -> None:
    labels = ("B-x", "up")
    encoded = encoded_text(TEXT, [-1, 2, -1, 4, -1], words_seen=4)
    found = word_labels(outputs_for(["up", "B-x", "up", "up", "up"], labels), labels, encoded, TagScheme.PLAIN)
    assert found == [None, "B-x", "B-x", "up", None]


def test_outputs_may_be_wider_than_the_rows_words() -> None:
    assert word_labels(outputs_for(["O", "B-day", "O"]), BIO, encoded_text("a b", [1, 2]), TagScheme.BIO) == [
        "O",
        "B-day",
    ]


def test_spans_point_into_the_text_that_was_encoded(metaspace_json: bytes) -> None:
    text = " hello\u00a0 New York's ($ab)."
    encoded = TextEncoder(metaspace_json, max_length=40, pad_id=1).encode([(text, None)])[0]
    words = [text[word.start : word.end] for word in encoded.words]
    assert words == ["hello", "New", "York", "'", "s", "(", "$", "ab", ")", "."]
    answer = decode(
        outputs_for(["O", "B-city", "I-city", "O", "O", "O", "O", "B-day", "O", "O"]),
        type=TaskType.TOKEN_CLASSIFICATION,
        labels=BIO,
        tag_scheme=TagScheme.BIO,
        text=text,
        encoded=encoded,
    )
    assert isinstance(answer, SpansAnswer)
    assert [(text[span.start : span.end], span.label) for span in answer.spans] == [("New York", "city"), ("ab", "day")]


def crf(**scores: float) -> TagTransitions:
    """Scores zero but for those named `from_to`, O, B and I of a city."""
    learnt = TagTransitions(3)
    with torch.no_grad():
        for pair, score in scores.items():
            before, after = (["O", "B", "I"].index(tag) for tag in pair.split("_"))
            learnt.between[before, after] = score
    return learnt.requires_grad_(False)


def answer_of(outputs: torch.Tensor, word_tokens: list[int], learnt: TagTransitions | None) -> list[tuple[str, float]]:
    answer = decode(
        outputs,
        type=TaskType.TOKEN_CLASSIFICATION,
        labels=BIO[:3],
        tag_scheme=TagScheme.BIO,
        text=TEXT,
        encoded=encoded_text(TEXT, word_tokens),
        transitions=learnt.scores() if learnt else None,
    )
    assert isinstance(answer, SpansAnswer)
    return [(span.text, span.probability) for span in answer.spans]


def test_a_crf_answers_with_the_likeliest_sequence_that_is_legal() -> None:
    outputs = outputs_for(["O", "I-city", "I-city", "O", "O"], BIO[:3])
    outputs[1, 1] = 4.0
    assert word_labels(outputs, BIO[:3], encoded_text(TEXT, [1, 2, 3, 4, 5]), TagScheme.BIO, crf().scores()) == [
        "O",
        "B-city",
        "I-city",
        "O",
        "O",
    ]
    breaks = crf(B_I=-50.0, B_B=50.0)
    assert word_labels(outputs, BIO[:3], encoded_text(TEXT, [1, 2, 3, 4, 5]), TagScheme.BIO, breaks.scores())[1:3] == [
        "B-city",
        "B-city",
    ]


def test_a_crf_runs_over_the_words_that_have_a_piece() -> None:
    outputs = outputs_for(["O", "B-city", "O", "I-city", "O"], BIO[:3])
    outputs[2] = torch.tensor([1e6, 0.0, 0.0])  # nothing was read there
    assert [text for text, _ in answer_of(outputs, [1, 2, -1, 4, 5], crf())] == ["New York to"]
    assert answer_of(outputs, [-1, -1, -1, -1, -1], crf()) == []


def test_a_spans_probability_under_a_crf_is_that_of_all_sequences_that_agree_with_its_least_sure_word() -> None:
    outputs = torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.0, 0.0]])
    learnt = crf(B_I=1.0)
    start, between, end = learnt.scores()
    weights = {
        (a, b): (start[a] + outputs[0, a] + between[a, b] + outputs[1, b] + end[b]).exp().item()
        for a in range(3)
        for b in range(3)
    }
    assert max(weights, key=weights.__getitem__) == (1, 2)
    total = sum(weights.values())
    first = sum(weight for (a, _), weight in weights.items() if a == 1) / total
    second = sum(weight for (_, b), weight in weights.items() if b == 2) / total
    text = "New York"
    answer = decode(
        outputs,
        type=TaskType.TOKEN_CLASSIFICATION,
        labels=BIO[:3],
        tag_scheme=TagScheme.BIO,
        text=text,
        encoded=encoded_text(text, [1, 2]),
        transitions=learnt.scores(),
    )
    assert isinstance(answer, SpansAnswer)
    assert [span.text for span in answer.spans] == ["New York"]
    assert answer.spans[0].probability == pytest.approx(min(first, second))
