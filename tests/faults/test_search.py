"""kill -9 of a search where it writes, and a disk that is full: nothing that was finished is lost or run twice."""

import shutil
from typing import Any

import pytest

SEARCH = (
    *("search", "city", "--layers", "1-3", "--seeds", "1", "--students", "1", "--student-depths", "3"),
    *("--epochs", "2", "--student-epochs", "1", "--lr", "0.003", "--precision", "fp32", "--workers", "1"),
)
KILLED = -9
PLACES = (  # and whether to kill there: a search starts processes, so that each of these takes a quarter of a minute
    ("search.row-written", 1, False),
    ("search.begun", 1, True),
    ("search.run-opened", 1, False),
    ("search.trials-asked-for", 1, False),
    ("search.trial-claimed", 2, True),
    ("search.trial-file-written", 2, False),
    ("search.trial-paused", 2, True),
    ("search.run-logged", 1, True),
    ("version.row-written", 1, False),
    ("search.trial-finished", 1, True),
    ("search.trial-registered", 2, True),
    ("search.choice-written", 1, True),
    ("search.finished", 1, False),
)


def winner(found: Any) -> Any:
    """What was chosen, without the numbers that versions got."""
    shapes = {trial["version"]: trial["shape"] | {"teacher": None} for trial in found["trials"] if trial["version"]}
    choice = found["choice"]
    return shapes[choice["teacher"]], [shapes[version] for version in choice["students"].values()]


def finished(found: Any) -> dict[str, tuple[int, float]]:
    return {
        trial["key"]: (trial["version"], trial["seconds"]) for trial in found["trials"] if trial["state"] == "finished"
    }


@pytest.fixture(scope="session")
def unbroken(prepared, open_registry, tmp_path_factory) -> Any:
    """What a search ends with that nothing comes between."""
    folder = tmp_path_factory.mktemp("unbroken") / "home"
    shutil.copytree(prepared, folder)
    ended = open_registry(folder, minute=100).done(*SEARCH, "--json")
    for place, occurrence, _ in PLACES:
        assert ended.places.count(place) >= occurrence
    assert {place for place in ended.places if place.startswith("search.")} <= {place for place, *_ in PLACES}
    return ended.json


@pytest.mark.slow
@pytest.mark.parametrize("place", [(place, occurrence) for place, occurrence, kill in PLACES if kill], ids=str)
def test_a_killed_search_goes_on_and_ends_as_an_unbroken_one(place, registry, unbroken) -> None:
    assert registry.run(*SEARCH, kill_at=place).status == KILLED
    assert registry.done("fsck", "--json").json["findings"] == []
    shown = registry.run("search", "show", "city", "--json")
    before = finished(shown.json) if shown.status == 0 else {}
    again = registry.done(*SEARCH, "--json").json
    assert winner(again) == winner(unbroken)
    after = finished(again)
    assert {key: after.get(key) for key in before} == before, "a finished trial was lost or run again"
    assert registry.done("fsck", "--json").json["findings"] == []


@pytest.mark.slow
@pytest.mark.parametrize("largest_file", [3_000, 150_000])
def test_a_search_on_a_full_disk_says_so_and_goes_on_when_there_is_room(largest_file, registry, unbroken) -> None:
    ended = registry.run(*SEARCH, largest_file=largest_file)
    assert ended.status == 1
    assert "error: " in ended.err
    assert "unexpected" not in ended.err
    assert winner(registry.done(*SEARCH, "--json").json) == winner(unbroken)
    assert registry.done("fsck", "--json").json["findings"] == []
