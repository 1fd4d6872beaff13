"""Copies of a release, killed in between: whole or not there, and the same command goes on."""

from pathlib import Path

import pytest

from tests.faults.conftest import KILLED


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def released(registry):
    registry.done("release", "assemble", "--task", "city/2")
    return registry


@pytest.mark.parametrize("sent", [1, 3, 6])
def test_a_push_that_was_killed_goes_on(released, sent: int) -> None:
    manifest = released.done("release", "show", "r1", "--json").json["release"]["manifest"]
    target = released.folder / "elsewhere"
    killed = released.run("release", "push", "r1", "elsewhere", kill_at=("transfer.blob-sent", sent))
    assert killed.status == KILLED
    assert f"sha256/{manifest[:2]}/{manifest[2:]}" not in files(target), "the manifest is the last to come"
    again = released.done("release", "push", "r1", "elsewhere", "--json").json
    assert again["sent"] == again["blobs"] - sent, "what had arrived is not sent again"
    assert again["mended"] == 0
    assert f"sha256/{manifest[:2]}/{manifest[2:]}" in files(target)


@pytest.mark.parametrize("place", ["export.written", "export.asked"])
@pytest.mark.parametrize("form", ["hf", "safetensors-single"])
def test_an_export_that_was_killed_is_not_there(released, form: str, place: str) -> None:
    target = released.folder / "exported"
    wanted = ("release", "export", "r1", "--format", form, "--to", "exported")
    assert released.run(*wanted, kill_at=(place, 1)).status == KILLED
    assert not target.exists()
    released.done(*wanted)
    assert target.exists()
