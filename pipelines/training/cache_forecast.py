"""What frozen activations will take on the disk, told before any of them is computed."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pipelines.training.activation_cache import EncodedRows, activation_group, features_group, features_lengths
from pipelines.training.cache_room import CacheRoom, Outlook, size_in_words
from pipelines.training.cache_rows import RowCache
from pipelines.training.recipes import Precision
from registry.domain.manifests import Reading


@dataclass(frozen=True)
class CacheForecast:
    """Bytes on the disk; as a string the sentence to say."""

    depths: int
    total: int
    """Of all rows at all depths, with what mixing heads read below them."""
    missing: int
    """Of those that are not there yet."""
    outlook: Outlook
    """While what is there already is in use."""

    @property
    def fits(self) -> bool:
        """Whether all can be kept at once. Else what has no room is computed whenever it is needed."""
        return self.missing <= max(0, self.outlook.room)

    def __str__(self) -> str:
        subject = f"frozen activations of {self.depths} depth{'s' if self.depths != 1 else ''}"
        if not self.missing:
            return f"{subject} are there already: {size_in_words(self.total)}"
        there = self.total - self.missing
        kept = f"{size_in_words(there)} there already; " if there else ""
        sentence = f"{subject} will take up to {size_in_words(self.missing)} on the disk ({kept}{self.outlook})"
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
    reading: Reading | None = None,
) -> CacheForecast:
    """Of rows in a precision each, at all the depths; rows that share a text and a precision are counted once.

    Args:
        prefix_digests: P(0)..P(N).
        reading: what the heads read of every state below their branch; None where they mix none of them.
    """
    distinct, wanted = sorted(set(depths)), []
    for precision in sorted({precision for _, precision in asked}):
        parts = [rows for rows, of in asked if of == precision]
        rows = EncodedRows(
            [row for part in parts for row in part.encoded], [digest for part in parts for digest in part.digests]
        )
        for depth in distinct:
            group = activation_group(prefix_digest=prefix_digests[depth], precision=precision, hidden_size=hidden_size)
            wanted.append((group, rows.digest_rows, rows.lengths))
            if reading is not None and depth:
                below = features_group(group, reading), rows.digest_rows, features_lengths(rows, reading, depth)
                wanted.append(below)
    return CacheForecast(len(distinct), *RowCache(room).forecast(wanted))
