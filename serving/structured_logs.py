"""Logs as JSON, a line each. Configured by the entry point; the modules log through `logging` as anywhere.

No line holds a text that somebody sent. The message of an unexpected exception may, so its type and its place in the
program are written, and its words are not.
"""

import json
import logging
import traceback
from datetime import UTC, datetime
from typing import Any, TextIO

from registry.errors import TrunklineError


def fields(**values: Any) -> dict[str, Any]:
    """For `extra=`: what a line holds beside its message."""
    return {"fields": values}


class JsonLines(logging.Formatter):
    """time (UTC), level, logger, message, the fields, and for an exception what it was and where it arose."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = _described(record.exc_info[1])
        return json.dumps(line, ensure_ascii=False, default=str)


def _described(error: BaseException) -> dict[str, Any]:
    said: dict[str, Any] = {
        "type": type(error).__name__,
        "where": [_place(frame) for frame in traceback.extract_tb(error.__traceback__)],
    }
    if isinstance(error, TrunklineError):
        said["error"] = str(error)
    if (cause := error.__cause__ or error.__context__) is not None:
        said["cause"] = _described(cause)
    return said


def _place(frame: traceback.FrameSummary) -> str:
    return f"{frame.filename}:{frame.lineno} {frame.name}"


def write_logs_to(stream: TextIO, *, level: int = logging.INFO) -> None:
    """Makes every logger of this process write JSON lines here, and nowhere else."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)  # it tells of its start and end in several lines each
