"""Who changed what: one event for each change, written in its transaction, and chained to the event before it."""

from collections.abc import Generator, Mapping
from contextlib import closing
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.database.audit_log import PendingEvent, add_event, chained_events, next_event_number
from registry.database.schema import AuditEventRow
from registry.domain.audit_chain import CHAIN_START, ChainBreak, ChainHead, ChainReport, chain_link, check_chain
from registry.domain.plain_data import canonical_json
from registry.domain.records import AuditEvent
from registry.errors import StorageError


def record_event(
    session: Session,
    action: str,
    subject: str,
    *,
    actor: str,
    at: datetime,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    """Has the event written at the end of the transaction; `subject` is the object as in "task rte" or
    "alias rte@champion"."""
    add_event(
        session,
        PendingEvent(
            occurred_at=at,
            actor=actor,
            action=action,
            object=subject,
            before=None if before is None else dict(before),
            after=None if after is None else dict(after),
        ),
    )


def list_events(session: Session, *, object: str | None = None, limit: int | None = None) -> list[AuditEvent]:  # noqa: A002
    """Events, newest first; of one object only when it is named (`task rte`, `version rte/3`, `release r1` …)."""
    query = select(AuditEventRow).order_by(AuditEventRow.id.desc()).limit(limit)
    if object is not None:
        query = query.where(AuditEventRow.object == object)
    return [
        AuditEvent(
            number=row.id,
            occurred_at=row.occurred_at,
            actor=row.actor,
            action=row.action,
            object=row.object,
            before=row.before,
            after=row.after,
        )
        for row in session.scalars(query)
    ]


def chain_report(session: Session, *, expect: ChainHead | None = None) -> ChainReport:
    """Recomputes the hash of every event. `expect` is a head that was seen earlier: it must still be in the chain."""
    return check_chain(chained_events(session), next_number=next_event_number(session), expect=expect)


def verify_chain(session: Session) -> tuple[ChainBreak, ...]:
    """Where the chain of events is broken: nothing, while nobody has touched it."""
    return chain_report(session).breaks


def export_events(session: Session, *, first: int = 1) -> Generator[bytes]:
    """Events from a number on as lines of canonical JSON, each with its hash and the hash before it.

    Raises:
        StorageError: an event does not have the form in which it was written.
    """
    before = select(AuditEventRow.hash).where(AuditEventRow.id < first).order_by(AuditEventRow.id.desc()).limit(1)
    previous = session.scalar(before) or CHAIN_START
    with closing(chained_events(session, first=first)) as events:
        for event in events:
            try:
                link = chain_link(event, previous)
            except ValueError as error:
                raise StorageError(
                    f"audit event {event.number} is not as it was written: {error}; `trunkline audit verify` says more"
                ) from error
            yield canonical_json(link | {"hash": event.hash}) + b"\n"
            previous = event.hash
