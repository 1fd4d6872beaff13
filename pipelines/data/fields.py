"""Reads one value of a row as what a task needs: a text, tokens, a label, tags, a number.

Every function raises `Refused` with all that is wrong with the value, in words that are the same for each row with the
same fault, so that a file's faults can be counted.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
"""What Python takes for a number besides, such as 1_000, is more likely a slip."""
_LARGEST_FP32 = 3.4028234663852886e38


class Refused(Exception):
    """A value cannot be used; `reasons` says why."""

    def __init__(self, *reasons: str) -> None:
        self.reasons = reasons
        super().__init__(*reasons)


class OtherType(NamedTuple):
    """Stands for a value that was not read, because no text, number, boolean or list of such is in its column."""

    name: str
    """As the file's own format calls the type."""


def text_of(values: Mapping[str, Any], column: str) -> str:
    value = _value(values, column)
    if not isinstance(value, str):
        raise Refused(f"{column!r} is {_shown(value)}, not a text")
    if not value.strip():
        raise Refused(f"{column!r} is empty")
    return _encodable(column, value)


def tokens_of(values: Mapping[str, Any], column: str) -> list[str]:
    """At least one token, each with more in it than white space."""
    tokens = _list(values, column)
    if not all(isinstance(token, str) for token in tokens):
        raise Refused(f"{column!r} holds something that is not a text")
    if not tokens or not all(token.strip() for token in tokens):
        raise Refused(f"{column!r} is empty or holds an empty token")
    return [_encodable(column, token) for token in tokens]


def label_of(values: Mapping[str, Any], column: str) -> str:
    """A label as `labels` in a task file spells it; JSON's numbers and booleans by their JSON text (`1`, `true`)."""
    return _label(column, _value(values, column))


def tags_of(values: Mapping[str, Any], column: str) -> list[str]:
    return [_label(column, value) for value in _list(values, column)]


def number_of(values: Mapping[str, Any], column: str) -> float:
    """A finite number that fits fp32, from a JSON number or its text."""
    value = _value(values, column)
    is_no_number = isinstance(value, bool) or (isinstance(value, str) and not _NUMBER.fullmatch(value.strip()))
    try:
        number = math.nan if is_no_number else float(value)
    except (TypeError, ValueError):
        number = math.nan
    except OverflowError:
        number = math.inf
    if not abs(number) <= _LARGEST_FP32:
        raise Refused(f"{column!r} is {_shown(value)}, not a finite number (that fits fp32)")
    return number


def _value(values: Mapping[str, Any], column: str) -> Any:
    if column not in values:
        present = ", ".join(map(repr, values)) or "none"
        raise Refused(f"no column {column!r}; there is {present} (`columns` in the task file says which to read)")
    if values[column] is None:
        raise Refused(f"{column!r} is null")
    if isinstance(values[column], OtherType):
        shown = _shortened(values[column].name)
        raise Refused(f"{column!r} is of type {shown}; what can be read is text, numbers, booleans and lists of them")
    return values[column]


def _list(values: Mapping[str, Any], column: str) -> list[Any]:
    """A list, or a string split at its spaces: the only way to write a list in CSV and TSV."""
    value = _value(values, column)
    if isinstance(value, str):
        return [part for part in value.split(" ") if part]
    if not isinstance(value, list):
        raise Refused(f"{column!r} is {_shown(value)}, not a list")
    return value


def _label(column: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    raise Refused(f"{column!r} holds {_shown(value)}, not a label")


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "an object"
    return _shortened(json.dumps(value))


def _shortened(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:39]}…"


def _encodable(column: str, text: str) -> str:
    """Refuses half of a surrogate pair, which a JSON escape can hold: no UTF-8 and so no digest can be made of it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Refused(f"{column!r} holds half of a surrogate pair, which is no character") from None
    return text
