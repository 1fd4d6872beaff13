"""The journal of an alias: replaying it gives the alias table, now or at any time."""

from collections.abc import Iterable
from enum import StrEnum


class MoveKind(StrEnum):
    PROMOTE = "promote"
    ROLLBACK = "rollback"


def replay(moves: Iterable[tuple[MoveKind, int]]) -> list[int]:
    """The stack of version numbers that one alias's moves leave, the current one last.

    A promotion puts its version on top; a rollback takes the top away. Rolling back twice therefore goes two
    promotions back, never to and fro.
    """
    stack: list[int] = []
    for kind, version in moves:
        if kind is MoveKind.PROMOTE:
            stack.append(version)
        else:
            stack.pop()
    return stack
