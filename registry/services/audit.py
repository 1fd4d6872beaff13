"""Who changed what: one event for each change, written in the change's own transaction."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.database.schema import AuditEventRow
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
    """Adds the event; `subject` is the object as in "task rte" or "alias rte@champion"."""
    session.add(
        AuditEventRow(
            occurred_at=at,
            actor=actor,
            action=action,
            object=subject,
            before=None if before is None else dict(before),
            after=None if after is None else dict(after),
        )
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
