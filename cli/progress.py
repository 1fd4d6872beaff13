"""One progress bar for long work, on stderr, with the time left."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from cli.rendering import stderr_console


@contextmanager
def progress_bar() -> Iterator["ProgressBar"]:
    """Shows a bar a stage; where stderr is no terminal it stays silent."""
    console = stderr_console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield ProgressBar(progress)


class ProgressBar:
    """A `pipelines.progress.Report` drawn by rich: a new bar for every stage it hears of."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._stage = ""
        self._task = TaskID(0)

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage != self._stage:
            self._stage = stage
            self._task = self._progress.add_task(stage, total=total)
        self._progress.update(self._task, completed=done, total=total)
