"""The `trunkline` command's entry point.

What it imports is small: the rest comes while `main` runs, so that Ctrl-C is one line from the first moment on.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

_INTERRUPTED = 130  # as shells count: 128 and the number of the signal


def _utc_now() -> datetime:
    return datetime.now(UTC)


def main(
    arguments: Sequence[str] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    clock: Callable[[], datetime] = _utc_now,
) -> int:
    """Runs one command and returns its exit code; what is not given is the process's own."""
    try:
        from cli.boundary import run

        return run(arguments, environ=environ, cwd=cwd, clock=clock)
    except KeyboardInterrupt:
        sys.stderr.write(
            "interrupted: what was finished is kept and no change is half made; run the same command again to go on "
            "(`trunkline audit list` shows which changes were made)\n"
        )
        return _INTERRUPTED
