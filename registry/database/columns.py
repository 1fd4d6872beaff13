"""Column types that the registry's tables share."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

from sqlalchemy import JSON, CheckConstraint, DateTime, Enum, String
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import mapped_column
from sqlalchemy.types import TypeDecorator

_ENUM_LENGTH = 32  # room for new members: adding one then changes a CHECK only, not the column's type


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


NameText = Annotated[str, mapped_column(String(63))]
Digest = Annotated[str, mapped_column(String(64))]
OptionalDigest = Annotated[str | None, mapped_column(String(64))]
Moment = Annotated[datetime, mapped_column(UtcDateTime)]
OptionalMoment = Annotated[datetime | None, mapped_column(UtcDateTime)]
Object = Annotated[dict[str, Any], mapped_column(JSON)]
OptionalObject = Annotated[dict[str, Any] | None, mapped_column(JSON(none_as_null=True))]
