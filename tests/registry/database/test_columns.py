from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.exc import StatementError

from registry.database.engine import Database
from registry.database.schema import AuditEventRow, TeamRow

moments = st.datetimes(datetime(1900, 1, 2), datetime(2200, 1, 1), timezones=st.timezones())  # noqa: DTZ001 - naive bounds


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(moment=moments)
def test_a_moment_comes_back_as_the_same_moment_in_utc(database: Database, moment: datetime) -> None:
    with database.write() as session:
        session.add(TeamRow(name="nlu", created_at=moment))
        session.flush()
        session.expire_all()
        read = session.scalars(select(TeamRow.created_at)).one()
        session.rollback()
    assert read == moment.astimezone(UTC)
    assert read.tzinfo is UTC


def test_moments_of_different_zones_are_compared_as_moments(database: Database) -> None:
    noon = datetime(2026, 5, 1, 12, tzinfo=UTC)
    earlier_in_a_later_zone = datetime(2026, 5, 1, 13, tzinfo=timezone(timedelta(hours=2)))
    with database.write() as session:
        session.add(TeamRow(name="nlu", created_at=earlier_in_a_later_zone))
        session.flush()
        assert session.scalars(select(TeamRow.name).where(TeamRow.created_at < noon)).all() == ["nlu"]


def test_a_moment_without_a_zone_is_refused(database: Database) -> None:
    with database.write() as session:
        session.add(TeamRow(name="nlu", created_at=datetime(2026, 5, 1)))  # noqa: DTZ001 - it is the mistake
        with pytest.raises(StatementError, match="has no time zone"):
            session.flush()
        session.rollback()


def test_objects_are_stored_as_canonical_json_and_none_as_null(database: Database) -> None:
    with database.write() as session:
        session.add(
            AuditEventRow(
                occurred_at=datetime(2026, 5, 1, tzinfo=UTC),
                actor="ann",
                action="team.create",
                object="team nlu",
                before=None,
                after={"ü": 1.0, "a": [True]},
            )
        )
        session.flush()
        rows = session.connection().exec_driver_sql("SELECT before, after FROM audit_events").all()
    assert rows == [(None, '{"a":[true],"ü":1.0}')]
