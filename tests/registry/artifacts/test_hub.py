"""Pinning from a hub, against a real HTTP server that answers as a hub does."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from registry.artifacts.hub import download, is_repository
from registry.errors import UsageError

COMMIT = "5" * 40
FILES = {
    "config.json": b'{"model_type": "bert"}',
    "tokenizer.json": b"{}",
    "model.safetensors": b"weights",
    "README.md": b"#",
}


class _Hub(BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path.startswith("/api/models/nlp/tiny/revision/"):
            if not path.endswith(("/main", f"/{COMMIT}")):
                self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
                return
            self._json({"id": "nlp/tiny", "sha": COMMIT, "siblings": [{"rfilename": name} for name in FILES]})
        elif path.startswith("/api/models/nlp/tiny/tree/"):
            files = [{"type": "file", "path": name, "size": len(data), "oid": "1" * 40} for name, data in FILES.items()]
            self._json(files)
        elif path.startswith(f"/nlp/tiny/resolve/{COMMIT}/"):
            content = FILES[path.rsplit("/", 1)[1]]
            tag = hashlib.sha1(content, usedforsecurity=False).hexdigest()
            self._answer(200, content, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT})
        else:
            self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET  # noqa: N815 - the base class's name

    def _json(self, content: object) -> None:
        self._answer(200, json.dumps(content).encode(), {"Content-Type": "application/json"})


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


DOWNLOAD = """
import sys
from registry.artifacts.hub import download
from registry.errors import TrunklineError
try:
    print(*download(sys.argv[1], revision=sys.argv[2]))
except TrunklineError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def run(repository: str, revision: str, endpoint: str, home: Path) -> subprocess.CompletedProcess[str]:
    # In a process of its own: the hub's client reads its environment once, when it is imported.
    surroundings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return subprocess.run(
        [sys.executable, "-P", "-c", DOWNLOAD, repository, revision],
        env={**os.environ, **surroundings},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_files_that_pinning_needs_are_fetched_and_the_commit_recorded(hub, tmp_path):
    done = run("nlp/tiny", "main", hub, tmp_path)
    assert done.returncode == 0, done.stderr
    folder, source = done.stdout.split()
    assert source == f"nlp/tiny@{COMMIT}"
    assert {path.name: path.read_bytes() for path in Path(folder).iterdir()} == {
        name: content for name, content in FILES.items() if name != "README.md"
    }


def test_an_unknown_repository_or_revision_is_not_found(hub, tmp_path):
    for repository, revision in (("nlp/none", "main"), ("nlp/tiny", "v9")):
        done = run(repository, revision, hub, tmp_path)
        assert done.returncode == 1
        assert done.stderr.startswith(f"NotFound: hub repository {repository} at revision {revision} is not there")
        assert len(done.stderr.splitlines()) == 1


def test_a_hub_that_cannot_be_reached_is_one_clear_line(tmp_path):
    done = run("nlp/tiny", "main", "http://127.0.0.1:1", tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("StorageError: hub repository nlp/tiny cannot be fetched")


def test_a_revision_must_be_named():
    with pytest.raises(UsageError, match="--revision COMMIT"):
        download("nlp/tiny", revision=None)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nlp/tiny", True),
        ("./tiny", False),
        ("/models/tiny", False),
        ("tiny", False),
        ("../a/b", False),
        ("a/b/c", False),
    ],
)
def test_only_owner_and_name_are_a_repository(name, expected):
    assert is_repository(name) is expected
