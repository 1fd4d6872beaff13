"""One progress bar for long work, on stderr, with the time left."""

import sys
import time
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

from cli.rendering import print_note, stderr_console

_SECONDS_BETWEEN_LINES = 20.0
"""Without a terminal: often enough to see that it lives, seldom enough for a log."""


@contextmanager
def progress_bar(*, beside_answers: bool = False) -> Iterator["ProgressBar"]:
    """Shows a bar a stage; where stderr is no terminal, a line now and then, and none of quick work.

    Args:
        beside_answers: stdout is written to meanwhile. Where people see that, it is progress enough and nothing more
            is said.
    """
    console = stderr_console()
    seen = beside_answers and sys.stdout.isatty()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns,
        console=console,
        disable=seen or not console.is_terminal,
        redirect_stdout=not beside_answers,  # it sends to stderr what is printed to stdout, be that a file
    ) as progress:
        yield ProgressBar(progress, says_lines=not seen)


class ProgressBar:
    """A `registry.progress.Report` drawn by rich: a new bar for every stage it hears of."""

    def __init__(self, progress: Progress, *, says_lines: bool) -> None:
        self._progress = progress
        self._says_lines = says_lines and progress.disable
        self._stage = ""
        self._task = TaskID(0)
        self._said_at = time.monotonic()

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage != self._stage:
            self._stage = stage
            self._task = self._progress.add_task(stage, total=total)
        self._progress.update(self._task, completed=done, total=total)
        if self._says_lines and time.monotonic() - self._said_at > _SECONDS_BETWEEN_LINES:
            self._said_at = time.monotonic()
            print_note(f"{stage}: {done} of {total}")
