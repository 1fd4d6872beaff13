"""Blobs that are swept away between their upload and their registration."""

import pytest

RUN = ("--epochs", "3", "--lr", "0.003", "--precision", "fp32")
COMMANDS = {
    "train": (("train", "city", "--layers", "3", *RUN), "train.blobs-stored"),
    "import": (("version", "import", "city", "module.safetensors", "--manifest", "module.yaml"), "import.blobs-stored"),
    "assemble": (("release", "assemble", "--task", "city/2"), "assemble.manifest-stored"),
    "pin": (("backbone", "pin", "another", "another-model"), "pin.blobs-stored"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_is_registered_without_its_blobs_and_the_same_command_again_succeeds(name, registry, other_model):
    arguments, place = COMMANDS[name]
    before = registry.state
    refused = registry.run(*arguments, sweep_at=place)
    if name == "import":  # its module is that of city/1, and its other blobs follow from it: all are in use
        assert refused.status == 0
        return
    assert refused.status == 1
    assert "blobs are not in" in refused.err
    assert "run the same command again" in refused.err
    assert registry.state == before
    registry.done(*arguments)
    assert registry.done("fsck", "--json").json["findings"] == []
