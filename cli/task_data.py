"""`trunkline task register|update`: whether the data files are what the definition says."""

import os
from collections.abc import Collection, Sequence
from pathlib import Path
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

_MOST_PROBLEMS = 10
"""Of one file before those of the other: half of what an error shows."""
_MOST_LABELS = 10


class DataFiles(NamedTuple):
    """The files of a task that are on this machine, and what was found in them."""

    missing: Sequence[str] = ()
    """Such as "train data file /srv/train.jsonl"."""
    rows: Sequence[str] = ()
    """Such as "2,490 train rows"; empty where nothing was read."""
    unlearnt: Sequence[str] = ()
    """Labels that no training row has."""
    same: bool = False
    """Whether both files hold the same rows."""


def look_at_data(spec: TaskSpec, *, read: bool) -> DataFiles:
    """Which files are here and, if they are to be read, what they hold.

    Raises:
        InvalidInput: with problems of both files at once.
    """
    paths: dict[Split, str] = {"train": spec.data.train, "dev": spec.data.dev}
    # os.path, for Path.is_file raises where nobody may look
    here = [split for split, path in paths.items() if os.path.isfile(path)]  # noqa: PTH113
    missing = [f"{split} data file {path}" for split, path in paths.items() if split not in here]
    if not read:
        return DataFiles(missing)

    from pipelines.data.rows import refuse_format

    found: dict[Split, _Held] = {}
    problems: dict[Split, list[str]] = {}
    for split, path in paths.items():
        try:
            if split in here:
                with working(f"reading {path}"):
                    found[split] = _held(spec, split)
            elif os.path.exists(path):  # noqa: PTH110
                raise InvalidInput(path, ["is a folder, not a file" if os.path.isdir(path) else "is no file"])  # noqa: PTH112
            else:
                refuse_format(Path(path))
        except InvalidInput as error:
            problems[split] = [f"{split} data {path}: {problem}" for problem in error.problems]
    if problems:
        first = [problem for of_one in problems.values() for problem in of_one[:_MOST_PROBLEMS]]
        rest = [problem for of_one in problems.values() for problem in of_one[_MOST_PROBLEMS:]]
        raise InvalidInput(f"task {spec.task}, its data (--no-check-data leaves them unread)", first + rest)
    return DataFiles(
        missing,
        [f"{held.rows:,} {split} row{'' if held.rows == 1 else 's'}" for split, held in found.items()],
        found["train"].without_row if "train" in found else (),
        same=len(found) == 2 and found["train"].digest == found["dev"].digest,
    )


def warn_of_data(spec: TaskSpec, found: DataFiles) -> None:
    """Says what is missing here, which is no error: it may come later, or lie on the machine that trains."""
    for file in found.missing:
        print_warning(f"task {spec.task}: there is no {file} on this machine")
    if found.same:
        print_warning(f"task {spec.task}: train and dev data are the same rows: scores will say nothing of new texts")
    if found.unlearnt:
        shown, hidden = found.unlearnt[:_MOST_LABELS], found.unlearnt[_MOST_LABELS:]
        more = f" and {len(hidden)} more" if hidden else ""
        print_warning(
            f"task {spec.task}: no training row has {', '.join(map(repr, shown))}{more}: no version can learn that"
        )


class _Held(NamedTuple):
    rows: int
    without_row: list[str]
    """Labels that no row has."""
    digest: str


def _held(spec: TaskSpec, split: Split) -> _Held:
    from pipelines.data.dataset import load_dataset

    data = load_dataset(spec, split)
    seen = {target for example in data.examples for target in _parts(example.target)}
    return _Held(len(data.examples), _without_row(spec, seen), data.digest)


def _parts(target: str | float | tuple[str, ...]) -> tuple[str | float, ...]:
    return target if isinstance(target, tuple) else (target,)


def _without_row(spec: TaskSpec, seen: Collection[str | float]) -> list[str]:
    """The declared labels, or span types, that are not among the targets or tags."""
    if spec.tag_scheme is TagScheme.BIO:
        seen = {str(tag).partition("-")[2] for tag in seen}
    return [label for label in spec.labels if label not in seen]
