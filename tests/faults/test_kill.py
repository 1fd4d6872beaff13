"""kill -9 at every named place of every command that writes.

After each: what was accepted is there, nothing half-written is visible, `fsck` finds nothing, and the same command
run again ends where an unbroken run ends.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from tests.faults.conftest import KILLED

RUN = ("--epochs", "3", "--lr", "0.003", "--precision", "fp32")


_BLOB = ("blob.written", "blob.folder-made", "blob.named", "blob.made-young")
_CACHE = ("cache.rows-written", "cache.rows-named")
_TRIAL = (
    "train.data-read",
    "train.trial-held",
    "train.dev-rows-cached",
    "train.training-rows-cached",
    "train.tensors-saved",
    "train.state-saved",
    "train.epoch-scored",
    "train.optimised",
    "train.frozen-part-checked",
    "train.run-logged",
    "train.blobs-stored",
    "version.row-written",
    "train.committed",
    "train.run-tagged",
    "train.trial-forgotten",
)


@dataclass(frozen=True)
class Command:
    """What to run after `before`, and the places that it reaches."""

    arguments: Sequence[str]
    places: Sequence[str]
    before: Sequence[Sequence[str]] = ()


COMMANDS = {
    "pin": Command(
        ("backbone", "pin", "other", "model", "--max-length", "16"),
        (
            "pin.files-checked",
            "blob.made-young",
            "pin.blobs-stored",
            "backbone.row-written",
            "backbone.prefixes-written",
            "pin.committed",
        ),
    ),
    "register": Command(
        ("task", "register", "town.yaml", "--team", "nlu", "--idempotency-key", "town-1"),
        ("idempotency.key-reserved", "task.row-written", "task.revision-written"),
    ),
    "train": Command(
        ("train", "city", "--layers", "3", *RUN),
        (*_BLOB, *_CACHE, *_TRIAL),
    ),
    "distil": Command(("distil", "city/1", "--layers", "1", "--depth", "3", *RUN), (*_BLOB, *_CACHE, *_TRIAL)),
    "import": Command(
        ("version", "import", "city", "module.safetensors", "--manifest", "module.yaml"),
        (
            "import.checked",
            "import.dev-rows-cached",
            "import.measured",
            "blob.made-young",
            "import.blobs-stored",
            "version.row-written",
            "import.committed",
        ),
    ),
    "promote": Command(
        ("task", "promote", "city/2", "--alias", "champion", "--expect", "city/1"),
        ("alias.moved", "alias.journalled"),
        before=[("task", "promote", "city/1", "--alias", "champion")],
    ),
    "assemble": Command(
        ("release", "assemble", "--task", "city/2"),
        (
            "blob.written",
            "blob.folder-made",
            "blob.named",
            "assemble.selected",
            "assemble.loaded",
            "assemble.parity-found",
            "assemble.manifest-stored",
            "release.row-written",
            "release.members-written",
            "release.moved",
            "assemble.committed",
        ),
    ),
    "place": Command(
        ("release", "promote", "r1", "--channel", "staging", "--expect", "none"),
        ("channel.moved", "channel.journalled"),
        before=[
            ("release", "assemble", "--task", "city/2", "--draft"),
            ("release", "verify", "r1"),
            ("channel", "create", "staging", "--takes", "verified"),
        ],
    ),
}
EVERYWHERE = ("write.flushed", "write.events-appended", "write.committed")
CASES = [(name, place) for name, command in COMMANDS.items() for place in dict.fromkeys((*command.places, *EVERYWHERE))]


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory, prepared, open_registry):
    """What each command reaches and leaves when nothing goes wrong."""
    ends = {}

    def run(name: str):
        if name not in ends:
            folder = tmp_path_factory.mktemp("unbroken") / "work"
            shutil.copytree(prepared, folder)
            registry = open_registry(folder, minute=10)
            for arguments in COMMANDS[name].before:
                registry.done(*arguments)
            before = registry.state
            ended = registry.done(*COMMANDS[name].arguments)
            ends[name] = (ended.places, before, registry.state)
        return ends[name]

    return run


def last(places: Sequence[str], place: str) -> int:
    return max(number for number, reached in enumerate(places) if reached == place)


def test_there_are_enough_places() -> None:
    assert len({place for command in COMMANDS.values() for place in command.places}) >= 30


@pytest.mark.parametrize("name", COMMANDS)
def test_every_place_of_a_command_is_listed_here(name, unbroken) -> None:
    reached, _, _ = unbroken(name)
    assert set(reached) == {*COMMANDS[name].places, *EVERYWHERE}


@pytest.mark.parametrize(("name", "place"), CASES)
def test_a_command_killed_anywhere_leaves_all_or_nothing_and_runs_again(name, place, unbroken, registry) -> None:
    places, before, after = unbroken(name)
    for arguments in COMMANDS[name].before:
        registry.done(*arguments)
    command = COMMANDS[name].arguments
    assert registry.run(*command, kill_at=(place, places.count(place))).status == KILLED
    was_accepted = last(places, place) >= last(places, "write.committed")
    assert registry.state == (after if was_accepted else before)
    assert registry.done("fsck", "--json").json["findings"] == []
    registry.done(*command)
    assert registry.state == after
    assert registry.done("fsck", "--json").json["findings"] == []
