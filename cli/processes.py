"""Names of processes, such that another one can tell whether they still run."""

import os
import socket
from pathlib import Path


def own_name() -> str:
    """This process: host, number and when it began, as in "node7:4711:88213"."""
    return f"{socket.gethostname()}:{os.getpid()}:{_began(os.getpid())}"


def is_gone(name: str) -> bool:
    """Whether the process of this name is known to run no more: of one on another host nothing is known."""
    host, _, rest = name.rpartition(":")[0].rpartition(":")
    if host != socket.gethostname() or not rest.isdigit():
        return False
    began = _began(int(rest))
    return began is None or f"{host}:{rest}:{began}" != name


def _began(number: int) -> str | None:
    """When a process began, in clock ticks since the machine started; None where there is no such process.

    The number alone would not do: the system gives it to another process one day.
    """
    try:
        # Field 22; the second one is the program's name in brackets, which may hold anything.
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[19]
    except FileNotFoundError:
        pass
    if Path("/proc").is_dir():
        return None
    try:  # a system without /proc: that the number is in use must do
        os.kill(number, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "unknown"
