"""Who changed what: one event for each change, written in its transaction, and chained to the event before it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.database.audit_log import PendingEvent, add_event, chained_events, next_event_number
from registry.database.schema import AuditEventRow
from registry.domain.audit_chain import (
    ChainBreak,
    ChainHead,
    ChainReport,
    check_chain,
)
from registry.domain.records import AuditEvent


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
