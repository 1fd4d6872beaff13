"""Requests that carry a key are carried out once: whoever was cut off may ask again, and is answered the same."""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from registry.database.schema import IdempotencyKeyRow
from registry.domain.plain_data import Plain, json_digest
from registry.errors import Conflict, UsageError
from registry.fault_points import reached

Answer = TypeVar("Answer", bound=Plain)

_LONGEST_KEY = 128


def answer_once(
    session: Session,
    key: str | None,
    work: Callable[[], Answer],
    *,
    answer: type[Answer],
    action: str,
    request: Mapping[str, Any],
    actor: str,
    at: datetime,
) -> Answer:
    """Does the work, unless it was done under this key before: then gives what was answered then.

    Args:
        key: None for a request without one, whose work is done in any case.
        request: all that decides what is done, as JSON; not who asks, nor when.
    Raises:
        UsageError: the key is none.
        Conflict: the key was used for another request.
    """
    if key is None:
        return work()
    _check_key(key)
    digest = json_digest({"action": action, "request": dict(request)})
    row = IdempotencyKeyRow(key=key, action=action, request=digest, result={}, actor=actor, created_at=at)
    earlier = session.get(IdempotencyKeyRow, key) or _taken_by(session, row)
    if earlier is None:
        reached("idempotency.key-reserved")
        done = work()
        row.result = done.model_dump(mode="json")
        return done
    if earlier.request != digest:
        raise Conflict(
            f"idempotency key {key!r} was used by {earlier.actor} for another request ({earlier.action}): "
            "give every request a key of its own"
        )
    return answer.model_validate(earlier.result)


def is_answered(session: Session, key: str | None) -> bool:
    """Whether some request was carried out under this key, so that the same one will not be again."""
    return key is not None and session.get(IdempotencyKeyRow, key) is not None


def _taken_by(session: Session, row: IdempotencyKeyRow) -> IdempotencyKeyRow | None:
    """Reserves the key, waiting for whoever is just using it; the other one's row if that one was first."""
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError:
        return session.get(IdempotencyKeyRow, row.key, populate_existing=True)
    return None


def _check_key(key: str) -> None:
    if not key.strip() or not key.isprintable() or len(key) > _LONGEST_KEY:
        raise UsageError(f"idempotency key {key[:40]!r}: must be 1 to {_LONGEST_KEY} characters on one line")
