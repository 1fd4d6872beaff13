"""A real S3 over HTTP, and a proxy before it that fails on demand."""

import functools
import os
import re
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from xml.sax.saxutils import escape

import boto3
import pytest

ACCESS_KEY = "an-access-key-that-must-never-show"
SECRET_KEY = "a/secret+key/that/must/never/show"  # noqa: S105
SESSION_TOKEN = "a/session+token/that/must/never/show"  # noqa: S105

_STARTED = re.compile(r"Running on (http://\S+)")


@dataclass
class S3Server:
    """An S3 of the tests' own. What it holds is looked at through a client that Trunkline has no part in."""

    url: str

    @property
    def environment(self) -> dict[str, str]:
        """What leads everyone's S3 client here, and nothing else: no profile of a developer, no cloud's metadata."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_SESSION_TOKEN": SESSION_TOKEN,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @functools.cached_property
    def client(self) -> Any:
        session = boto3.Session(aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY, region_name="us-east-1")
        return session.client("s3", endpoint_url=self.url)

    def new_bucket(self) -> str:
        bucket = f"bucket-{secrets.token_hex(8)}"
        self.client.create_bucket(Bucket=bucket)
        return bucket


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """moto's server, in a process of its own."""
    log = tmp_path_factory.mktemp("s3") / "log"
    command = [Path(sys.executable).with_name("moto_server"), "-H", "127.0.0.1", "-p", "0"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield S3Server(_address(process, log))
    finally:
        process.kill()
        process.wait()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    for _ in range(600):
        if found := _STARTED.search(log.read_text()):
            return found[1]
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    raise AssertionError(log.read_text())


@pytest.fixture
def s3_bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket of the test's own, on the server to which this process' environment leads."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return s3.new_bucket()


class Request(NamedTuple):
    method: str
    target: str
    """Path and query."""
    size: int


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


Fault = Callable[["Exchange"], None]


def answers(status: int, code: str) -> Fault:
    """The request is not done: the server says that it failed."""
    body = f"<?xml version='1.0'?><Error><Code>{escape(code)}</Code><Message>in this test</Message></Error>"
    return lambda exchange: exchange.say(status, body)


def cut_before_the_request(exchange: "Exchange") -> None:
    exchange.cut()


def cut_before_the_answer(exchange: "Exchange") -> None:
    """The request is done, but nobody hears of it."""
    exchange.forward()
    exchange.cut()


def cut_in_the_answer(exchange: "Exchange") -> None:
    answer = exchange.forward()
    exchange.send(answer, only=len(answer.body) // 2)
    exchange.cut()


def wrong_bytes(exchange: "Exchange") -> None:
    answer = exchange.forward()
    exchange.send(answer._replace(body=bytes([answer.body[0] ^ 1]) + answer.body[1:] if answer.body else b""))


def silence(exchange: "Exchange") -> None:
    exchange.wait()
    exchange.cut()


class FaultyProxy:
    """Passes requests on to a server, notes them, and does to them what it is told to."""

    def __init__(self, server: str) -> None:
        self.requests: list[Request] = []
        self.on_request: Callable[[Request], None] = lambda request: None
        self._server = urlsplit(server).netloc
        self._fault: Fault | None = None
        self._times = 0
        self._suffers: Callable[[Request], bool] = lambda request: True
        self._lock = threading.Lock()
        self._mended = threading.Event()
        self._listener = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._listener.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.server_port}"

    def sizes(self) -> list[tuple[str, int]]:
        """Method and size of the body of each request since this was asked last."""
        sizes = [(request.method, request.size) for request in self.requests]
        self.requests.clear()
        return sizes

    def fail(
        self, fault: Fault, *, times: int = sys.maxsize, suffers: Callable[[Request], bool] = lambda request: True
    ) -> None:
        """From now on the first `times` of the requests that suffer from it."""
        self._mended.clear()
        self._fault, self._times, self._suffers = fault, times, suffers

    def mend(self) -> None:
        self._fault = None
        self._mended.set()

    @contextmanager
    def running(self) -> Iterator["FaultyProxy"]:
        thread = threading.Thread(target=self._listener.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield self
        finally:
            self.mend()
            self._listener.shutdown()
            self._listener.server_close()
            thread.join()

    def _next_fault(self, request: Request) -> Fault | None:
        with self._lock:
            self.requests.append(request)
            if self._fault is None or self._times == 0 or not self._suffers(request):
                return None
            self._times -= 1
            return self._fault

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                request = Request(self.command, self.path, len(body))
                exchange = Exchange(self, body, proxy._server, proxy._mended)
                fault = proxy._next_fault(request)
                proxy.on_request(request)
                if fault is None:
                    exchange.send(exchange.forward())
                else:
                    fault(exchange)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Says nothing."""

        return Handler


class Exchange:
    """One request, and the way to its sender."""

    def __init__(self, handler: BaseHTTPRequestHandler, body: bytes, server: str, mended: threading.Event) -> None:
        self._handler = handler
        self._body = body
        self._server = server
        self._mended = mended

    def forward(self, body: bytes | None = None) -> Answer:
        """Asks the server, with the request's own body or another of the same length."""
        headers = {name: value for name, value in self._handler.headers.items() if name.lower() != "expect"}
        connection = HTTPConnection(self._server, timeout=30)
        try:
            connection.request(self._handler.command, self._handler.path, self._body if body is None else body, headers)
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def send(self, answer: Answer, *, only: int | None = None) -> None:
        """Sends the answer, or of its body the first bytes only."""
        self._handler.send_response_only(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self._handler.send_header(name, value)
        size = len(answer.body)
        if self._handler.command == "HEAD":
            size = int(answer.headers.get("Content-Length") or answer.headers.get("content-length") or 0)
        self._handler.send_header("Content-Length", str(size))
        self._handler.end_headers()
        if self._handler.command != "HEAD":
            self._handler.wfile.write(answer.body[:only])

    def say(self, status: int, xml: str) -> None:
        self.send(Answer(status, {"Content-Type": "application/xml"}, xml.encode()))

    def wait(self) -> None:
        """Until the fault ends, or nobody can be waiting any more."""
        self._mended.wait(timeout=20)

    def cut(self) -> None:
        self._handler.wfile.flush()
        self._handler.close_connection = True
        self._handler.connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def s3_proxy(s3: S3Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """Between this process and its bucket."""
    with FaultyProxy(s3.url).running() as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy
