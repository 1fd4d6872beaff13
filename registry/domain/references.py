"""Names and references: `rte/3` is a version, `rte@champion` an alias."""

import re
from typing import Annotated

from pydantic import AfterValidator

from registry.domain.plain_data import Plain
from registry.errors import UsageError

NAME_RULE = "a lower-case letter, then up to 62 of a-z, 0-9, '_' and '-'"
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_VERSION = re.compile(r"(?P<task>[^/@]+)/(?P<number>[1-9][0-9]{0,8})")
_ALIAS = re.compile(r"(?P<task>[^/@]+)@(?P<alias>[^/@]+)")


def _valid_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(f"{value!r} is not a name: {NAME_RULE}")
    return value


def _valid_alias(value: str) -> str:
    _valid_name(value)
    if value == "latest" or re.fullmatch(r"v[0-9]+", value):
        raise ValueError(f"{value!r} cannot be an alias: it reads like a version; choose a role, such as 'champion'")
    return value


Name = Annotated[str, AfterValidator(_valid_name)]
AliasName = Annotated[str, AfterValidator(_valid_alias)]


def check_name(kind: str, value: str) -> str:
    """Returns the name, or raises UsageError naming the kind of object it was meant for."""
    try:
        return _valid_name(value)
    except ValueError as error:
        raise UsageError(f"{kind}: {error}") from None


def check_alias(value: str) -> str:
    """Returns the alias, or raises UsageError."""
    try:
        return _valid_alias(value)
    except ValueError as error:
        raise UsageError(f"alias: {error}") from None


class VersionReference(Plain):
    task: Name
    number: int

    def __str__(self) -> str:
        return f"{self.task}/{self.number}"


class AliasReference(Plain):
    task: Name
    alias: AliasName

    def __str__(self) -> str:
        return f"{self.task}@{self.alias}"


def parse_reference(text: str) -> VersionReference | AliasReference:
    """Reads `task/3` or `task@alias`.

    Raises:
        UsageError: the text is neither, or holds a name that is not one.
    """
    if match := _VERSION.fullmatch(text):
        return VersionReference(task=check_name("task", match["task"]), number=int(match["number"]))
    if match := _ALIAS.fullmatch(text):
        return AliasReference(task=check_name("task", match["task"]), alias=check_alias(match["alias"]))
    raise UsageError(f"{text!r} is no reference to a version: write TASK/NUMBER (rte/3) or TASK@ALIAS (rte@champion)")
