"""`trial`: the command that a search starts for its trials, here and on other machines."""

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.application import example
from cli.progress import progress_bar
from cli.rendering import print_error

if TYPE_CHECKING:
    from pipelines.execution.trial_file import TrialResult

app = typer.Typer(no_args_is_help=True, help="Run single trials of a search, from files.")

_SECONDS_BETWEEN_LINES = 0.5


@app.command(epilog=example("trunkline trial run trial.json --result result.json"))
def run(
    specification: Annotated[Path, typer.Argument(help="A trial's file, as a search writes it.")],
    result: Annotated[Path, typer.Option(help="Where to write the outcome, as JSON.")],
) -> None:
    """Run one trial, up to where its file says, and write its outcome to a file.

    Nothing is registered: who planned the trial does that. A trial that broke off goes on where it saved its state.
    """
    from pipelines.execution.trial_file import TrialRunner, read_trial_file

    file = read_trial_file(specification)
    with progress_bar() as report:
        outcome = TrialRunner().run(file, report)
    _write(outcome, result)
    if outcome.failure is not None:
        print_error(outcome.failure.message)
        raise typer.Exit(outcome.failure.exit_code)


@app.command(
    epilog=example("""echo '{"specification": "trial.json", "result": "result.json"}' | trunkline trial work""")
)
def work() -> None:
    """Run one trial after the other, as lines of JSON on stdin name them; progress goes to stdout in the same form.

    Ends with its stdin, at once: the process that feeds it is gone then.
    """
    from pipelines.execution.trial_file import TrialRunner, read_trial_file

    runner = TrialRunner()
    said_at = 0.0

    def report(stage: str, done: int, total: int) -> None:
        nonlocal said_at
        if time.monotonic() - said_at > _SECONDS_BETWEEN_LINES:
            said_at = time.monotonic()
            _say({"stage": stage, "done": done, "total": total})

    for line in _lines_until_closed():
        paths = json.loads(line)
        outcome = runner.run(read_trial_file(Path(paths["specification"])), report)
        _write(outcome, Path(paths["result"]))
        _say({"ended": paths["result"]})


def _lines_until_closed() -> Iterator[str]:
    """The lines of stdin; when it closes the process ends, whatever it is doing: nobody waits for it any more."""
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield lines.get()


def _say(line: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def _write(outcome: "TrialResult", path: Path) -> None:
    from registry.artifacts.atomic_file import write_atomically

    write_atomically(path, outcome.model_dump_json().encode())
