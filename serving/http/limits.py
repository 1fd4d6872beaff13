"""What one request may ask for."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Sizes and seconds of one request."""

    texts: int = 1024
    characters: int = 100_000
    """Of one text, and of its pair."""
    body_bytes: int = 16_000_000
    refuse_long_texts: bool = False
    """Whether a text of more than the release's `max_length` tokens is refused, instead of losing its end."""
    seconds: float = 30.0
    """Until a request is answered, once it has been read; a request may ask for less."""
    body_seconds: float = 30.0
    """For reading a body."""

    @property
    def untokenised_bytes(self) -> int:
        """Of all texts that are being turned into tokens by a thread, or wait for one: those of two of the largest
        bodies, which take one core some half a minute."""
        return 2 * self.body_bytes

    @property
    def held_body_bytes(self) -> int:
        """Of all requests that are being read or answered: 16 of the largest. Small ones are taken beyond it."""
        return 16 * self.body_bytes
