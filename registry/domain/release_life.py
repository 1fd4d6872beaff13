"""The life of a release: which state may follow which, and what was placed on a channel when."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from registry.domain.alias_journal import MoveKind, replay
from registry.domain.plain_data import Plain
from registry.domain.references import Name


class ReleaseState(StrEnum):
    DRAFT = "draft"
    """Built, and no gate was run."""
    VERIFIED = "verified"
    """It passed the gates."""
    APPROVED = "approved"
    """Somebody answers for it."""
    RETIRED = "retired"
    """Not to be used any more; the end."""


LEGAL_MOVES: Mapping[ReleaseState, frozenset[ReleaseState]] = {
    ReleaseState.DRAFT: frozenset({ReleaseState.VERIFIED, ReleaseState.RETIRED}),
    ReleaseState.VERIFIED: frozenset({ReleaseState.APPROVED, ReleaseState.RETIRED}),
    ReleaseState.APPROVED: frozenset({ReleaseState.RETIRED}),
    ReleaseState.RETIRED: frozenset(),
}
"""State -> those that may follow. The database says the same in its own words."""


class ReleaseMove(Plain):
    """One entry of a release's journal: a new state, or a verification that left it where it was."""

    from_state: ReleaseState | None
    """None: it was made."""
    to_state: ReleaseState
    report: Mapping[str, Any] | None
    """What the gates found, where they were run."""
    reason: str | None
    actor: str
    moved_at: datetime


Taken = Literal["verified", "approved"]
"""The least state that a channel asks of a release."""


class Channel(Plain):
    name: Name
    takes: Taken
    release: str | None
    """`r<number>` of the one that is live on it; None before the first."""
    since: datetime | None
    created_at: datetime
    created_by: str

    def accepts(self, state: ReleaseState) -> bool:
        return state is ReleaseState.APPROVED or (self.takes == "verified" and state is ReleaseState.VERIFIED)


class PlacementKind(StrEnum):
    PROMOTE = "promote"
    REVERT = "revert"


class Placement(Plain):
    """From `placed_at` on the release is live on the channel, until the next placement."""

    channel: Name
    kind: PlacementKind
    from_release: str | None
    to_release: str
    actor: str
    placed_at: datetime
    repeated: bool = False
    """Whether it was there already when it was asked for."""


def stack_of(placements: Iterable[tuple[PlacementKind, int]]) -> list[int]:
    """The numbers of the releases that a channel can go back through, the live one last: see `alias_journal.replay`."""
    kinds = {PlacementKind.PROMOTE: MoveKind.PROMOTE, PlacementKind.REVERT: MoveKind.ROLLBACK}
    return replay((kinds[kind], number) for kind, number in placements)
