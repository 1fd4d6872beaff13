"""Column types that the registry's tables share.

SQLite takes nearly every value, PostgreSQL does not: what one of them could not keep is refused here, on both.
"""

import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

from sqlalchemy import JSON, BigInteger, CheckConstraint, DateTime, Enum, Float, Integer, String, Text
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import mapped_column
from sqlalchemy.types import TypeDecorator, TypeEngine

from registry.domain.plain_data import canonical_json
from registry.errors import InvalidInput

_ENUM_LENGTH = 32  # room for new members: adding one then changes a CHECK only, not the column's type
_SHOWN = 40  # characters of a refused text


class UtcDateTime(TypeDecorator[datetime]):
    """A moment, kept in UTC and always read back with its time zone; a naive datetime is refused."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - SQLAlchemy passes it
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - SQLAlchemy passes it
        if value is None:
            return None
        # SQLite keeps no time zone: what it holds is UTC, because only this type wrote it.
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class LineText(TypeDecorator[str]):
    """Text of limited length that compares and sorts by code point, whatever the database's locale."""

    impl = String
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[str]:
        collation = "C" if dialect.name == "postgresql" else None  # SQLite compares so by itself
        return dialect.type_descriptor(String(self._length, collation=collation))

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002 - SQLAlchemy passes it
        if value is not None:
            _refuse(f"text {value[:_SHOWN]!r}", _text_problem(value, self._length))
        return value

    @property
    def _length(self) -> int:
        assert isinstance(self.impl, String)  # noqa: S101 - the type checker sees the class attribute
        assert self.impl.length is not None  # noqa: S101 - every use names one
        return self.impl.length


class FreeText(TypeDecorator[str]):
    """Text of any length, for people to read."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002 - SQLAlchemy passes it
        if value is not None:
            _refuse(f"text {value[:_SHOWN]!r}", _text_problem(value))
        return value


class WholeNumber(TypeDecorator[int]):
    """An integer of 32 bits."""

    impl = Integer
    cache_ok = True
    largest = 2**31 - 1

    def process_bind_param(self, value: int | None, dialect: Dialect) -> int | None:  # noqa: ARG002 - SQLAlchemy passes it
        if value is not None and not -self.largest <= value <= self.largest:
            raise InvalidInput("a number", [f"is beyond {self.largest:,}, the largest that is kept"])
        return value


class BigNumber(WholeNumber):
    """An integer of 64 bits."""

    impl = BigInteger
    cache_ok = True
    largest = 2**63 - 1


class FiniteNumber(TypeDecorator[float]):
    """A floating-point number of 64 bits; SQLite would keep NaN as NULL."""

    impl = Float(53)
    cache_ok = True

    def process_bind_param(self, value: float | None, dialect: Dialect) -> float | None:  # noqa: ARG002 - SQLAlchemy passes it
        if value is not None and not math.isfinite(value):
            raise InvalidInput("a number", [f"is {value}: only finite ones are kept"])
        return value


def json_text(value: Any) -> str:
    """The canonical JSON that an object is kept as.

    Raises:
        InvalidInput: something in it is no JSON, is not finite, or is text that PostgreSQL cannot keep.
    """
    if problems := list(_json_problems(value, "")):
        raise InvalidInput("a JSON value", problems)
    try:
        return canonical_json(value).decode()
    except (TypeError, ValueError) as error:  # no type of JSON's, NaN, or digits beyond Python's own limit
        raise InvalidInput("a JSON value", [str(error)]) from error


def _json_problems(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, str):
        if problem := _text_problem(value):
            yield f"{path or 'it'} {problem}"
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                yield f"{path or 'it'} has the key {key!r}, which is no text"
            elif problem := _text_problem(key):
                yield f"the key {path}.{key!r} {problem}".replace(" .", " ")
            else:
                yield from _json_problems(inner, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _json_problems(inner, f"{path}[{index}]")


def _text_problem(value: str, longest: int | None = None) -> str | None:
    if "\0" in value:
        return "holds a NUL character, which PostgreSQL cannot keep"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "is not valid Unicode: it holds half of a surrogate pair"
    if longest is not None and len(value) > longest:
        return f"is {len(value):,} characters long: at most {longest} are kept"
    return None


def _refuse(subject: str, problem: str | None) -> None:
    if problem is not None:
        raise InvalidInput(subject, [problem])


def enum_by_value(members: type[StrEnum], name: str) -> Enum:
    """A column of the members' values, with the CHECK constraint `ck_<table>_<name>`."""
    return Enum(
        members,
        name=name,
        length=_ENUM_LENGTH,
        native_enum=False,
        create_constraint=True,
        validate_strings=True,
        values_callable=lambda enum: [member.value for member in enum],
    )


def digest_check(column: str) -> CheckConstraint:
    """The CHECK constraint `ck_<table>_<column>_is_digest`: a sha256 in hexadecimal, or NULL."""
    return CheckConstraint(f"length({column}) = 64", name=f"{column}_is_digest")


NameText = Annotated[str, mapped_column(LineText(63))]
ObjectText = Annotated[str, mapped_column(LineText(160))]
"""An object as the audit trail names it: "alias rte@champion"."""
KeyText = Annotated[str, mapped_column(LineText(128))]
Digest = Annotated[str, mapped_column(LineText(64))]
OptionalDigest = Annotated[str | None, mapped_column(LineText(64))]
Prose = Annotated[str, mapped_column(FreeText)]
OptionalProse = Annotated[str | None, mapped_column(FreeText)]
Moment = Annotated[datetime, mapped_column(UtcDateTime)]
OptionalMoment = Annotated[datetime | None, mapped_column(UtcDateTime)]
Real = Annotated[float, mapped_column(FiniteNumber)]
OptionalReal = Annotated[float | None, mapped_column(FiniteNumber)]
Object = Annotated[dict[str, Any], mapped_column(JSON)]
OptionalObject = Annotated[dict[str, Any] | None, mapped_column(JSON(none_as_null=True))]
