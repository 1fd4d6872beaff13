"""`trunkline task register|update`: whether the data files are what the definition says."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cli.rendering import print_warning, working
from registry.domain.task_specs import TagScheme, TaskSpec
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

_SPLITS: tuple[Split, ...] = ("train", "dev")
_MOST_LABELS = 10


def warn_of_missing_data(spec: TaskSpec) -> None:
    """Says which files are not on this machine: no error, for they may come later, or lie on the one that trains."""
    for split in _SPLITS:
        if not _path(spec, split).is_file():
            print_warning(f"task {spec.task}: there is no {split} data file {_path(spec, split)} on this machine")


def check_data(spec: TaskSpec) -> dict[Split, int]:
    """Rows of each file that is on this machine; warns of labels that no training row has.

    Raises:
        InvalidInput: with every problem of both files at once.
    """
    from pipelines.data.dataset import load_dataset

    rows: dict[Split, int] = {}
    problems: list[str] = []
    for split in (split for split in _SPLITS if _path(spec, split).is_file()):
        try:
            with working(f"reading {_path(spec, split)}"):
                data = load_dataset(spec, split)
        except InvalidInput as error:
            problems += (f"{split} data {_path(spec, split)}: {problem}" for problem in error.problems)
            continue
        rows[split] = len(data.examples)
        if split == "train":
            _warn_of_labels_without_a_row(spec, data)
    if problems:
        raise InvalidInput(f"task {spec.task}", problems)
    return rows


def rows_told(rows: dict[Split, int]) -> str:
    """The rows of each file for people."""
    return ", ".join(f"{count:,} {split} row{'' if count == 1 else 's'}" for split, count in rows.items())


def _path(spec: TaskSpec, split: Split) -> Path:
    return Path(spec.data.train if split == "train" else spec.data.dev)


def _warn_of_labels_without_a_row(spec: TaskSpec, data: "Dataset") -> None:
    targets = (example.target for example in data.examples)
    seen = {part for target in targets for part in (target if isinstance(target, tuple) else (target,))}
    if spec.tag_scheme is TagScheme.BIO:
        seen = {str(tag).partition("-")[2] for tag in seen}
    if unseen := [label for label in spec.labels if label not in seen]:
        more = f" and {len(unseen) - _MOST_LABELS} more" if len(unseen) > _MOST_LABELS else ""
        shown = ", ".join(map(repr, unseen[:_MOST_LABELS]))
        print_warning(f"task {spec.task}: no training row has {shown}{more}: nothing can be learnt of that")
