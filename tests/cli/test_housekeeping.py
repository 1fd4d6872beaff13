import os
import shutil
import time
from pathlib import Path

import pytest

from registry.artifacts.local_store import LocalArtifactStore


@pytest.fixture
def pinned_backbone(trunkline, model_folder) -> str:
    trunkline.done("backbone", "pin", "small", model_folder("small", layers=[1, 2, 3]))
    return trunkline("backbone", "list", "--json").json[0]["tokenizer"]


def blob_path(trunkline, digest: str) -> Path:
    return trunkline.home / "artifacts" / "sha256" / digest[:2] / digest[2:]


def put_orphan(trunkline, *, hours_ago: float) -> Path:
    path = blob_path(trunkline, LocalArtifactStore(trunkline.home / "artifacts").put(b"orphan"))
    then = time.time() - hours_ago * 3600
    os.utime(path, (then, then))
    return path


def test_gc_removes_what_nothing_refers_to_and_says_how_much(trunkline, pinned_backbone):
    orphan = put_orphan(trunkline, hours_ago=30)
    planned = trunkline.done("gc", "--dry-run")
    assert "would be removed  1 blob, 6 bytes" in planned
    assert orphan.exists()
    assert trunkline("gc", "--json").json == {
        "dry_run": False,
        "in_use": 5,
        "young": 0,
        "removed": 1,
        "removed_bytes": 6,
        "unfinished": 0,
    }
    assert not orphan.exists()
    assert trunkline("fsck").code == 0


def test_gc_leaves_what_is_younger_than_the_grace_time(trunkline, pinned_backbone):
    orphan = put_orphan(trunkline, hours_ago=2)
    assert "removed     0 blobs" in trunkline.done("gc")
    assert orphan.exists()
    assert "removed     1 blob, 6 bytes" in trunkline.done("gc", "--grace", "1.5")
    assert trunkline("gc", "--grace", "-1").code == 2


def test_fsck_says_what_is_wrong_and_what_mends_it(trunkline, pinned_backbone, model_folder):
    assert trunkline.done("fsck") == ("1 backbone, 0 versions, 0 releases, 1 audit event, 5 blobs read: all is well\n")
    blob_path(trunkline, pinned_backbone).unlink()
    found = trunkline("fsck", "--quick")
    assert found.code == 1
    assert "backbone small" in found.out
    assert "1 problem" in found.out
    (finding,) = trunkline("fsck", "--json").json["findings"]
    assert finding["remedy"].startswith("pin the same files under the same name again")
    trunkline.done("backbone", "pin", "small", trunkline.folder / "models" / "small")
    assert trunkline("fsck").code == 0


def test_a_backup_is_restored_into_another_home(trunkline, pinned_backbone):
    assert trunkline.done("backup", "registry.tar").startswith("wrote registry.tar: ")
    there = trunkline("--home", "other", "restore", "registry.tar")
    assert there.code == 0
    assert "5 blobs from registry.tar; check: trunkline fsck" in there.out
    assert (
        trunkline("--home", "other", "backbone", "list", "--json").json == trunkline("backbone", "list", "--json").json
    )
    assert trunkline("--home", "other", "fsck").code == 0
    assert trunkline("--home", "other", "audit", "list", "--json").json[0]["action"] == "registry.restore"


def test_rows_alone_are_backed_up_when_asked(trunkline, pinned_backbone):
    assert "no blobs" in trunkline.done("backup", "rows.tar", "--no-blobs")
    refused = trunkline("--home", "other", "restore", "rows.tar")
    assert refused.code == 1
    assert "5 of 5 blobs are not in" in refused.err
    shutil.copytree(trunkline.home / "artifacts", trunkline.folder / "other" / "artifacts")
    assert trunkline("--home", "other", "restore", "rows.tar").code == 0


def test_restoring_over_something_is_not_allowed(trunkline, pinned_backbone):
    trunkline.done("backup", "registry.tar")
    refused = trunkline("restore", "registry.tar")
    assert refused.code == 4
    assert "this registry is not empty" in refused.err
    missing = trunkline("--home", "other", "restore", "nothing.tar")
    assert missing.code == 1
    assert "No such file" in missing.err


@pytest.mark.parametrize(
    "command",
    [
        *("gc", "gc --dry-run", "fsck", "backup b.tar", "audit verify", "audit export"),
        *("team list", "task list", "task show rte", "release list", "backbone list", "status", "train rte --layers 1"),
        *("task promote rte/1 --alias champion", "task retire rte --reason over", "release approve r1"),
    ],
)
def test_what_begins_no_registry_never_makes_one(trunkline, command):
    answer = trunkline("--home", "elsewhere", *command.split())
    assert answer.code == 1
    assert "there is no registry at" in answer.err
    assert not (trunkline.folder / "elsewhere").exists()


def test_blobs_of_a_backup_mend_the_store(trunkline, pinned_backbone):
    trunkline.done("backup", "registry.tar")
    blob_path(trunkline, pinned_backbone).unlink()
    assert "0 rows and 5 blobs" in trunkline.done("restore", "registry.tar", "--only-blobs")
    assert trunkline("fsck").code == 0


def test_a_backup_of_a_damaged_registry_is_written_and_said_to_be_one(trunkline, pinned_backbone):
    blob_path(trunkline, pinned_backbone).unlink()
    answer = trunkline("backup", "registry.tar")
    assert answer.code == 1
    assert f"blob {pinned_backbone} is lost; see fsck" in answer.err
    assert (trunkline.folder / "registry.tar").exists()
