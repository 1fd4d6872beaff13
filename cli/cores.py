"""How many cores there are for this process."""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")


def own_cores() -> int:
    """Those that it may run on where the system tells, as Linux does, else all of the machine's; and no more than its
    control groups are given the time of, as a container's are by `--cpus`."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min([allowed, *_quotas()])))


def _quotas() -> Iterator[float]:
    """Cores' worth of time that the control groups above this process may take, where that is limited."""
    for folder in _own_groups():
        for files in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):  # of version 2, of version 1
            with suppress(OSError, ValueError):  # there is no such file, or it says "max"
                quota, period = map(int, " ".join((folder / name).read_text() for name in files).split())
                if quota > 0:  # else -1: no limit
                    yield quota / period


def _own_groups() -> Iterator[Path]:
    """From the process's own groups upwards. A container may see its own one at the top, whatever it is called."""
    with suppress(OSError):
        for line in _OWN_GROUPS.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            root = _GROUPS / "cpu" if controllers else _GROUPS
            own = root / path.lstrip("/")
            for folder in (own, *own.parents):
                yield folder
                if folder == root:
                    break
