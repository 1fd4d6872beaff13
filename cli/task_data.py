"""`trunkline task register|update|check`: whether the data files are what the definition says, and what they hold."""

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import typer

from cli.rendering import print_warning, working
from registry.domain.task_specs import TagScheme, TaskSpec, TaskType
from registry.errors import InvalidInput

if TYPE_CHECKING:
    from pipelines.data.dataset import Dataset

Split = Literal["train", "dev"]

CheckData = Annotated[
    bool,
    typer.Option(
        "--check-data/--no-check-data",
        help="Read the data files that are on this machine, and refuse what no run could use.",
    ),
]

_MOST_PROBLEMS = 10
"""Of one file before those of the other: half of what an error shows."""
_MOST_LABELS = 10
_SHARE_TOLD = 0.01
"""Of dev rows that are training rows too: fewer are no news, data sets of repute have some."""


class Held(NamedTuple):
    """What one file holds."""

    rows: int
    counts: Mapping[str, int]
    """Rows of each declared label, tags of each or, with tag_scheme bio, spans of each type; none for numbers."""
    numbers: tuple[float, float, float] | None
    """Of targets that are numbers the least, the mean, the greatest."""


class DataFiles(NamedTuple):
    """The files of a task that are on this machine, and what was found in them."""

    missing: Sequence[str] = ()
    """Such as "train data file /srv/train.jsonl"."""
    held: Mapping[Split, Held] = MappingProxyType({})
    """Nothing of a file that was not read."""
    dev_rows_in_train: int | None = None
    """How many dev rows have the very texts of a training row; None where either file was not read."""
    second_texts: Sequence[Split] = ()
    """Whose rows have second texts that are not read, because the task reads single ones."""

    @property
    def rows(self) -> list[str]:
        """Such as "2,490 train rows"."""
        return [f"{held.rows:,} {split} row{'' if held.rows == 1 else 's'}" for split, held in self.held.items()]

    @property
    def unlearnt(self) -> list[str]:
        """Labels that no training row has."""
        return (
            [label for label, count in self.held["train"].counts.items() if not count] if "train" in self.held else []
        )


def look_at_data(spec: TaskSpec, *, read: bool, hint: str = " (--no-check-data leaves them unread)") -> DataFiles:
    """Which files are here and, if they are to be read, what they hold.

    Args:
        hint: what to do about problems, behind the words that name the data.
    Raises:
        InvalidInput: with problems of both files at once.
    """
    paths: dict[Split, str] = {"train": spec.data.train, "dev": spec.data.dev}
    # os.path, for Path.is_file raises where nobody may look
    here = [split for split, path in paths.items() if os.path.isfile(path)]  # noqa: PTH113
    missing = [f"{split} data file {path}" for split, path in paths.items() if split not in here]
    if not read:
        return DataFiles(missing)

    from pipelines.data.dataset import load_dataset
    from pipelines.data.rows import refuse_format

    found: dict[Split, Dataset] = {}
    problems: dict[Split, list[str]] = {}
    for split, path in paths.items():
        try:
            if split in here:
                with working(f"reading {path}"):
                    found[split] = load_dataset(spec, split)
            elif os.path.exists(path):  # noqa: PTH110
                raise InvalidInput(path, ["is a folder, not a file" if os.path.isdir(path) else "is no file"])  # noqa: PTH112
            else:
                refuse_format(Path(path))
        except InvalidInput as error:
            problems[split] = [f"{split} data {path}: {problem}" for problem in error.problems]
    if problems:
        first = [problem for of_one in problems.values() for problem in of_one[:_MOST_PROBLEMS]]
        rest = [problem for of_one in problems.values() for problem in of_one[_MOST_PROBLEMS:]]
        raise InvalidInput(f"task {spec.task}, its data{hint}", first + rest)
    learnt = set(found["train"].input_digests) if len(found) == len(paths) else set()
    return DataFiles(
        missing,
        {split: _held(spec, data) for split, data in found.items()},
        sum(digest in learnt for digest in found["dev"].input_digests) if learnt else None,
        [split for split, data in found.items() if data.unread_pairs],
    )


def warn_of_data(spec: TaskSpec, found: DataFiles) -> None:
    """Says what is missing here, which is no error: it may come later, or lie on the machine that trains."""
    for file in found.missing:
        print_warning(f"task {spec.task}: there is no {file} on this machine")
    if (shared := found.dev_rows_in_train) and shared > _SHARE_TOLD * (dev_rows := found.held["dev"].rows):
        print_warning(
            f"task {spec.task}: {shared:,} of {dev_rows:,} dev rows are texts that train data have too: their scores "
            "say nothing of new texts"
        )
    if found.second_texts:
        files, column = " and ".join(found.second_texts), spec.columns.text_pair
        print_warning(
            f"task {spec.task}: its {files} data have second texts ({column!r}), which a task of single texts does not "
            "read; `input_form: pair` in its definition reads both"
        )
    if found.unlearnt:
        shown, hidden = found.unlearnt[:_MOST_LABELS], found.unlearnt[_MOST_LABELS:]
        more = f" and {len(hidden)} more" if hidden else ""
        print_warning(
            f"task {spec.task}: no training row has {', '.join(map(repr, shown))}{more}: no version can learn that"
        )


def _held(spec: TaskSpec, data: "Dataset") -> Held:
    targets = [example.target for example in data.examples]
    if spec.type is TaskType.REGRESSION:
        numbers = [float(target) for target in targets if not isinstance(target, tuple)]
        return Held(len(targets), {}, (min(numbers), math.fsum(numbers) / len(numbers), max(numbers)))
    counts = Counter(part for target in targets for part in _counted(spec, target))
    return Held(len(targets), {label: counts[label] for label in spec.labels}, None)


def _counted(spec: TaskSpec, target: str | float | tuple[str, ...]) -> Sequence[str]:
    """Of one target what is counted: its label, its tags, or the types of its spans."""
    if not isinstance(target, tuple):
        return [str(target)]
    if spec.tag_scheme is TagScheme.PLAIN:
        return target
    # A span begins with a B-x, and with an I-x that continues no x: so scores and answers are read too.
    return [tag[2:] for before, tag in pairwise(("O", *target)) if tag not in ("O", f"I-{before[2:]}")]
