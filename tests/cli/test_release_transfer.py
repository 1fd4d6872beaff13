"""`release push` and `release pull`: a release between artifact roots."""

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import Trunkline, assembled
from tests.s3_server import S3Server


@pytest.fixture
def manifest(trained: Trunkline) -> str:
    """Of r1, the release of the champions."""
    return str(assembled(trained)["release"]["manifest"])


def blob_file(root: Path, digest: str) -> Path:
    return root / "sha256" / digest[:2] / digest[2:]


def files(root: Path) -> list[Path]:
    return sorted(path for path in (root / "sha256").rglob("*") if path.is_file())


def module_of(trunkline: Trunkline, task: str) -> str:
    return str(json.loads(trunkline.done("release", "show", "r1", "--json"))["manifest"]["tasks"][task]["module"])


def test_a_pushed_release_answers_without_its_registry(trained: Trunkline, manifest: str, tmp_path: Path) -> None:
    here = trained.done("predict", "r1", "the dog runs", "--json")
    said = trained.done("release", "push", "r1", "elsewhere")
    assert f"trunkline predict --from elsewhere {manifest} TEXT" in said
    shutil.rmtree(trained.home)
    assert trained.done("predict", "--from", "elsewhere", manifest, "the dog runs", "--json") == here
    assert not (trained.home / "registry.db").exists()
    assert trained.done("release", "pull", manifest, "elsewhere", "--to", tmp_path / "third", "--json")
    assert [path.name for path in files(tmp_path / "third")] == [path.name for path in files(tmp_path / "elsewhere")]


def test_only_what_is_missing_travels(trained: Trunkline, manifest: str, tmp_path: Path) -> None:
    first = json.loads(trained.done("release", "push", "r1", "elsewhere", "--json"))
    assert first["blobs"] == first["sent"] == len(files(tmp_path / "elsewhere"))
    assert first["sent_bytes"] == sum(path.stat().st_size for path in files(tmp_path / "elsewhere"))
    again = json.loads(trained.done("release", "push", "r1", "elsewhere", "--json"))
    assert (again["sent"], again["sent_bytes"], again["mended"]) == (0, 0, 0)
    answer = trained("release", "assemble", "--task", "classification/2", "--task", "regression/2", "--json")
    assert answer.code == 0
    fewer = json.loads(trained.done("release", "push", "r2", "elsewhere", "--json"))
    assert fewer["sent"] == 1, "the manifest alone: every other blob is the first release's"


def test_a_damaged_blob_is_sent_again(trained: Trunkline, manifest: str, tmp_path: Path) -> None:
    trained.done("release", "push", "r1", "elsewhere")
    there = blob_file(tmp_path / "elsewhere", module_of(trained, "token"))
    whole = there.read_bytes()
    there.chmod(0o644)
    there.write_bytes(whole[:-1] + b"?")
    assert "1 sent" in (said := trained.done("release", "push", "r1", "elsewhere"))
    assert "1 of them in place of damaged ones" in said
    assert there.read_bytes() == whole


def test_pull_brings_back_what_the_registrys_own_root_has_lost(
    trained: Trunkline, manifest: str, tmp_path: Path
) -> None:
    trained.done("release", "push", "r1", "elsewhere")
    blob_file(trained.home / "artifacts", module_of(trained, "token")).unlink()
    assert trained("release", "verify", "r1").code == 3
    assert "1 sent" in trained.done("release", "pull", "r1", "elsewhere")
    assert trained("release", "verify", "r1").code == 0


def test_a_blob_that_is_damaged_at_the_source_is_named_and_does_not_travel(
    trained: Trunkline, manifest: str, tmp_path: Path
) -> None:
    module = module_of(trained, "token")
    here = blob_file(trained.home / "artifacts", module)
    here.chmod(0o644)
    here.write_bytes(b"?")
    answer = trained("release", "push", "r1", "elsewhere")
    assert answer.code == 1
    assert "the module of token/2" in answer.problem
    assert not blob_file(tmp_path / "elsewhere", module).exists()
    assert not blob_file(tmp_path / "elsewhere", manifest).exists(), "without the manifest it is no release"


def test_to_a_bucket_and_back(trained: Trunkline, manifest: str, s3: S3Server, s3_bucket: str, tmp_path: Path) -> None:
    root = f"s3://{s3_bucket}/serving"
    sent = json.loads(trained.done("release", "push", "r1", root, "--json"))["sent"]
    stored = s3.client.list_objects_v2(Bucket=s3_bucket, Prefix="serving/sha256/")["Contents"]
    assert len(stored) == sent
    shutil.rmtree(trained.home / "cache", ignore_errors=True)
    back = json.loads(trained.done("release", "pull", manifest, root, "--to", "back", "--json"))
    assert back["sent"] == sent
    assert len(files(tmp_path / "back")) == sent


def test_another_registrys_root_is_refused(trained: Trunkline, manifest: str, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "owner").write_text("trunkline registry 7")
    answer = trained("release", "push", "r1", "theirs")
    assert answer.code == 4
    assert "trunkline registry 7, whose `trunkline gc` would remove the release again" in answer.problem
    assert not (tmp_path / "theirs" / "sha256").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("push", "r1", ".trunkline/artifacts"), 2, "is where the release is already"),
        (("push", "r1", "s3:/bucket"), 2, "ROOT begins with s3: but not with s3://"),
        (("push", "r7", "elsewhere"), 1, "r7"),
        (("pull", "0" * 64, "elsewhere"), 1, "name a folder or prefix of its own for it with --to"),
        (("pull", "0" * 64, "elsewhere", "--to", "third"), 1, "0" * 64),
        (("pull", "0" * 63, "elsewhere", "--to", "third"), 1, "0" * 63),
    ],
)
def test_what_cannot_be_moved_is_refused(
    trained: Trunkline, manifest: str, arguments: tuple[str, ...], code: int, said: str
) -> None:
    assert manifest
    answer = trained("release", *arguments)
    assert (answer.code, said in answer.problem) == (code, True), answer.err


def test_a_manifest_that_was_edited_by_hand_does_not_travel(trained: Trunkline, manifest: str, tmp_path: Path) -> None:
    trained.done("release", "push", "r1", "elsewhere")
    there = blob_file(tmp_path / "elsewhere", manifest)
    there.chmod(0o644)
    there.write_bytes(there.read_bytes().replace(b'"version":2', b'"version":1', 1))
    answer = trained("release", "pull", manifest, "elsewhere", "--to", "third")
    assert answer.code == 1
    assert manifest[:12] in answer.problem
    assert not (tmp_path / "third").exists() or not files(tmp_path / "third")
    refused = trained("predict", "--from", "elsewhere", manifest, "the dog runs")
    assert refused.code == 1


def test_a_retired_release_is_not_sent(trained: Trunkline, manifest: str, tmp_path: Path) -> None:
    trained.done("release", "retire", "r1", "--reason", f"answers of {manifest[:4]} were wrong")
    answer = trained("release", "push", "r1", "elsewhere")
    assert (answer.code, "retired" in answer.problem) == (4, True)
    assert not (tmp_path / "elsewhere").exists()


def test_a_blob_that_the_bucket_has_lost_is_missed_though_a_copy_of_it_is_here(
    trained: Trunkline, s3: S3Server, s3_bucket: str
) -> None:
    local = trained.home / "artifacts"
    for path in files(local):
        s3.client.put_object(Bucket=s3_bucket, Key=f"team/{path.relative_to(local)}", Body=path.read_bytes())
    trained.environ["TRUNKLINE_ARTIFACT_ROOT"] = f"s3://{s3_bucket}/team"
    trained.environ["TRUNKLINE_DATABASE_URL"] = f"sqlite:///{trained.home / 'registry.db'}"
    assembled(trained)
    trained.done("predict", "r1", "the dog runs")
    module = module_of(trained, "token")
    s3.client.delete_object(Bucket=s3_bucket, Key=f"team/sha256/{module[:2]}/{module[2:]}")
    assert trained("predict", "r1", "the dog runs").code == 0, "from the copy"
    answer = trained("release", "verify", "r1")
    assert answer.code == 3
    assert "the module of token/2" in " ".join(answer.out.split())


def test_where_there_is_no_such_release_that_is_said(trained: Trunkline, manifest: str) -> None:
    for command in (
        ("predict", "--from", "nowhere", manifest, "the dog runs"),
        ("release", "pull", manifest, "nowhere", "--to", "third"),
    ):
        answer = trained(*command)
        assert (answer.code, f"holds no release {manifest}" in answer.problem) == (1, True)


def test_a_retired_release_answers_with_a_warning(trained: Trunkline, manifest: str) -> None:
    trained.done("release", "retire", manifest[:12], "--reason", "wrong")
    answer = trained("predict", "latest", "the dog runs")
    assert (answer.code, "r1 is retired" in answer.err) == (0, True)
