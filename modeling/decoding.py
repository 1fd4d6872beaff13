"""What an answer is: from one row's raw outputs to labels, numbers, spans and tags with offsets into the text."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from modeling.crf import Transitions, log_marginals, viterbi
from modeling.text import NO_TOKEN, EncodedText
from modeling.words import Word, continued_tag
from registry.domain.plain_data import Plain
from registry.domain.task_specs import TagScheme, TaskType


class LabelAnswer(Plain):
    """The likeliest label, and the probability of every one, in the order of the task's labels."""

    label: str
    probability: float
    probabilities: dict[str, float]


class NumberAnswer(Plain):
    """In the units of the training data."""

    value: float


class Span(Plain):
    """`text[start:end]` of the request. `probability` is that of its least sure word."""

    start: int
    end: int
    text: str
    label: str
    probability: float


class SpansAnswer(Plain):
    spans: tuple[Span, ...]


class TaggedWord(Plain):
    """`label` and `probability` are None when the word was cut off by `max_length`."""

    start: int
    end: int
    text: str
    label: str | None
    probability: float | None


class TagsAnswer(Plain):
    words: tuple[TaggedWord, ...]


Answer = LabelAnswer | NumberAnswer | SpansAnswer | TagsAnswer


_Said = TypeVar("_Said", str, float)


def decode(
    outputs: Tensor,
    *,
    type: TaskType,  # noqa: A002
    labels: Sequence[str],
    tag_scheme: TagScheme | None,
    text: str,
    encoded: EncodedText,
    transitions: Transitions | None = None,
) -> Answer:
    """One row's answer.

    Args:
        outputs: raw, [outputs], or [W, outputs] with W at least the row's number of words.
        labels: what each output stands for (`TaskSpec.output_labels`).
        text: the row's first text, as it was encoded.
        transitions: of the module's CRF, where it has one.
    """
    if type is TaskType.REGRESSION:
        return NumberAnswer(value=outputs[0].item())
    if type is TaskType.CLASSIFICATION:
        probabilities = dict(zip(labels, probabilities_of(outputs).tolist(), strict=True))
        label = max(probabilities, key=probabilities.__getitem__)
        return LabelAnswer(label=label, probability=probabilities[label], probabilities=probabilities)
    return decode_words(
        _of_words_with_a_piece(outputs, encoded),
        labels=labels,
        tag_scheme=tag_scheme,
        text=text,
        encoded=encoded,
        transitions=transitions,
    )


def decode_words(
    outputs: Tensor,
    *,
    labels: Sequence[str],
    tag_scheme: TagScheme | None,
    text: str,
    encoded: EncodedText,
    transitions: Transitions | None = None,
) -> SpansAnswer | TagsAnswer:
    """One row's answer of a task that answers words.

    With a CRF a word's tag is that of the likeliest sequence (Viterbi), which is always legal BIO, and its probability
    is the word's own: that of all sequences that give it this tag (forward-backward).

    Args:
        outputs: raw, of the words that have a piece alone, [words with a piece, outputs]; the rest as `decode` has it.
    """
    emissions = outputs.to("cpu", torch.float64)
    chosen = _chosen(emissions, transitions)
    bio = tag_scheme is TagScheme.BIO
    tags = _tags(chosen, labels, encoded, bio)
    sure = _by_word(_sureness(emissions, chosen, transitions), encoded, before=1.0 if bio else None, goes_on=float)
    if bio:
        return SpansAnswer(spans=_spans(text, encoded.words, tags, sure))
    return TagsAnswer(
        words=tuple(
            TaggedWord(
                start=word.start, end=word.end, text=text[word.start : word.end], label=tag, probability=probability
            )
            for word, tag, probability in zip(encoded.words, tags, sure, strict=True)
        )
    )


def word_labels(
    outputs: Tensor,
    labels: Sequence[str],
    encoded: EncodedText,
    tag_scheme: TagScheme | None,
    transitions: Transitions | None = None,
) -> list[str | None]:
    """One output label a word: the likeliest of its first piece, or with a CRF that of the likeliest sequence.

    A word without a piece of its own takes that of the word before it (`B-x` becomes `I-x`); before the first piece
    it is `O`, or None where there is no `O`. A word that was cut off by `max_length` is None.

    Args:
        outputs: raw, [W, outputs], with W at least the row's number of words.
    """
    chosen = _chosen(_of_words_with_a_piece(outputs, encoded), transitions)
    return _tags(chosen, labels, encoded, tag_scheme is TagScheme.BIO)


def probabilities_of(outputs: Tensor) -> Tensor:
    """Raw outputs [..., O] -> [..., O] float64 on the CPU, which sum to 1."""
    return torch.softmax(outputs.to("cpu", torch.float64), dim=-1)


def _of_words_with_a_piece(outputs: Tensor, encoded: EncodedText) -> Tensor:
    """[words with a piece, outputs], float64."""
    seen = [number for number, token in enumerate(encoded.word_tokens) if token != NO_TOKEN]
    return outputs[seen].to("cpu", torch.float64)


def _chosen(emissions: Tensor, transitions: Transitions | None) -> list[int]:
    if transitions is None:
        best: list[int] = emissions.argmax(dim=-1).tolist()
        return best
    return viterbi(emissions, transitions.like(emissions))


def _sureness(emissions: Tensor, chosen: Sequence[int], transitions: Transitions | None) -> list[float]:
    """The probability of each word's chosen tag."""
    if not chosen:
        return []
    if transitions is None:
        probabilities = probabilities_of(emissions)
    else:
        all_seen = torch.ones(1, len(emissions), dtype=torch.bool)
        probabilities = log_marginals(emissions[None], all_seen, transitions.like(emissions))[0].exp()
    sure: list[float] = probabilities[range(len(chosen)), list(chosen)].tolist()
    return sure


def _tags(chosen: Sequence[int], labels: Sequence[str], encoded: EncodedText, bio: bool) -> list[str | None]:
    tags = [labels[number] for number in chosen]
    if bio:
        return _by_word(tags, encoded, before="O", goes_on=continued_tag)
    return _by_word(tags, encoded, before=None, goes_on=str)


def _by_word(
    said: Sequence[_Said], encoded: EncodedText, *, before: _Said | None, goes_on: Callable[[_Said], _Said]
) -> list[_Said | None]:
    """From the words that have a piece to all words, as `word_labels` tells.

    Args:
        before: of words before the first piece.
        goes_on: what a word without a piece makes of that of the word before it.
    """
    of_pieces = iter(said)
    current = before
    of_words: list[_Said | None] = []
    for number, token in enumerate(encoded.word_tokens):
        if number >= encoded.words_seen:
            current = None
        elif token != NO_TOKEN:
            current = next(of_pieces)
        elif current is not None:
            current = goes_on(current)
        of_words.append(current)
    return of_words


def _spans(
    text: str, words: Sequence[Word], tags: Sequence[str | None], sure: Sequence[float | None]
) -> tuple[Span, ...]:
    """Reads BIO leniently: an I-x that continues no x begins one."""
    groups: list[tuple[str, list[int]]] = []
    label_before = None
    for number, tag in enumerate(tags):
        label = None if tag is None or tag == "O" else tag[2:]
        if tag is not None and label is not None and tag.startswith("I-") and label == label_before:
            groups[-1][1].append(number)
        elif label is not None:
            groups.append((label, [number]))
        label_before = label
    return tuple(
        Span(
            start=words[members[0]].start,
            end=words[members[-1]].end,
            text=text[words[members[0]].start : words[members[-1]].end],
            label=label,
            probability=min(probability for member in members if (probability := sure[member]) is not None),
        )
        for label, members in groups
    )
