"""Audit events on their way into the database: kept back until the end of a transaction, then numbered and chained.

All writers share one counter, whose row is locked from the moment an event gets its number until the commit. Were it
locked any earlier, two transactions that hold one task each could wait for each other.
"""

import functools
import re
from collections.abc import Generator, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, LargeBinary, Text, cast, event, func, insert, select, update
from sqlalchemy.orm import Session, SessionTransaction

from registry.database.columns import json_text
from registry.database.schema import AUDIT_COUNTER, AuditEventRow, CounterRow
from registry.domain.audit_chain import CHAIN_START, ChainedEvent, chain_hash, chain_link, chain_moment, is_chain_hash
from registry.errors import StorageError

_PENDING: Final = "pending audit events"
_ROWS_AT_ONCE: Final = 500


class PendingEvent(NamedTuple):
    """An event without its number, which it gets when it is appended."""

    occurred_at: datetime
    actor: str
    action: str
    object: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None


def add_event(session: Session, pending: PendingEvent) -> None:
    """Lets the transaction append the event as its last act, unless what is done in it now is rolled back."""
    session.info.setdefault(_PENDING, []).append((session.get_nested_transaction(), pending))


@event.listens_for(Session, "after_soft_rollback")
def _forget(session: Session, ended: SessionTransaction) -> None:
    pending = session.info.pop(_PENDING, [])
    if ended.nested:
        session.info[_PENDING] = [(made_in, one) for made_in, one in pending if ended not in _with_outer(made_in)]


def _with_outer(transaction: SessionTransaction | None) -> Iterator[SessionTransaction]:
    while transaction is not None:
        yield transaction
        transaction = transaction.parent


def append_events(session: Session) -> None:
    """Numbers, chains and writes what was recorded; until the transaction ends, no other one can.

    Raises:
        StorageError: the event that the next one must follow is not there.
    """
    pending = [one for _, one in session.info.pop(_PENDING, [])]
    if not pending:
        return
    following = session.scalar(
        update(CounterRow)
        .where(CounterRow.name == AUDIT_COUNTER)
        .values(next_number=CounterRow.next_number + len(pending))
        .returning(CounterRow.next_number)
        .execution_options(synchronize_session=False)
    )
    if following is None:
        raise _broken("its counter")
    first = following - len(pending)
    # In a statement of its own: the one that waited for the lock still sees what was there before it waited.
    previous = session.scalar(select(AuditEventRow.hash).where(AuditEventRow.id == first - 1))
    if previous is None and first != 1:
        raise _broken(f"its last event, number {first - 1}")
    if previous is not None and not is_chain_hash(previous):
        raise _broken(f"the hash of its last event, number {first - 1}")
    rows = []
    for number, one in enumerate(pending, first):
        rows.append(_row(number, one, previous or CHAIN_START))
        previous = rows[-1]["hash"]
    session.execute(insert(AuditEventRow), rows)


def _broken(lost: str) -> StorageError:
    return StorageError(
        f"the audit trail has lost {lost}: nothing can be recorded, and nothing was changed; "
        "`trunkline audit verify` shows what is missing, a backup brings it back"
    )


def _row(number: int, pending: PendingEvent, previous: str) -> dict[str, Any]:
    texts = {
        name: None if value is None else json_text(value)
        for name, value in (("before", pending.before), ("after", pending.after))
    }
    event_text = ChainedEvent(
        number=number,
        occurred_at=chain_moment(pending.occurred_at),
        actor=pending.actor,
        action=pending.action,
        object=pending.object,
        hash="",
        **texts,
    )
    return pending._asdict() | {"id": number, "hash": chain_hash(chain_link(event_text, previous))}


def chained_events(session: Session, *, first: int | None = None) -> Generator[ChainedEvent]:
    """All events, or those from a number on, exactly as they are stored, a few hundred at a time."""
    on_sqlite = session.get_bind().dialect.name == "sqlite"
    query = (
        select(AuditEventRow.id, *(_with_kinds() if on_sqlite else _in_utc()))
        .order_by(AuditEventRow.id)
        .execution_options(yield_per=_ROWS_AT_ONCE)
    )
    if first is not None:
        query = query.where(AuditEventRow.id >= first)
    with session.execute(query) as rows:
        for number, *stored in rows:
            occurred_at, *others = _as_stored(*stored) if on_sqlite else stored
            yield ChainedEvent(number, _moment(occurred_at), *others)


def next_event_number(session: Session) -> int | None:
    """What the counter gives to the next event; None when the counter is not there."""
    return session.scalar(select(CounterRow.next_number).where(CounterRow.name == AUDIT_COUNTER))


_TEXTS: Final = (
    AuditEventRow.actor,
    AuditEventRow.action,
    AuditEventRow.object,
    AuditEventRow.before,
    AuditEventRow.after,
    AuditEventRow.hash,
)
_STORED_MOMENT: Final = re.compile(r"(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d\.\d{6})", re.ASCII)


def _in_utc() -> list[ColumnElement[Any]]:
    moment = func.to_char(func.timezone("UTC", AuditEventRow.occurred_at), "YYYY-MM-DD HH24:MI:SS.US BC")
    return [func.replace(moment, " AD", ""), *(cast(column, Text) for column in _TEXTS)]


def _with_kinds() -> list[ColumnElement[Any]]:
    """SQLite keeps values of any kind in any column: every one as bytes, and before them the kind of each."""
    columns = [AuditEventRow.occurred_at, *_TEXTS]
    kinds = [func.typeof(column, type_=Text) for column in columns]
    return [functools.reduce(lambda before, kind: before + "," + kind, kinds), *(cast(c, LargeBinary) for c in columns)]


def _as_stored(kinds: str, *values: bytes | None) -> list[Any]:
    return [_decoded(kind, value) for kind, value in zip(kinds.split(","), values, strict=True)]


def _decoded(kind: str, value: bytes | None) -> str | bytes | None:
    """A text, or as bytes whatever is none."""
    if value is not None and kind == "text":
        with suppress(UnicodeDecodeError):
            return value.decode()
    return value


def _moment(stored: object) -> str:
    found = _STORED_MOMENT.fullmatch(stored) if isinstance(stored, str) else None
    return f"{found[1]}T{found[2]}+00:00" if found else f"no moment: {stored!r}"
