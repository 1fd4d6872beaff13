"""`trial`: the command that a search starts for its trials, here and on other machines."""

import json
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from cli.application import example
from cli.progress import progress_bar
from cli.rendering import print_error

if TYPE_CHECKING:
    from pipelines.execution.trial_file import TrialResult

app = typer.Typer(no_args_is_help=True, help="Run single trials of a search, from files.")

_SECONDS_BETWEEN_LINES = 0.5
_SECONDS_BETWEEN_SIGNS_OF_LIFE = 5.0


@app.command(epilog=example("trunkline trial run trial.json --result result.json"))
def run(
    specification: Annotated[Path, typer.Argument(help="A trial's file, as a search writes it.")],
    result: Annotated[Path, typer.Option(help="Where to write the outcome, as JSON.")],
) -> None:
    """Run one trial, up to where its file says, and write its outcome to a file.

    Nothing is registered: who planned the trial does that. A trial that broke off goes on where it saved its state.
    """
    from pipelines.execution.trial_file import TrialRunner

    with progress_bar() as report:
        outcome = TrialRunner().run(specification, report)
    _write(outcome, result)
    if outcome.failure is not None:
        print_error(outcome.failure.message)
        raise typer.Exit(outcome.failure.exit_code)


@app.command(epilog=example("cat requests.jsonl - | trunkline trial work"))
def work() -> None:
    """Run one trial after the other, as lines of JSON on stdin name them: {"specification": PATH, "result": PATH}.

    Lines of JSON on stdout tell of progress, of warnings, every few seconds that the process is alive, and when a
    result is written or a line was refused.

    Ends with its stdin, at once: the process that feeds it is gone then.
    """
    say = _Lines(sys.stdout)
    threading.Thread(target=_say_alive, args=(say,), daemon=True).start()
    logging.getLogger().addHandler(_Warnings(say))
    with redirect_stdout(sys.stderr):  # whatever a library prints would tear our lines
        _run_each(_lines_until_closed(), say)


def _run_each(lines: Iterable[bytes], say: "_Lines") -> None:
    from pipelines.execution.trial_file import TrialRunner, read_request
    from registry.errors import TrunklineError

    runner = TrialRunner()
    said_at = 0.0

    def report(stage: str, done: int, total: int) -> None:
        nonlocal said_at
        if time.monotonic() - said_at > _SECONDS_BETWEEN_LINES:
            said_at = time.monotonic()
            say({"stage": stage, "done": done, "total": total})

    for line in lines:
        try:
            request = read_request(line)
            _write(runner.run(Path(request.specification), report), Path(request.result))
        except TrunklineError as error:  # there is no result that could tell it
            print_error(str(error))
            say({"refused": str(error)})
        else:
            say({"ended": request.result})


class _Lines:
    """Lines of JSON, whole whichever thread says them."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def __call__(self, line: dict[str, object]) -> None:
        with self._lock:
            self._stream.write(json.dumps(line) + "\n")
            self._stream.flush()


class _Warnings(logging.Handler):
    """Log records from WARNING upward, as lines: nobody reads the stderr of a process that ends well."""

    def __init__(self, say: _Lines) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._say({"warning": record.getMessage()})
        except Exception:  # noqa: BLE001 - as logging's own handlers: a word that cannot be said ends no trial
            self.handleError(record)


def _say_alive(say: _Lines) -> None:
    with suppress(OSError):  # nobody listens any more
        while True:
            say({"alive": True})
            time.sleep(_SECONDS_BETWEEN_SIGNS_OF_LIFE)


def _lines_until_closed() -> Iterator[bytes]:
    """The lines of stdin; when it closes the process ends, whatever it is doing: nobody waits for it any more."""
    lines: queue.Queue[bytes] = queue.Queue()

    def read() -> None:
        try:
            for line in sys.stdin.buffer:
                lines.put(line)
        finally:
            os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield lines.get()


def _write(outcome: "TrialResult", path: Path) -> None:
    from registry.artifacts.atomic_file import write_atomically

    write_atomically(path, outcome.model_dump_json().encode())
