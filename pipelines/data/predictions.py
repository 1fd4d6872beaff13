"""The dev predictions of a version: what it answered to every row of its task's dev data, and what it should have.

JSON Lines, one a row in the order of the dev data: `{"gold": …, "predicted": …, "row": 0}`. They are kept so that
versions can be compared row by row without running either again.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from registry.domain.plain_data import canonical_json
from registry.errors import ArtifactDamaged

Decision = str | float | list[str | None]
"""A label, a number, or one tag a word (None where the text was cut off)."""


@dataclass(frozen=True)
class DevPredictions:
    gold: Sequence[Any]
    """One target a row, as `pipelines.data.dataset.Example` has it; tags are a list once they were in a file."""
    predicted: Sequence[Decision]

    def to_bytes(self) -> bytes:
        rows = zip(self.gold, self.predicted, strict=True)
        return b"".join(
            canonical_json({"row": number, "gold": gold, "predicted": predicted}) + b"\n"
            for number, (gold, predicted) in enumerate(rows)
        )

    @classmethod
    def parse(cls, data: bytes, subject: str) -> Self:
        """Reads the file.

        Raises:
            ArtifactDamaged: it is none, with the version that it belongs to, `subject`.
        """
        try:
            rows = [json.loads(line) for line in data.splitlines()]
            if [row["row"] for row in rows] != list(range(len(rows))):
                raise ValueError("its rows are not numbered 0, 1, …")
            return cls([row["gold"] for row in rows], [row["predicted"] for row in rows])
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactDamaged(f"the dev predictions of {subject} cannot be read: {error}") from None
