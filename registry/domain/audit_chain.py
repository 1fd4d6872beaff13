"""The chain of audit events: each hash covers its event and the hash before it. `docs/digests.md` says it in prose.

    hash(n) = sha256(canonical JSON of the number, occurred_at, actor, action, object, before and after of event n,
              and of "previous": hash(n - 1))

So no event can be changed, taken out, put in or moved without another hash there or in the next one. That a chain was
cut off, or made anew as a whole, shows against a head that was kept elsewhere.
"""

import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from registry.domain.plain_data import Plain, canonical_json, json_digest
from registry.errors import UsageError

CHAIN_START: Final = "0" * 64
"""What stands for the hash before the first event."""

_MOST_BREAKS = 100
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}")
_HEAD = re.compile(r"(?P<number>0|[1-9][0-9]{0,9}):(?P<hash>[0-9a-f]{64})")


class ChainedEvent(NamedTuple):
    """An event as text, in the form that its hash covers.

    One that somebody changed may hold anything: bytes where a text should be, or a moment that is none.
    """

    number: int
    occurred_at: str
    """See `chain_moment`."""
    actor: str
    action: str
    object: str
    before: str | None
    """Canonical JSON."""
    after: str | None
    hash: str


class ChainHead(Plain):
    """The number and the hash of a chain's last event."""

    number: int = 0
    hash: str = CHAIN_START

    def __str__(self) -> str:
        return f"{self.number}:{self.hash}"


class ChainBreak(Plain):
    """A place at which a chain is not what it was."""

    number: int
    """Of the event; of the first one where several are missing."""
    problem: str

    def __str__(self) -> str:
        return f"event {self.number} {self.problem}"


class ChainReport(Plain):
    events: int
    head: ChainHead
    breaks: tuple[ChainBreak, ...]
    """In the order of the numbers; the first hundred."""


def chain_moment(at: datetime) -> str:
    """A moment as hashes cover it: 2026-05-01T09:00:00.000000+00:00."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def chain_link(event: ChainedEvent, previous: str) -> dict[str, Any]:
    """What the hash of an event covers, when it follows the event whose hash is `previous`.

    Raises:
        ValueError: something in it does not have the form in which events are written.
    """
    _check_form(event, previous)
    link = event._asdict() | {"before": _parsed(event.before), "after": _parsed(event.after), "previous": previous}
    del link["hash"]
    return link


def _check_form(event: ChainedEvent, previous: str) -> None:
    for name in ("actor", "action", "object"):
        if not isinstance(getattr(event, name), str):
            raise ValueError(f"its {name} is no text")
    if not isinstance(event.occurred_at, str) or not _MOMENT.fullmatch(event.occurred_at):
        raise ValueError("its occurred_at is not written as moments are")
    if event.hash != "" and not is_chain_hash(event.hash):  # none yet, or one that was written
        raise ValueError("its hash is no sha256 in hexadecimal")
    if not is_chain_hash(previous):
        raise ValueError("the hash before it is no sha256 in hexadecimal")


def is_chain_hash(value: object) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def chain_hash(link: dict[str, Any]) -> str:
    return json_digest(link)


def parse_head(text: str) -> ChainHead:
    """Reads NUMBER:HASH; raises UsageError."""
    if match := _HEAD.fullmatch(text):
        return ChainHead(number=int(match["number"]), hash=match["hash"])
    raise UsageError(f"{text!r} is no head of an audit chain: write NUMBER:HASH, as `trunkline audit verify` prints it")


def check_chain(
    events: Iterable[ChainedEvent], *, next_number: int | None, expect: ChainHead | None = None
) -> ChainReport:
    """Looks at every event, in the order of the numbers.

    Args:
        next_number: what the next event would get, from the counter; None when there is no counter.
        expect: a head that the chain had earlier.
    """
    head, count, breaks = ChainHead(), 0, list[ChainBreak]()
    expected = None if expect is None else _difference(expect, ChainHead())
    for event in events:
        breaks += _place_breaks(event, head) or _hash_breaks(event, head)
        head, count = ChainHead(number=event.number, hash=_shown(event.hash)), count + 1
        if expect is not None and expect.number == event.number:
            expected = _difference(expect, head)
        del breaks[_MOST_BREAKS:]
    breaks += _end_breaks(head.number, next_number)
    breaks += [] if expected is None else [expected]
    return ChainReport(events=count, head=head, breaks=tuple(breaks[:_MOST_BREAKS]))


def _place_breaks(event: ChainedEvent, head: ChainHead) -> list[ChainBreak]:
    if event.number <= head.number:
        return [ChainBreak(number=event.number, problem="was added: the numbers begin at 1")]
    if event.number > head.number + 1:
        return [_missing(head.number + 1, event.number - 1)]
    return []


def _hash_breaks(event: ChainedEvent, head: ChainHead) -> list[ChainBreak]:
    try:
        if chain_hash(chain_link(event, head.hash)) == event.hash:
            return []
        problem = "does not have its hash: it was changed, or the hash of the event before it was"
    except ValueError as error:
        problem = f"is not as it was written: {error}"
    return [ChainBreak(number=event.number, problem=problem)]


def _end_breaks(last: int, next_number: int | None) -> list[ChainBreak]:
    if next_number is None:
        return [ChainBreak(number=last + 1, problem="would get no number: the counter is missing")]
    if not isinstance(next_number, int):
        return [ChainBreak(number=last + 1, problem="would get no number: the counter holds none")]
    if next_number <= last:
        return [ChainBreak(number=next_number, problem="was added: the counter has not given its number yet")]
    return [_missing(last + 1, next_number - 1)] if next_number > last + 1 else []


def _difference(expect: ChainHead, found: ChainHead) -> ChainBreak | None:
    if expect == found:
        return None
    if expect.number == found.number:
        return ChainBreak(number=expect.number, problem=f"has hash {found.hash}, but {expect.hash} was expected")
    return ChainBreak(number=expect.number, problem=f"was expected with hash {expect.hash}, but is not there")


def _missing(first: int, last: int) -> ChainBreak:
    problem = "is missing" if first == last else f"and those up to event {last} are missing"
    return ChainBreak(number=first, problem=problem)


def _shown(stored: object) -> str:
    """A hash, or what is in its place, as a text that can be printed."""
    if isinstance(stored, bytes):
        return stored.decode(errors="replace")
    return str(stored).encode(errors="replace").decode()


def _parsed(text: str | None) -> Any:
    if text is None:
        return None
    try:
        value = json.loads(text)
        if isinstance(text, str) and isinstance(value, dict) and canonical_json(value) == text.encode():
            return value
    except (ValueError, TypeError, RecursionError):
        pass
    raise ValueError(f"{_shown(text)[:40]!r} is no object in canonical JSON")
