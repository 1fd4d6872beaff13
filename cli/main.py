"""The `trunkline` command's entry point.

What it imports is small: the rest comes while `main` runs, so that Ctrl-C is one line from the first moment on.
"""

import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

_KILLED_BY = 128  # an exit code, as shells count, is this and the number of the signal


def _utc_now() -> datetime:
    return datetime.now(UTC)


def main(
    arguments: Sequence[str] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    clock: Callable[[], datetime] = _utc_now,
) -> int:
    """Runs one command and returns its exit code; what is not given is the process's own.

    Where this is a process's whole work (no `arguments`), SIGTERM ends it as Ctrl-C does.
    """
    received: int = signal.SIGINT

    def terminate(number: int, _: object) -> None:
        nonlocal received
        received = number
        raise KeyboardInterrupt

    if arguments is None:
        signal.signal(signal.SIGTERM, terminate)
    try:
        from cli.boundary import run

        return run(arguments, environ=environ, cwd=cwd, clock=clock)
    except KeyboardInterrupt:
        sys.stderr.write(
            "interrupted: what was finished is kept and no change is half made; run the same command again to go on "
            "(`trunkline audit list` shows which changes were made)\n"
        )
        return _KILLED_BY + received
