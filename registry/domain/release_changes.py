"""What one release changed against the one before it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Self

from registry.domain.plain_data import Plain
from registry.domain.references import Name


class SelectionChange(Plain):
    """What leads from one selection of versions to another."""

    added: Mapping[Name, int]
    """Task -> version number; so is `removed`."""
    removed: Mapping[Name, int]
    moved: Mapping[Name, tuple[int, int]]
    """Task -> version number before, and after."""

    @classmethod
    def between(cls, before: Mapping[str, int], after: Mapping[str, int]) -> Self:
        """The change from `before` to `after`, both task -> version number."""
        return cls(
            added={task: number for task, number in after.items() if task not in before},
            removed={task: number for task, number in before.items() if task not in after},
            moved={
                task: (before[task], number)
                for task, number in after.items()
                if task in before and before[task] != number
            },
        )

    @property
    def is_empty(self) -> bool:
        return not (self.added or self.removed or self.moved)


class ReleaseChange(Plain):
    """A release in the history: who made it when, and what it changed. The first one adds everything."""

    release: str
    created_at: datetime
    created_by: str
    backbone: Name
    backbone_before: Name | None
    layer_count: int
    layer_count_before: int | None
    tasks: SelectionChange
