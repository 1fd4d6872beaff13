import hashlib
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.domain.audit_chain import (
    CHAIN_START,
    ChainBreak,
    ChainedEvent,
    ChainHead,
    chain_hash,
    chain_link,
    chain_moment,
    check_chain,
    parse_head,
)
from registry.errors import UsageError

MOMENT = "2026-05-01T09:00:00.000000+00:00"

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
objects = st.none() | st.dictionaries(texts, st.integers() | texts | st.none(), max_size=2)


@st.composite
def chains(draw: st.DrawFn, *, least: int = 0, most: int = 6) -> list[ChainedEvent]:
    chain: list[ChainedEvent] = []
    previous = CHAIN_START
    for number in range(1, draw(st.integers(least, most)) + 1):
        values = [None if value is None else canonical(value) for value in (draw(objects), draw(objects))]
        moment = chain_moment(draw(st.datetimes(timezones=st.just(UTC))))
        event = ChainedEvent(number, moment, draw(texts), draw(texts), draw(texts), *values, hash="")
        event = event._replace(hash=chain_hash(chain_link(event, previous)))
        chain.append(event)
        previous = event.hash
    return chain


def canonical(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def breaks(events: list[ChainedEvent], *, next_number: int | None, expect: ChainHead | None = None) -> list[ChainBreak]:
    return list(check_chain(events, next_number=next_number, expect=expect).breaks)


def head_of(chain: list[ChainedEvent]) -> ChainHead:
    return ChainHead(number=chain[-1].number, hash=chain[-1].hash) if chain else ChainHead()


@given(chain=chains())
def test_a_chain_that_nobody_touched_is_whole(chain: list[ChainedEvent]) -> None:
    report = check_chain(chain, next_number=len(chain) + 1)
    assert report.breaks == ()
    assert (report.events, report.head) == (len(chain), head_of(chain))
    for expect in [ChainHead(), *(head_of(chain[:length]) for length in range(1, len(chain) + 1))]:
        assert breaks(chain, next_number=len(chain) + 1, expect=expect) == []


@given(data=st.data(), chain=chains(least=1))
def test_any_change_of_any_field_is_found_in_its_event(data: st.DataObject, chain: list[ChainedEvent]) -> None:
    at = data.draw(st.integers(0, len(chain) - 1))
    field = data.draw(st.sampled_from([name for name in ChainedEvent._fields if name != "number"]))
    value = data.draw(texts.filter(lambda text: text != getattr(chain[at], field)))
    chain[at] = chain[at]._replace(**{field: value})
    assert breaks(chain, next_number=len(chain) + 1)[0].number == at + 1


@given(data=st.data(), chain=chains(least=2))
def test_a_change_with_a_fitting_hash_is_found_in_the_next_event(
    data: st.DataObject, chain: list[ChainedEvent]
) -> None:
    at = data.draw(st.integers(0, len(chain) - 2))
    previous = chain[at - 1].hash if at else CHAIN_START
    changed = chain[at]._replace(actor=chain[at].actor + "x")
    chain[at] = changed._replace(hash=chain_hash(chain_link(changed, previous)))
    assert [found.number for found in breaks(chain, next_number=len(chain) + 1)] == [at + 2]


@given(data=st.data(), chain=chains(least=1))
def test_any_events_that_are_missing_are_named(data: st.DataObject, chain: list[ChainedEvent]) -> None:
    first = data.draw(st.integers(0, len(chain) - 1))
    last = data.draw(st.integers(first, len(chain) - 1))
    found = breaks(chain[:first] + chain[last + 1 :], next_number=len(chain) + 1)
    said = "is missing" if first == last else f"and those up to event {last + 1} are missing"
    assert found == [ChainBreak(number=first + 1, problem=said)]


@given(data=st.data(), chain=chains(least=2))
def test_events_that_changed_places_are_found_at_the_first_of_them(
    data: st.DataObject, chain: list[ChainedEvent]
) -> None:
    one, other = sorted(data.draw(st.permutations(range(len(chain))))[:2])
    first, second = chain[one], chain[other]
    chain[one] = second._replace(number=first.number)
    chain[other] = first._replace(number=second.number)
    assert breaks(chain, next_number=len(chain) + 1)[0].number == one + 1


@given(chain=chains())
def test_events_that_were_added_are_found(chain: list[ChainedEvent]) -> None:
    before = ChainedEvent(0, MOMENT, "", "", "", None, None, CHAIN_START)
    assert breaks([before, *chain], next_number=len(chain) + 1)[0].number == 0
    after = before._replace(number=len(chain) + 1)
    after = after._replace(hash=chain_hash(chain_link(after, head_of(chain).hash)))
    (found,) = breaks([*chain, after], next_number=len(chain) + 1)
    assert str(found) == f"event {len(chain) + 1} was added: the counter has not given its number yet"


@given(data=st.data(), chain=chains(least=1))
def test_what_was_cut_off_together_with_its_counter_shows_against_a_head_kept_elsewhere(
    data: st.DataObject, chain: list[ChainedEvent]
) -> None:
    left = data.draw(st.integers(0, len(chain) - 1))
    assert breaks(chain[:left], next_number=left + 1) == []
    (found,) = breaks(chain[:left], next_number=left + 1, expect=head_of(chain))
    assert found.number == len(chain)
    assert found.problem.endswith("but is not there")


@given(one=chains(least=1), other=chains(least=1))
def test_a_chain_that_was_made_anew_shows_against_a_head_kept_elsewhere(
    one: list[ChainedEvent], other: list[ChainedEvent]
) -> None:
    expected = head_of(one)
    found = breaks(other, next_number=len(other) + 1, expect=expected)
    same = expected.number <= len(other) and other[expected.number - 1].hash == expected.hash
    assert [b.number for b in found] == ([] if same else [expected.number])


def test_a_counter_that_is_gone_is_said() -> None:
    assert [str(found) for found in breaks([], next_number=None)] == [
        "event 1 would get no number: the counter is missing"
    ]


def test_of_a_chain_that_is_broken_everywhere_a_hundred_places_are_told() -> None:
    broken = [ChainedEvent(number, "", "", "", "", None, None, f"{number:064}") for number in range(1, 1_000)]
    report = check_chain(broken, next_number=1_000)
    assert [found.number for found in report.breaks] == list(range(1, 101))
    assert report.events == 999


NO_OBJECTS = ["", "null", "[]", "1", "[" * 100_000, '"\\u00fc"']


@pytest.mark.parametrize("text", ['{"b":1,"a":2}', '{"a": 1}', "{", '{"a":1.00}', '{"a":1,"a":1}', *NO_OBJECTS])
def test_json_that_is_not_canonical_is_no_event_of_ours(text: str) -> None:
    event = ChainedEvent(1, MOMENT, "", "", "", text, None, "0" * 64)
    with pytest.raises(ValueError, match=r"."):
        chain_link(event, CHAIN_START)
    assert breaks([event], next_number=2)[0].number == 1


ODD: list[Any] = [None, b"", b"\xff", 0, 1.5, "\udcff", "\0", "null", "[" * 100_000, "9" * 5_000]


@given(data=st.data(), chain=chains(least=1), odd=st.sampled_from(ODD))
def test_whatever_is_in_a_place_where_it_cannot_be_is_a_break_that_names_the_event(
    data: st.DataObject, chain: list[ChainedEvent], odd: Any
) -> None:
    at = data.draw(st.integers(0, len(chain) - 1))
    field = data.draw(st.sampled_from([name for name in ChainedEvent._fields if name != "number"]))
    if getattr(chain[at], field) != odd:
        chain[at] = chain[at]._replace(**{field: odd})
        report = check_chain(chain, next_number=len(chain) + 1)
        assert report.breaks[0].number == at + 1
        assert report.model_dump_json()


@given(chain=chains(), odd=st.sampled_from([b"7", "7", 7.5, "\udcff"]))
def test_a_counter_that_holds_no_number_is_said(chain: list[ChainedEvent], odd: Any) -> None:
    (found,) = breaks(chain, next_number=odd)
    assert str(found) == f"event {len(chain) + 1} would get no number: the counter holds none"


def test_a_hash_is_that_of_the_documented_bytes() -> None:
    at = datetime(2026, 5, 1, 11, tzinfo=timezone(timedelta(hours=2)))
    event = ChainedEvent(1, chain_moment(at), "ann", "team.create", "team nlu", None, '{"name":"nlu"}', "")
    covered = (
        '{"action":"team.create","actor":"ann","after":{"name":"nlu"},"before":null,"number":1,"object":"team nlu",'
        '"occurred_at":"2026-05-01T09:00:00.000000+00:00","previous":"' + "0" * 64 + '"}'
    )
    assert chain_hash(chain_link(event, CHAIN_START)) == hashlib.sha256(covered.encode()).hexdigest()


def test_a_head_is_read_as_it_is_written() -> None:
    for head in (ChainHead(), ChainHead(number=12, hash="5e" * 32)):
        assert parse_head(str(head)) == head


@pytest.mark.parametrize("text", ["", "12", "12:5e", f"-1:{'5e' * 32}", f"12:{'5E' * 32}", f"012:{'5e' * 32}", "x:y"])
def test_what_is_no_head_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no head of an audit chain: write NUMBER:HASH"):
        parse_head(text)
