"""What an answer is: from one row's raw outputs to labels, numbers, spans and tags with offsets into the text."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from modeling.text import NO_TOKEN, EncodedText, Word, continued_tag
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


class _Decision(NamedTuple):
    label: str
    probability: float


def decode(
    outputs: Tensor,
    *,
    type: TaskType,  # noqa: A002
    labels: Sequence[str],
    tag_scheme: TagScheme | None,
    text: str,
    encoded: EncodedText,
) -> Answer:
    """One row's answer.

    Args:
        outputs: raw, [outputs], or [W, outputs] with W at least the row's number of words.
        labels: what each output stands for (`TaskSpec.output_labels`).
        text: the row's first text, as it was encoded.
    """
    if type is TaskType.REGRESSION:
        return NumberAnswer(value=outputs[0].item())
    if type is TaskType.CLASSIFICATION:
        probabilities = dict(zip(labels, _probabilities(outputs).tolist(), strict=True))
        label = max(probabilities, key=probabilities.__getitem__)
        return LabelAnswer(label=label, probability=probabilities[label], probabilities=probabilities)
    decisions = _word_decisions(outputs, labels, encoded, tag_scheme)
    if tag_scheme is TagScheme.BIO:
        return SpansAnswer(spans=_spans(text, encoded.words, decisions))
    return TagsAnswer(
        words=tuple(
            TaggedWord(
                start=word.start,
                end=word.end,
                text=text[word.start : word.end],
                label=decision.label if decision else None,
                probability=decision.probability if decision else None,
            )
            for word, decision in zip(encoded.words, decisions, strict=True)
        )
    )


def word_labels(
    outputs: Tensor, labels: Sequence[str], encoded: EncodedText, tag_scheme: TagScheme | None
) -> list[str | None]:
    """One output label a word: the likeliest of its first piece.

    A word without a piece of its own takes that of the word before it (`B-x` becomes `I-x`); before the first piece
    it is `O`, or None where there is no `O`. A word that was cut off by `max_length` is None.

    Args:
        outputs: raw, [W, outputs], with W at least the row's number of words.
    """
    return [d.label if d else None for d in _word_decisions(outputs, labels, encoded, tag_scheme)]


def _probabilities(outputs: Tensor) -> Tensor:
    return torch.softmax(outputs.to("cpu", torch.float64), dim=-1)


def _word_decisions(
    outputs: Tensor, labels: Sequence[str], encoded: EncodedText, tag_scheme: TagScheme | None
) -> list[_Decision | None]:
    best = _probabilities(outputs).max(dim=-1)
    chosen = list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    bio = tag_scheme is TagScheme.BIO
    decisions: list[_Decision | None] = []
    current = _Decision("O", 1.0) if bio else None
    for number, token in enumerate(encoded.word_tokens):
        if number >= encoded.words_seen:
            current = None
        elif token != NO_TOKEN:
            index, probability = chosen[number]
            current = _Decision(labels[index], probability)
        elif bio and current:
            current = _Decision(continued_tag(current.label), current.probability)
        decisions.append(current)
    return decisions


def _spans(text: str, words: Sequence[Word], decisions: Sequence[_Decision | None]) -> tuple[Span, ...]:
    """Reads BIO leniently: an I-x that continues no x begins one."""
    groups: list[tuple[str, list[int]]] = []
    label_before = None
    for number, decision in enumerate(decisions):
        tag = decision.label if decision else "O"
        label = None if tag == "O" else tag[2:]
        if label is not None and tag.startswith("I-") and label == label_before:
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
            probability=min(d.probability for d in (decisions[member] for member in members) if d),
        )
        for label, members in groups
    )
