"""What a search's frozen activations will take on the disk, told before any of it is computed."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pipelines.training.activation_cache import EncodedRows, activation_group, disk_cost
from pipelines.training.cache_room import CacheRoom, Outlook, size_in_words
from pipelines.training.cache_rows import RowCache
from pipelines.training.recipes import Precision


@dataclass(frozen=True)
class CacheForecast:
    """Bytes on the disk; as a string the sentence to say."""

    depths: int
    total: int
    """Of all rows at all depths."""
    missing: int
    """Of those that are not there yet."""
    outlook: Outlook

    @property
    def fits(self) -> bool:
        """Whether all can be kept at once. Else what has no room is computed whenever it is needed."""
        return not self.missing or self.total <= self.outlook.room

    def __str__(self) -> str:
        depths = f"{self.depths} depth{'s' if self.depths != 1 else ''}"
        if not self.missing:
            return f"the frozen activations are there already: {size_in_words(self.total)} ({depths})"
        there = self.total - self.missing
        kept = f", {size_in_words(there)} there already" if there else ""
        sentence = f"the frozen activations will take {size_in_words(self.missing)} ({depths}{kept}; {self.outlook})"
        if self.fits:
            return sentence
        return (
            f"{sentence}: not all of them have room, and the others are computed again whenever they are needed; "
            "TRUNKLINE_ACTIVATION_CACHE_GB sets the limit"
        )


def forecast(
    room: CacheRoom,
    asked: Sequence[tuple[EncodedRows, Precision]],
    *,
    prefix_digests: Sequence[str],
    depths: Collection[int],
    hidden_size: int,
) -> CacheForecast:
    """Of rows in a precision each, at all the depths; rows that share a text and a precision are counted once.

    Args:
        prefix_digests: P(0)..P(N).
    """
    total = missing = 0
    cache, distinct = RowCache(room), sorted(set(depths))
    for precision in sorted({precision for _, precision in asked}):
        parts = [rows for rows, of in asked if of == precision]
        rows = EncodedRows(
            [row for part in parts for row in part.encoded], [digest for part in parts for digest in part.digests]
        )
        total += disk_cost(rows, depths=distinct, hidden_size=hidden_size, precision=precision)
        for depth in distinct:
            group = activation_group(prefix_digest=prefix_digests[depth], precision=precision, hidden_size=hidden_size)
            missing += cache.missing_bytes(group, rows.digest_rows, rows.lengths)
    return CacheForecast(len(distinct), total, missing, room.outlook())
