"""Names of processes, such that another one can tell whether they still run."""

import os
import socket
from pathlib import Path

_LONGEST_HOST = 64


def own_name() -> str:
    """This process, as in "node7/6f1c2a44-…/4026531836/4711:88213": its place, its number and when it began."""
    _, began = _state_and_start(os.getpid()) or ("", "unknown")
    return f"{_own_place() or _host()}/{os.getpid()}:{began}"


def is_gone(name: str) -> bool:
    """Whether the process of this name is known to run no more: of one in another place nothing is known."""
    place, _, process = name.rpartition("/")
    number, _, began = process.partition(":")
    if place != _own_place() or not (number.isdecimal() and began.isdecimal()):
        return False
    try:
        os.kill(int(number), 0)  # unlike /proc, it tells of processes that may not be looked at
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        pass
    found = _state_and_start(int(number))
    # A zombie has ended, and only its parent has not asked for it. Another start: the number was given again.
    return found is not None and (found[0] in "ZX" or found[1] != began)


def _own_place() -> str | None:
    """Host, boot of the machine, and namespace of process numbers; None on a system that does not tell them.

    The host's name, for people, would not do: containers share one, and many a machine is called localhost.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = str(Path("/proc/self/ns/pid").readlink()).removeprefix("pid:[").removesuffix("]")
    except OSError:
        return None
    return f"{_host()}/{boot}/{namespace}"


def _host() -> str:
    return "".join(socket.gethostname().split())[:_LONGEST_HOST]


def _state_and_start(number: int) -> tuple[str, str] | None:
    """A process's state, as a letter, and when it began, in clock ticks since the boot; None: it cannot be told."""
    try:
        # Fields 3 and 22; the second one is the program's name in brackets, which may hold anything.
        fields = Path(f"/proc/{number}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0], fields[19]
