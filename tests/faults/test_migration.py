"""kill -9 of a migration to another backbone, in its teacher and in its student: it ends as an unbroken one."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

KILLED = -9
MIGRATE = ("backbone", "migrate", "small", "other")
PLACES = (
    ("train.state-saved", 1),
    ("train.committed", 1),
    ("train.trial-forgotten", 1),
    ("train.state-saved", 4),
    ("train.optimised", 2),
    ("train.committed", 2),
)


def made_ready(registry: Any, other_model: Path) -> None:
    registry.done("task", "promote", "city/2", "--alias", "champion")
    registry.done("backbone", "pin", "other", other_model)


@pytest.fixture
def unbroken(registry: Any, other_model: Path, open_registry: Callable[..., Any], tmp_path: Path) -> Any:
    """What the migration reaches and leaves when nothing goes wrong; `registry` is ready for it."""
    made_ready(registry, other_model)
    shutil.copytree(registry.folder, tmp_path / "unbroken")
    copy = open_registry(tmp_path / "unbroken", minute=20)
    return copy.done(*MIGRATE).places, copy.state


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_a_killed_migration_goes_on_and_ends_as_an_unbroken_one(place: Any, registry: Any, unbroken: Any) -> None:
    places, after = unbroken
    name, occurrence = place
    assert places.count("train.committed") == 2, "a teacher and its student"
    assert places.count(name) >= occurrence
    assert registry.run(*MIGRATE, kill_at=place).status == KILLED
    assert registry.done("fsck", "--json").json["findings"] == []
    kept = len(registry.state["versions"])
    again = registry.done(*MIGRATE)
    assert registry.state == after
    assert again.places.count("train.committed") == len(after["versions"]) - kept, "a finished trial was run again"
    assert registry.done("fsck", "--json").json["findings"] == []
