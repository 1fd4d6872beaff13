"""Numbers as people list them on a command line: `4-10`, `2,5,8-11`, `1e-4,2e-4`."""

import math
import re

from registry.errors import UsageError

_RANGE = re.compile(r"(\d{1,4})-(\d{1,4})")


def whole_numbers(text: str, option: str) -> tuple[int, ...]:
    """Ascending, each once; raises UsageError naming the option and every part that is no number or range."""
    found: set[int] = set()
    refused = []
    for part in (part.strip() for part in text.split(",")):
        if match := _RANGE.fullmatch(part):
            first, last = map(int, match.groups())
            found.update(range(first, last + 1))
            refused += [f"{part} ends before it begins"] if last < first else []
        elif re.fullmatch(r"\d{1,4}", part):
            found.add(int(part))
        else:
            refused.append(f"{part!r} is neither a number nor a range")
    if refused:
        raise UsageError(f"{option} {text}: {'; '.join(refused)}; write 4-10 or 2,5,8-11")
    return tuple(sorted(found))


def positive_numbers(text: str, option: str) -> tuple[float, ...]:
    """Ascending, each once; raises UsageError for what is no number above 0."""
    try:
        found = sorted({float(part) for part in text.split(",")})
    except ValueError:
        found = [math.nan]
    if not all(0 < number < math.inf for number in found):
        raise UsageError(f"{option} {text}: must be numbers above 0, as in 1e-4,2e-4")
    return tuple(found)


def numbers_of(text: str | None, option: str) -> dict[str, float]:
    """Task -> number, of "rte=70,cola=2"; raises UsageError naming the option and the part that is none."""
    found: dict[str, float] = {}
    for part in text.split(",") if text else ():
        name, _, number = part.partition("=")
        task = name.strip()
        if task in found:
            raise UsageError(f"{option}: names {task} twice")
        try:
            found[task] = float(number)
        except ValueError:
            raise UsageError(f"{option} {part}: write TASK=NUMBER, as in rte=70") from None
        if not abs(found[task]) < float("inf"):
            raise UsageError(f"{option} {part}: is no number that can be compared")
    return found


def positive_or_zero(text: str, option: str) -> float:
    """Raises UsageError for what is no number, or one below 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise UsageError(f"{option} {text}: must be a number from 0 up")
    return number
