"""The command on a bucket, over HTTP."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry.artifacts.store import is_digest
from tests.cli.conftest import Trunkline
from tests.s3_server import ACCESS_KEY, SECRET_KEY, SESSION_TOKEN, FaultyProxy, S3Server, answers

COMMAND = Path(sys.executable).parent / "trunkline"
HEAVY = {"boto3", "botocore", "s3transfer", "torch", "numpy"}


@pytest.fixture
def shared(trunkline: Trunkline, s3_bucket: str) -> Trunkline:
    trunkline.environ["TRUNKLINE_ARTIFACT_ROOT"] = f"s3://{s3_bucket}/team"
    trunkline.environ["TRUNKLINE_DATABASE_URL"] = f"sqlite:///{trunkline.home / 'registry.db'}"
    return trunkline


def keys(s3: S3Server, bucket: str) -> dict[str, Any]:
    """What the bucket holds, by key: when it was stored, and how much it is."""
    found = s3.client.list_objects_v2(Bucket=bucket).get("Contents", ())
    return {entry["Key"]: (entry["LastModified"], entry["Size"]) for entry in found}


def test_a_backbone_is_pinned_into_the_bucket_once(
    shared: Trunkline,
    s3: S3Server,
    s3_bucket: str,
    s3_proxy: FaultyProxy,
    task_file: Callable[..., Path],
    model_folder: Callable[..., Path],
) -> None:
    folder = model_folder("mini", layers=[1, 2])
    shared.done("team", "create", "nlu")
    shared.done("task", "register", task_file(), "--team", "nlu")
    assert shared.done("backbone", "pin", "mini", folder).startswith("pinned backbone mini: 2 layers")
    stored = keys(s3, s3_bucket)
    assert len(stored) == 5, "the tokenizer, the embeddings, two layers, and whose they are"
    blobs = stored.keys() - {"team/owner"}
    assert all(key.startswith("team/sha256/") and is_digest(key[12:].replace("/", "")) for key in blobs)
    s3_proxy.sizes()
    assert "is pinned already" in shared.done("backbone", "pin", "mini", folder)
    assert sum(size for _, size in s3_proxy.sizes()) == 0, "no blob was uploaded again"
    assert {key: size for key, (_, size) in keys(s3, s3_bucket).items()} == {
        key: size for key, (_, size) in stored.items()
    }
    assert "mini" in shared.done("backbone", "list")
    assert not (shared.home / "artifacts").exists()


def test_the_registry_is_asked_without_the_bucket(shared: Trunkline, s3_proxy: FaultyProxy) -> None:
    shared.done("team", "create", "nlu")
    shared.done("task", "list")
    shared.done("backbone", "list")
    shared.done("audit", "list")
    assert s3_proxy.sizes() == []


@pytest.mark.parametrize(
    ("root", "code", "said"),
    [
        ("s3://no-such-bucket", 1, "s3://no-such-bucket: there is no such bucket; create it, or correct TRUNKLINE_ART"),
        ("s3://No_Bucket", 2, "'No_Bucket' is no bucket's name"),
        ("s3:/bucket", 2, "TRUNKLINE_ARTIFACT_ROOT begins with s3: but not with s3://"),
        ("gs://bucket", 2, "artifact root gs://…: write a folder's path, or s3://bucket/prefix"),
        ("s3://ann:hidden@bucket", 2, "holds credentials: leave them out"),
    ],
)
def test_a_root_that_cannot_be_used_is_one_line_and_nothing_is_pinned(
    shared: Trunkline, model_folder: Callable[..., Path], root: str, code: int, said: str
) -> None:
    shared.environ["TRUNKLINE_ARTIFACT_ROOT"] = root
    refused = shared("backbone", "pin", "mini", model_folder("mini", layers=[1, 2]))
    assert refused.code == code
    assert said in refused.problem
    assert "hidden" not in refused.problem
    shared.environ["TRUNKLINE_ARTIFACT_ROOT"] = "blobs"
    assert "no backbone yet" in shared.done("backbone", "list")


def test_a_server_that_fails_is_one_line_and_the_same_command_succeeds_later(
    shared: Trunkline,
    s3_proxy: FaultyProxy,
    monkeypatch: pytest.MonkeyPatch,
    model_folder: Callable[..., Path],
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    folder = model_folder("mini", layers=[1, 2])
    s3_proxy.fail(answers(500, "InternalError"), suffers=lambda request: request.method == "PUT")
    failed = shared("backbone", "pin", "mini", folder)
    assert failed.code == 1
    assert "the server answered 500 InternalError, 2 times" in failed.problem
    assert "no backbone yet" in shared.done("backbone", "list")
    s3_proxy.mend()
    assert "pinned backbone mini" in shared.done("backbone", "pin", "mini", folder)


def test_no_secret_is_printed_not_even_with_the_traceback(
    shared: Trunkline, s3_proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch, model_folder: Callable[..., Path]
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    folder = model_folder("mini", layers=[1, 2])
    printed = ""
    for code in ("SignatureDoesNotMatch", "InternalError", "AccessDenied"):
        s3_proxy.fail(answers(500 if code == "InternalError" else 403, code))
        failed = shared("--traceback", "backbone", "pin", "mini", folder)
        assert "Traceback" in failed.err
        printed += failed.out + failed.err
    for secret in (ACCESS_KEY, SECRET_KEY, SESSION_TOKEN, "Signature=", "AWS4-HMAC"):
        assert secret not in printed


@pytest.mark.slow
def test_commands_that_need_no_blob_do_not_import_the_client(
    s3: S3Server, s3_bucket: str, empty_registry: Path, tmp_path: Path
) -> None:
    shutil.copytree(empty_registry, tmp_path / ".trunkline")
    script = (
        "import json, sys; from cli.main import main\n"
        "codes = [main(line.split()) for line in sys.argv[1].splitlines()]\n"
        "print(json.dumps([codes, sorted({name.partition('.')[0] for name in sys.modules})]), file=sys.stderr)\n"
    )
    commands = ["team create nlu", "task list", "backbone list", "audit list", "release list"]
    environ = {
        **s3.environment,
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "TRUNKLINE_ARTIFACT_ROOT": f"s3://{s3_bucket}/team",
    }
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, "\n".join(commands)],
        env=environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    codes, imported = json.loads(done.stderr.splitlines()[-1])
    assert codes == [0] * len(commands)
    assert "sqlalchemy" in imported
    assert HEAVY & set(imported) == set()


@pytest.mark.slow
def test_the_installed_command_finds_the_bucket_by_its_environment(
    s3: S3Server, s3_bucket: str, empty_registry: Path, tmp_path: Path, model_folder: Callable[..., Path]
) -> None:
    shutil.copytree(empty_registry, tmp_path / ".trunkline")
    environ = {
        **s3.environment,
        "HOME": str(tmp_path),
        "TRUNKLINE_ARTIFACT_ROOT": f"s3://{s3_bucket}",
        "TRUNKLINE_DATABASE_URL": f"sqlite:///{tmp_path / '.trunkline' / 'registry.db'}",
    }
    arguments = [str(COMMAND), "backbone", "pin", "mini", str(model_folder("mini", layers=[1, 2]))]
    done = subprocess.run(arguments, env=environ, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(keys(s3, s3_bucket)) == 5
