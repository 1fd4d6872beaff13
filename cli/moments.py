"""Times that a user writes: ISO 8601 and nothing else, so that a number is never taken for seconds."""

import re
from datetime import UTC, date, datetime

from registry.errors import UsageError

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_ISO = re.compile(
    r"\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?(Z|[+-]\d{2}:?\d{2})?)?",
    re.ASCII,
)


def parse_moment(text: str) -> datetime:
    """A date (its first moment) or a date and time; without an offset it is UTC, wherever the user is.

    Raises:
        UsageError: it is written otherwise, or there is no such day or time.
    """
    try:
        at = datetime.fromisoformat(text) if _ISO.fullmatch(text) else None
        if at is not None:
            at = at if at.tzinfo else at.replace(tzinfo=UTC)
            at.astimezone(UTC)  # the first and the last day of all may have no moment in UTC
    except (ValueError, OverflowError):
        at = None
    if at is None:
        raise UsageError(
            f"{text!r} is no time: write a date or a date and time, as 2026-11-23, 2026-11-23T05:06 or "
            "2026-11-23T05:06:07+01:00"
        )
    return at


def parse_day(text: str) -> date:
    """A date.

    Raises:
        UsageError: it is written otherwise, or there is no such day.
    """
    try:
        day = date.fromisoformat(text) if _DAY.fullmatch(text) else None
    except ValueError:
        day = None
    if day is None:
        raise UsageError(f"{text!r} is no date: write it as 2026-11-23")
    return day
