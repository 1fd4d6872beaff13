"""How long work tells where it is. The command line draws a bar from it; nothing here prints."""

from collections.abc import Callable

Report = Callable[[str, int, int], None]
"""Called with a stage's name, how much of it is done and how much it is in all."""

WAITING = "waiting for "
"""How the stage begins of whoever waits for what another process does, and so gets no further itself."""


def silent(stage: str, done: int, total: int) -> None:
    """Reports to nobody."""
