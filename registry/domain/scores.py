"""Versions by their scores. Scores on other dev data say nothing about each other, so they are never compared."""

import math
from collections.abc import Iterable

from registry.domain.records import Version


def best_first(versions: Iterable[Version], metric: str) -> list[list[Version]]:
    """The versions in groups of one dev digest, the best by the metric first in each.

    The group with the newest version comes first. Of equals the older stands first; a version without the metric, last.
    """
    groups: dict[str, list[Version]] = {}
    for version in versions:
        groups.setdefault(version.dev_digest, []).append(version)
    newest_first = sorted(groups.values(), key=lambda group: -max(version.number for version in group))
    return [
        sorted(group, key=lambda version: (-version.metrics.get(metric, -math.inf), version.number))
        for group in newest_first
    ]
