import math
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, text
from sqlalchemy.exc import StatementError
from sqlalchemy.orm import Session

from registry.database.engine import Database
from registry.database.schema import BackboneRow, CounterRow, TeamRow, VersionRow
from registry.database.upgrade import upgrade
from registry.domain.plain_data import canonical_json
from registry.domain.records import VersionKind
from registry.errors import InvalidInput
from registry.services.versions import register_version
from tests.postgresql import running_server

ANYWAY = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
EARLY, LATE = datetime(1, 1, 3), datetime(9999, 12, 28)  # noqa: DTZ001 - bounds of hypothesis are naive
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)

sound_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | sound_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(sound_text, inner, max_size=3),
    max_leaves=8,
)


def backbone(**fields: Any) -> BackboneRow:
    values = {
        "name": "tiny",
        "model_type": "bert",
        "layer_count": 1,
        "hidden_size": 1,
        "max_length": 3,
        "config": {},
        "prefix_root": {},
        "tokenizer": "0" * 64,
        "embeddings": "1" * 64,
        "source": "here",
        "created_at": NOON,
    }
    return BackboneRow(**values | fields)


@pytest.fixture
def session(database: Database) -> Iterator[Session]:
    """A transaction for writing that is undone at the end."""
    with database.write() as opened:
        yield opened
        opened.rollback()


def read_back(session: Session, row: Any, column: Any) -> Any:
    """What a column of a row holds when it is read from the database; the row is gone afterwards."""
    with session.begin_nested() as undone:
        session.add(row)
        session.flush()
        session.expire_all()
        value = session.scalars(select(column)).one()
        undone.rollback()
    return value


@ANYWAY
@given(moment=st.datetimes(EARLY, LATE, timezones=st.timezones()))
def test_a_moment_comes_back_as_the_same_moment_in_utc(session: Session, moment: datetime) -> None:
    read = read_back(session, TeamRow(name="nlu", created_at=moment), TeamRow.created_at)
    assert read == moment.astimezone(UTC)
    assert read.tzinfo is UTC


def test_moments_of_different_zones_are_compared_as_moments(session: Session) -> None:
    earlier_in_a_later_zone = datetime(2026, 5, 1, 13, tzinfo=timezone(timedelta(hours=2)))
    session.add(TeamRow(name="nlu", created_at=earlier_in_a_later_zone))
    session.flush()
    assert session.scalars(select(TeamRow.name).where(TeamRow.created_at < NOON)).all() == ["nlu"]


@ANYWAY
@given(moments=st.lists(st.datetimes(EARLY, LATE, timezones=st.timezones()), min_size=2, max_size=5, unique=True))
def test_moments_sort_as_moments(session: Session, moments: list[datetime]) -> None:
    with session.begin_nested() as undone:
        session.add_all([TeamRow(name=f"team-{n}", created_at=moment) for n, moment in enumerate(moments)])
        session.flush()
        read = session.scalars(select(TeamRow.created_at).order_by(TeamRow.created_at)).all()
        undone.rollback()
    assert read == sorted(moment.astimezone(UTC) for moment in moments)  # within one zone, clocks may run twice


def test_a_moment_without_a_zone_is_refused(session: Session) -> None:
    session.add(TeamRow(name="nlu", created_at=datetime(2026, 5, 1)))  # noqa: DTZ001 - it is the mistake
    with pytest.raises(StatementError, match="has no time zone"):
        session.flush()


@ANYWAY
@given(value=st.dictionaries(sound_text, json_values, max_size=4))
def test_json_comes_back_as_it_went_and_is_kept_as_canonical_text(session: Session, value: dict[str, Any]) -> None:
    with session.begin_nested() as undone:
        session.add(backbone(config=value))
        session.flush()
        session.expire_all()
        read = session.scalars(select(BackboneRow.config)).one()
        stored = session.scalar(text("SELECT CAST(config AS text) FROM backbones"))
        undone.rollback()
    assert canonical_json(read) == canonical_json(value)
    assert stored == canonical_json(value).decode()


def test_no_object_is_kept_as_null(registry: Database, new_version: Any, change: dict[str, Any]) -> None:
    with registry.write() as session:
        register_version(session, new_version(), **change)
    with registry.read() as session:
        assert session.execute(text("SELECT count(before) FROM audit_events")).all() == [(0,)]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"a": {"b": [0, "x\0y"]}}, r"a\.b\[1\] holds a NUL character"),
        ({"a\0": 1}, "holds a NUL character"),
        ({"a": "\ud800"}, "a is not valid Unicode"),
        ({"a": math.nan}, "not JSON compliant"),
        ({"a": [-math.inf]}, "not JSON compliant"),
        ({"a": {1: 2}}, "a has the key 1, which is no text"),
        ({"a": {1, 2}}, "not JSON serializable"),
    ],
)
def test_json_that_one_of_the_databases_could_not_keep_is_refused_by_both(
    database: Database, value: Any, said: str
) -> None:
    with pytest.raises(InvalidInput, match=said), database.write() as session:
        session.add(backbone(config=value))
    with database.read() as session:
        assert session.scalars(select(BackboneRow)).all() == []


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"source": "a\0b"}, r"text 'a\\x00b': holds a NUL character"),
        ({"source": "\udcff"}, "is not valid Unicode"),
        ({"name": "a\0b"}, "holds a NUL character"),
        ({"name": "x" * 64}, "is 64 characters long: at most 63 are kept"),
        ({"tokenizer": "0" * 65}, "at most 64 are kept"),
        ({"hidden_size": 2**31}, "a number: is beyond 2,147,483,647"),
    ],
)
def test_values_that_one_of_the_databases_could_not_keep_are_refused_by_both(
    database: Database, fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidInput, match=said), database.write() as session:
        session.add(backbone(**fields))


def test_the_largest_values_that_are_kept_are_kept(database: Database, session: Session) -> None:
    largest = {"name": "ü" * 63, "hidden_size": 2**31 - 1, "source": "\U0010ffff" * 5_000}
    for field, value in largest.items():
        assert read_back(session, backbone(**{field: value}), getattr(BackboneRow, field)) == value


@pytest.mark.parametrize("seed", [2**63 - 1, -(2**63) + 1])
def test_a_seed_may_have_64_bits(registry: Database, new_version: Any, change: dict[str, Any], seed: int) -> None:
    with registry.write() as session:
        assert register_version(session, new_version(seed=seed), **change).seed == seed
    with pytest.raises(InvalidInput, match="a number: is beyond"), registry.write() as session:
        register_version(session, new_version(trial="b", seed=2**63), **change)


def test_a_search_for_what_cannot_be_kept_is_refused_by_both(database: Database) -> None:
    with pytest.raises(InvalidInput, match="NUL"), database.read() as session:
        session.scalars(select(TeamRow.name).where(TeamRow.name == "a\0b")).all()


def test_an_enum_is_kept_by_its_value_and_takes_no_other(
    registry: Database, new_version: Any, change: dict[str, Any]
) -> None:
    with registry.write() as session:
        register_version(session, new_version(), **change)
    with registry.read() as session:
        assert session.scalars(text("SELECT kind FROM versions")).all() == ["teacher"]
        assert session.scalars(select(VersionRow.kind)).one() is VersionKind.TEACHER
        with pytest.raises(StatementError, match="'pupil' is not among the defined enum values"):
            session.scalars(select(VersionRow).where(VersionRow.kind == "pupil"))


NAMES = ["B", "a", "a-b", "a_b", "ab", "a1", "a10", "a2", "é", "Z", "z", "ä", "\uffff", "\U00010000"]


def test_names_compare_and_sort_by_code_point(session: Session) -> None:
    session.add_all([CounterRow(name=f"_{name}", next_number=1) for name in NAMES])
    session.flush()
    ours = select(CounterRow.name).where(CounterRow.name >= "_", CounterRow.name < "`")
    assert session.scalars(ours.order_by(CounterRow.name)).all() == sorted(f"_{name}" for name in NAMES)
    above = select(CounterRow.name).where(CounterRow.name > "_a").order_by(CounterRow.name)
    assert [n for n in session.scalars(above) if n[0] == "_"] == sorted(f"_{n}" for n in NAMES if n > "a")


@pytest.fixture
def dictionary_order() -> Iterator[str]:
    """The URL of a PostgreSQL database whose locale sorts as a dictionary does."""
    if shutil.which("localedef") is None:
        pytest.skip("this machine has no localedef to make a locale with")
    with tempfile.TemporaryDirectory() as locales:
        Path(locales).chmod(0o755)  # the server may run as a user of its own
        for name in ("C", "en_US"):
            subprocess.run(["localedef", "-i", name, "-f", "UTF-8", f"{locales}/{name}.utf8"], check=True)
        with running_server(LOCPATH=locales) as server:
            yield server.url(server.create(options="LOCALE 'en_US.utf8' ENCODING 'UTF8'"))


def test_names_sort_so_under_any_locale(dictionary_order: str) -> None:
    upgrade(dictionary_order)
    database = Database.open(dictionary_order)
    with database.write() as session:
        assert session.scalar(text("SELECT 'a' < 'B' AND 'B' < 'c'")) is True
        session.add_all([CounterRow(name=f"_{name}", next_number=1) for name in NAMES])
        session.flush()
        names = session.scalars(select(CounterRow.name).order_by(CounterRow.name)).all()
        assert len(names) > len(NAMES)
        assert names == sorted(names)
    database.close()
