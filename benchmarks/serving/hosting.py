"""A server in a process of its own, for as long as it is measured."""

import contextlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import beside
from peers import Way
from setting import Setting

_FOLDER = Path(__file__).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def peer_command(setting: Setting, name: str, way: Way, *, tasks: int, copies: int, port: int) -> list[str]:
    own_encoder = setting.folder == setting.home / "encoder"
    return [
        sys.executable, str(_FOLDER / "peer_server.py"), "--peer", name, "--home", str(setting.home),
        *([] if own_encoder else ["--model", str(setting.folder)]),
        "--tasks", str(tasks), "--copies", str(copies), "--port", str(port),
        "--lanes", str(way.lanes), "--threads", str(way.threads), "--batch", str(way.budget),
    ]  # fmt: skip


def our_command(
    setting: Setting, digest: str, precision: str, way: Way, *, port: int, options: Sequence[str] = ()
) -> list[str]:
    """Args:
    options: further ones of `trunkline serve`.

    No answer is kept, for the same texts are asked about again, and none is given up for the time that it takes.
    """
    return [
        str(Path(sys.executable).parent / "trunkline"), "serve", digest, "--from", str(setting.root),
        "--precision", precision, "--port", str(port), "--cache-mb", "0", "--timeout", "900",
        "--lanes", str(way.lanes), "--threads", str(way.threads), "--batch-pieces", str(way.budget), *options,
    ]  # fmt: skip


def can_serve() -> bool:
    """Whether the command is there."""
    asked = subprocess.run(  # noqa: S603
        [str(Path(sys.executable).parent / "trunkline"), "serve", "--help"], capture_output=True, check=False
    )
    return asked.returncode == 0


@contextlib.contextmanager
def hosted(command: Sequence[str], port: int, *, patience: float = 600.0) -> Iterator[str]:
    """The address of a server that answers questions; it is ended with the block.

    Args:
        patience: seconds that it may take to load and to compile.

    Raises:
        RuntimeError: it ended or did not answer in time; what it said.
    """
    server = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(list(command), stdout=said, stderr=subprocess.STDOUT, cwd=beside.REPOSITORY)  # noqa: S603
        try:
            until = time.monotonic() + patience
            while not _answers(f"{server}/predict"):
                if process.poll() is not None or time.monotonic() > until:
                    said.seek(0)
                    raise RuntimeError(f"{' '.join(command)} does not answer:\n{said.read()[-4000:]}")
                time.sleep(0.1)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(url: str) -> bool:
    question = urllib.request.Request(  # noqa: S310
        url, data=b'{"text": "Does it answer?"}', headers={"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(question, timeout=60) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
