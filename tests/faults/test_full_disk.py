"""A disk that fills up at any point of a command: a limit on the size of files fails a write in the middle of it."""

import pytest

RUN = ("--epochs", "3", "--lr", "0.003", "--precision", "fp32")
COMMANDS = {
    "pin": ("backbone", "pin", "other", "model", "--max-length", "16"),
    "train": ("train", "city", "--layers", "3", *RUN),
    "promote": ("task", "promote", "city/2", "--alias", "champion"),
    "assemble": ("release", "assemble", "--task", "city/2"),
    "backup": ("backup", "backup.tar"),
}


@pytest.mark.parametrize("largest_file", [300, 3_000, 30_000, 150_000])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_on_a_full_disk_says_so_and_runs_again_when_there_is_room(name, largest_file, registry) -> None:
    before = registry.state
    ended = registry.run(*COMMANDS[name], largest_file=largest_file)
    assert ended.status == 1 or largest_file > 300, "the smallest limit is too small for every command"
    if ended.status != 0:
        assert ended.status == 1
        *said, error = ended.err.splitlines()
        assert error.startswith("error: ")
        # What the cache will take, and what could not be cached, was said before, and did not end the command.
        assert all("frozen activations of" in line or "cannot write the cache" in line for line in said)
        assert "unexpected" not in ended.err
        assert registry.state == before
    assert registry.done("fsck", "--json").json["findings"] == []
    registry.done(*COMMANDS[name])
    assert registry.done("fsck", "--json").json["findings"] == []


def test_a_cache_without_room_is_said_and_the_training_goes_on(registry) -> None:
    registry.environ["TRUNKLINE_ACTIVATION_CACHE_GB"] = "1e-6"
    ended = registry.done(*COMMANDS["train"])
    assert "(limit 1 kB, " in ended.err
    assert "TRUNKLINE_ACTIVATION_CACHE_GB" in ended.err
    assert "rows of activations are computed again whenever they are needed" in ended.err
