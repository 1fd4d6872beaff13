"""Named places at which a fault can be injected, so that tests can kill the program exactly there.

A place is named `<what>.<step just done>`. Unarmed, reaching one costs a function call and does nothing. Nothing but
code can arm them: no setting, no environment variable.
"""

from collections.abc import Callable

_on_reached: Callable[[str], None] | None = None


def arm(on_reached: Callable[[str], None] | None) -> None:
    """From now on calls `on_reached` with each place's name, in this process; None disarms."""
    global _on_reached
    _on_reached = on_reached


def reached(place: str) -> None:
    """Says that a step has just been done; what is armed may raise, or never return."""
    if _on_reached is not None:
        _on_reached(place)
