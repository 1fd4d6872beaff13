"""A server on a real socket, over a real engine, in a thread of this process."""

import http.client
import json
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest

from serving.engine import Engine, EngineSettings
from serving.http.application import build_application
from serving.http.lifecycle import Lifecycle
from serving.http.limits import Limits
from serving.http.server import DrainingServer, bound_socket
from serving.http.service import Service
from serving.metrics import ServerMetrics
from serving.served_release import ServedRelease


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        assert self.headers["content-type"] == "application/json"
        assert set(self.json) == {"error"}
        return str(self.json["error"])


class GatedMetrics(ServerMetrics):
    """Holds the engine before each batch while the gate is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.at_gate = threading.Event()

    def waited(self, *, texts: int, seconds: float) -> None:
        super().waited(texts=texts, seconds=seconds)
        if not self.gate.is_set():
            self.at_gate.set()
            assert self.gate.wait(60)


class Running:
    """A server that takes requests."""

    def __init__(self, service: Service, tracer_provider: Any = None, drain_seconds: float = 30.0) -> None:
        self.service = service
        self.metrics: Any = service.metrics
        self.engine = service.engine
        listening = bound_socket("127.0.0.1", 0)
        self.port = listening.getsockname()[1]
        started = threading.Event()
        application = build_application(service, tracer_provider)
        self.server = DrainingServer(application, service.lifecycle, drain_seconds=drain_seconds, on_start=started.set)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listening]})
        self.thread.start()
        assert started.wait(30), "the server did not start"

    def connection(self, timeout: float = 30.0) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def raw(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def send(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Reply:
        with closing(self.connection()) as connection:
            connection.request(method, path, body, headers or {})
            return reply_of(connection)

    def get(self, path: str, headers: dict[str, str] | None = None) -> Reply:
        return self.send("GET", path, headers=headers)

    def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> Reply:
        """`body`: bytes as they are, anything else as JSON."""
        return self.send("POST", path, body if isinstance(body, bytes) else json.dumps(body).encode(), headers)

    def predict(self, **request: Any) -> Reply:
        return self.post("/predict", request)

    def in_background(self, path: str, body: Any, headers: dict[str, str] | None = None) -> Callable[[], Reply]:
        """Sends from a thread; called, waits for the reply."""
        replies: list[Reply] = []
        thread = threading.Thread(target=lambda: replies.append(self.post(path, body, headers)))
        thread.start()

        def wait() -> Reply:
            thread.join(60)
            (reply,) = replies
            return reply

        return wait

    def drain(self) -> None:
        """What SIGTERM does."""
        self.server.handle_exit(signal.SIGTERM, None)

    def stop(self) -> None:
        if isinstance(self.metrics, GatedMetrics):
            self.metrics.gate.set()
        self.drain()
        self.thread.join(60)
        assert not self.thread.is_alive(), "the server did not end"
        assert self.engine.close(timeout=30)


def reply_of(connection: http.client.HTTPConnection) -> Reply:
    response = connection.getresponse()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Reply(response.status, headers, response.read())


@pytest.fixture
def start(release: ServedRelease) -> Iterator[Callable[..., Running]]:
    """Starts a server of `release`; keywords are limits, and the settings of engine and server."""
    running: list[Running] = []

    def begin(
        *,
        settings: EngineSettings | None = None,
        tracer_provider: Any = None,
        drain_seconds: float = 30.0,
        follower: Callable[[Engine, ServerMetrics], Any] = lambda engine, metrics: None,
        **limits: Any,
    ) -> Running:
        metrics = GatedMetrics()
        engine = Engine(release, settings, metrics)
        metrics.watch(engine)
        service = Service(
            engine=engine,
            metrics=metrics,
            lifecycle=Lifecycle(),
            limits=Limits(**limits),
            follower=follower(engine, metrics),
        )
        running.append(Running(service, tracer_provider, drain_seconds))
        return running[-1]

    yield begin
    for one in running:
        one.stop()


@pytest.fixture
def server(start: Callable[..., Running]) -> Running:
    return start()
