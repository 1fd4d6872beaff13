"""How many cores there are for this process."""

import os


def own_cores() -> int:
    """Those that it may run on where the system tells, as Linux does; else all of the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
