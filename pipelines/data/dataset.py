"""The labelled data of a task: read, validated as a whole, digested."""

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, TypeVar

from modeling.words import carry_tags
from pipelines.data.fields import Refused, label_of, number_of, tags_of, text_of, tokens_of
from pipelines.data.rows import Row, place_word, read_rows
from registry.domain.plain_data import canonical_json, json_digest
from registry.domain.task_specs import InputForm, TagScheme, TaskSpec, TaskType
from registry.errors import InvalidInput

_T = TypeVar("_T")

_PLACES_SHOWN = 3
_MOST_HINTS = 20
"""Labels that a hint is looked for: as many problems as an error shows, for a column may hold a million texts."""
_NUMBER = re.compile(r"-?\d+(\.0)?")


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled input. `target` is a label, a number, or one tag for each word of `split_words(text)`."""

    text: str
    text_pair: str | None
    target: str | float | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Dataset:
    """Examples in the file's order, with the digests that `docs/digests.md` lays down under "Data"."""

    examples: tuple[Example, ...]
    digest: str
    """Of texts and targets, in order."""
    input_digests: tuple[str, ...]
    """One an example: of its texts alone."""
    unread_pairs: int = 0
    """Rows with a second text, which a task of single texts does not read."""


def load_dataset(spec: TaskSpec, split: Literal["train", "dev"]) -> Dataset:
    """Reads and validates one file of a task.

    Raises:
        InvalidInput: with every problem of the file at once; only a garbled line ends the reading before the end.
    """
    path = Path(spec.data.train if split == "train" else spec.data.dev)
    parser = _RowParser(spec)
    examples: list[Example] = []
    file_problems: tuple[str, ...] = ()
    try:
        rows = read_rows(path, frozenset(dict(spec.columns).values()))
        examples.extend(example for row in rows if (example := parser.example(row)) is not None)
    except InvalidInput as error:
        file_problems = error.problems
    else:
        if not examples and not parser.problems:
            file_problems = ("the file holds no rows",)
        elif split == "train" and len(parser.targets) == 1 and not parser.targets_refused:
            file_problems = (f"the target is {min(parser.targets)!r} everywhere: there is nothing to learn",)
    if problems := [*parser.described_problems(place_word(path)), *file_problems]:
        raise InvalidInput(f"task {spec.task}, {split} data {path}", problems)
    return _digested(tuple(examples), parser.unread_pairs)


def _digested(examples: tuple[Example, ...], unread_pairs: int) -> Dataset:
    digest = hashlib.sha256(b"trunkline data 1\n")
    for example in examples:
        digest.update(canonical_json([example.text, example.text_pair, example.target]) + b"\n")
    inputs = (json_digest([example.text, example.text_pair]) for example in examples)
    return Dataset(examples, digest.hexdigest(), tuple(inputs), unread_pairs)


class _RowParser:
    """Turns rows into examples, and keeps what is wrong: each problem once, with the places that have it."""

    def __init__(self, spec: TaskSpec) -> None:
        self.problems: dict[str, list[int]] = {}
        self.targets: set[str | float] = set()
        """The different labels, tags or numbers."""
        self.targets_refused = False
        self.unread_pairs = 0
        self._spec = spec
        self._declared = frozenset(spec.output_labels)
        self._alike = {declared.strip().casefold(): declared for declared in spec.labels}
        self._hints: dict[str, str] = {}

    def described_problems(self, place: str) -> list[str]:
        """The problems, each with the first numbers of its places; `place` is what they count."""
        described = []
        for problem, numbers in self.problems.items():
            shown = ", ".join(map(str, numbers[:_PLACES_SHOWN]))
            more = f" and {len(numbers) - _PLACES_SHOWN:,} more" if len(numbers) > _PLACES_SHOWN else ""
            described.append(f"{place}{'s' if len(numbers) > 1 else ''} {shown}{more}: {problem}")
        return described

    def example(self, row: Row) -> Example | None:
        """The row's example; where a problem was noted, None or one that is not to be used."""
        if self._spec.type is TaskType.TOKEN_CLASSIFICATION:
            return self._tagged_example(row)
        text = self._noting(row, self._text)
        paired = self._spec.input_form is InputForm.PAIR
        text_pair = self._noting(row, lambda row: text_of(row.values, self._spec.columns.text_pair)) if paired else None
        if not paired and self._has_second_text(row):
            self.unread_pairs += 1
        target = self._noting(row, self._target)
        self._keep_target(None if target is None else [target])
        if text is None or target is None:
            return None
        return Example(text, text_pair, target)

    def _has_second_text(self, row: Row) -> bool:
        columns = self._spec.columns
        second = row.values.get(columns.text_pair)
        return (
            columns.text_pair not in (columns.text, columns.label) and isinstance(second, str) and bool(second.strip())
        )

    def _tagged_example(self, row: Row) -> Example | None:
        tokens = self._noting(row, lambda row: tokens_of(row.values, self._spec.columns.tokens))
        tags = self._noting(row, self._tags)
        self._keep_target(tags)
        if tokens is None or tags is None:
            return None
        if len(tokens) != len(tags):
            self._note(row, [f"{len(tokens)} tokens, but {len(tags)} tags"])
            return None
        assert self._spec.tag_scheme is not None  # noqa: S101  (a spec of this type has one)
        text, _, word_tags = carry_tags(tokens, tags, self._spec.tag_scheme)
        return Example(text, None, word_tags)

    def _text(self, row: Row) -> str:
        """The text; where one file serves a text-level and a token-level task, its tokens joined."""
        columns = self._spec.columns
        if columns.text not in row.values and columns.tokens in row.values:
            return " ".join(tokens_of(row.values, columns.tokens))
        return text_of(row.values, columns.text)

    def _target(self, row: Row) -> str | float:
        column = self._spec.columns.label
        if self._spec.type is TaskType.REGRESSION:
            return number_of(row.values, column)
        label = label_of(row.values, column)
        if label not in self._declared:
            raise Refused(f"label {label!r} is not declared{self._number_rule(label) or self._near(label)}")
        return label

    def _tags(self, row: Row) -> list[str]:
        tags = tags_of(row.values, self._spec.columns.tags)
        if undeclared := sorted(set(tags) - self._declared):
            scheme = self._spec.tag_scheme
            rule = "; with tag_scheme bio tags are O, B-x and I-x for a label x" if scheme is TagScheme.BIO else ""
            raise Refused(
                *(
                    f"tag {tag!r} is not declared{self._number_rule(tag) or rule or self._near(tag)}"
                    for tag in undeclared
                )
            )
        return tags

    def _number_rule(self, label: str) -> str:
        """What to do where the data have numbers for labels, as data sets of the hub do, and the task has names."""
        if not _NUMBER.fullmatch(label) or any(map(_NUMBER.fullmatch, self._declared)):
            return ""
        return (
            ": a number is not taken for a label's place; write the labels' names into the data, or declare the numbers"
        )

    def _near(self, label: str) -> str:
        """The declared label that it may have been meant for: of another case, or a letter off."""
        if label not in self._hints:
            if len(self._hints) >= _MOST_HINTS or _NUMBER.fullmatch(label):
                return ""
            spelt = label.strip().casefold()
            beside = [one for one in self._alike if abs(len(one) - len(spelt)) <= 1]
            near = get_close_matches(spelt, beside, 1, cutoff=0.75)
            self._hints[label] = f"; did you mean {self._alike[near[0]]!r}?" if near else ""
        return self._hints[label]

    def _keep_target(self, parts: Iterable[str | float] | None) -> None:
        if parts is None:
            self.targets_refused = True
        else:
            self.targets.update(parts)

    def _noting(self, row: Row, read: Callable[[Row], _T]) -> _T | None:
        try:
            return read(row)
        except Refused as refused:
            self._note(row, refused.reasons)
            return None

    def _note(self, row: Row, reasons: Iterable[str]) -> None:
        for reason in reasons:
            self.problems.setdefault(reason, []).append(row.number)
