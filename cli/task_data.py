"""`trunkline task register|update`: whether the data files are what the definition says."""

import os
from collections.abc import Collection, Sequence
from typing import Annotated, Literal, NamedTuple

import typer

from cli.rendering import print_warning, working
from registry.domain.task_specs import TagScheme, TaskSpec
from registry.errors import InvalidInput

Split = Literal["train", "dev"]

CheckData = Annotated[
    bool,
    typer.Option(
        "--check-data/--no-check-data",
        help="Read the data files that are on this machine, and refuse what no run could use.",
    ),
]

_MOST_PROBLEMS = 9
"""Of one file: with how many more there are, of both files together no more than an error shows."""
_MOST_LABELS = 10


class DataFiles(NamedTuple):
    """The files of a task that are on this machine, and what was found in them."""

    missing: Sequence[str] = ()
    """Such as "train data file /srv/train.jsonl"."""
    rows: Sequence[str] = ()
    """Such as "2,490 train rows"; empty where nothing was read."""
    unlearnt: Sequence[str] = ()
    """Labels that no training row has."""


def look_at_data(spec: TaskSpec, *, read: bool) -> DataFiles:
    """Which files are here and, if they are to be read, what they hold.

    Raises:
        InvalidInput: with problems of both files at once.
    """
    paths: dict[Split, str] = {"train": spec.data.train, "dev": spec.data.dev}
    missing = [f"{split} data file {path}" for split, path in paths.items() if not os.path.isfile(path)]  # noqa: PTH113
    if not read:
        return DataFiles(missing)

    rows: list[str] = []
    problems: list[str] = []
    unlearnt: Sequence[str] = ()
    for split in (split for split, path in paths.items() if os.path.isfile(path)):  # noqa: PTH113
        try:
            with working(f"reading {paths[split]}"):
                count, without_row = _held(spec, split)
        except InvalidInput as error:
            problems += (f"{split} data {paths[split]}: {problem}" for problem in _first(error.problems))
            continue
        rows.append(f"{count:,} {split} row{'' if count == 1 else 's'}")
        unlearnt = without_row if split == "train" else unlearnt
    if problems:
        raise InvalidInput(f"task {spec.task}, its data (--no-check-data leaves them unread)", problems)
    return DataFiles(missing, rows, unlearnt)


def warn_of_data(spec: TaskSpec, found: DataFiles) -> None:
    """Says what is missing here, which is no error: it may come later, or lie on the machine that trains."""
    for file in found.missing:
        print_warning(f"task {spec.task}: there is no {file} on this machine")
    if found.unlearnt:
        shown, hidden = found.unlearnt[:_MOST_LABELS], found.unlearnt[_MOST_LABELS:]
        more = f" and {len(hidden)} more" if hidden else ""
        print_warning(
            f"task {spec.task}: no training row has {', '.join(map(repr, shown))}{more}: no version can learn that"
        )


def _held(spec: TaskSpec, split: Split) -> tuple[int, list[str]]:
    """How many rows a file has, and the labels that none of them has."""
    from pipelines.data.dataset import load_dataset

    examples = load_dataset(spec, split).examples
    return len(examples), _without_row(spec, {target for example in examples for target in _parts(example.target)})


def _first(problems: Sequence[str]) -> list[str]:
    hidden = len(problems) - _MOST_PROBLEMS
    return [*problems] if hidden <= 1 else [*problems[:_MOST_PROBLEMS], f"and {hidden:,} problems more"]


def _parts(target: str | float | tuple[str, ...]) -> tuple[str | float, ...]:
    return target if isinstance(target, tuple) else (target,)


def _without_row(spec: TaskSpec, seen: Collection[str | float]) -> list[str]:
    """The declared labels, or span types, that are not among the targets or tags."""
    if spec.tag_scheme is TagScheme.BIO:
        seen = {str(tag).partition("-")[2] for tag in seen}
    return [label for label in spec.labels if label not in seen]
