"""Bodies and connections that would hold a server for ever, over real sockets."""

import json
import socket
import time
from contextlib import closing

import pytest

from serving.http import bodies, connections
from tests.serving.http.conftest import reply_of
from tests.waiting import eventually

DOCUMENT = b"GET /openapi.json HTTP/1.1\r\nHost: here\r\n\r\n"
HELLO = json.dumps({"text": "hello"}).encode()


def head(path: str = "/predict", **headers: object) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: here", *(f"{name.replace('_', '-')}: {v}" for name, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def status_of(connection: socket.socket) -> int:
    with connection.makefile("rb") as file:
        return int(file.readline().split()[1])


def is_closed(connection: socket.socket) -> bool:
    try:
        while connection.recv(65536):
            pass
    except ConnectionResetError:
        return True
    return True


def cannot_send(connection: socket.socket, data: bytes) -> bool:
    try:
        connection.sendall(data)
    except OSError:
        return True
    return False


@pytest.mark.parametrize("path", ["/predict", "/predict/stream", "/v2/models/trunkline/infer"])
def test_a_body_that_says_it_is_too_large_is_refused_before_it_comes(start, path):
    server = start(body_bytes=1000)
    with closing(server.raw()) as connection:
        connection.sendall(head(path, Content_Length=100_000_000))
        assert status_of(connection) == 413
    assert server.predict(text="hello").status == 200


def test_a_body_that_does_not_say_its_size_is_refused_once_it_is_too_large(start):
    server = start(body_bytes=1000)
    with closing(server.raw()) as connection:
        connection.sendall(head(Transfer_Encoding="chunked") + b"400\r\n" + b"x" * 1024 + b"\r\n")
        assert status_of(connection) == 413
    assert server.predict(text="hello").status == 200


def test_what_all_requests_hold_together_is_bounded_and_given_back(start, monkeypatch):
    monkeypatch.setattr(bodies, "_SMALL_BYTES", 500)
    server = start(body_bytes=1000)
    begun = [server.raw() for _ in range(17)]
    try:
        for connection in begun[:16]:
            connection.sendall(head(Content_Length=1000) + b"x" * 990)
        eventually(lambda: server.service.lifecycle.body_bytes == 16 * 990, "all bodies begun")
        begun[16].sendall(head(Content_Length=1000) + b"x" * 990)
        assert status_of(begun[16]) == 429
        assert server.predict(text="hello").status == 200, "a small one is answered all the same"
    finally:
        for connection in begun:
            connection.close()
    eventually(lambda: server.service.lifecycle.body_bytes == 0, "given back")
    assert server.predict(text="hello").status == 200
    eventually(lambda: server.service.lifecycle.body_bytes == 0, "given back")


def test_a_client_that_sends_a_hundred_megabytes_reads_why_they_are_refused(start):
    reply = start(body_bytes=1000).post("/predict", b"x" * 100_000_000)
    assert (reply.status, reply.error) == (
        413,
        "the body is larger than 1,000 bytes: ask about fewer texts at a time",
    )


def test_a_connection_serves_the_next_request_after_one_that_was_refused(start):
    server = start(body_bytes=1000)
    with closing(server.connection()) as connection:
        connection.request("POST", "/predict", b"x" * 1001)
        assert reply_of(connection).status == 413
        connection.request("POST", "/predict", HELLO)
        assert reply_of(connection).status == 200


def test_a_body_without_an_end_is_cut_off_after_the_refusal(start, monkeypatch):
    monkeypatch.setattr(connections, "LINGER_SECONDS", 0.2)
    server = start(body_bytes=1000)
    with closing(server.raw()) as connection:
        connection.sendall(head(Content_Length=10**15))
        eventually(lambda: cannot_send(connection, b"x"), "the connection is closed")


def test_a_chunked_body_is_read(server):
    with closing(server.connection()) as connection:
        connection.request("POST", "/predict", iter([HELLO[:5], HELLO[5:]]), encode_chunked=True)
        assert reply_of(connection).status == 200


def test_a_body_that_does_not_arrive_is_waited_for_only_so_long(start):
    server = start(body_seconds=0.2)
    with closing(server.raw()) as connection:
        connection.sendall(head(Content_Length=len(HELLO)) + HELLO[:5])
        assert status_of(connection) == 408
        assert is_closed(connection)
    assert server.predict(text="hello").status == 200


def test_a_client_that_goes_away_within_its_body_is_forgotten(server):
    connection = server.raw()
    connection.sendall(head(Content_Length=len(HELLO)) + HELLO[:5])
    eventually(lambda: server.service.lifecycle.in_flight == 1, "the request is being read")
    connection.close()
    eventually(lambda: server.service.lifecycle.in_flight == 0, "the request is forgotten")
    assert server.predict(text="hello").status == 200


def test_a_compressed_body_is_refused(server):
    reply = server.post("/predict", b"\x1f\x8b", {"Content-Encoding": "gzip"})
    assert (reply.status, reply.error) == (415, "the body is compressed: send it without Content-Encoding")


def test_a_connection_that_says_nothing_is_closed(start, monkeypatch):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.2)
    server = start()
    for sent in (b"", b"POST /predict HTTP/1.1\r\nHost: he"):
        with closing(server.raw()) as connection:
            connection.sendall(sent)
            assert is_closed(connection)


def test_an_empty_line_between_requests_holds_no_connection(start, monkeypatch):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    server = start()
    with closing(server.raw()) as connection:
        connection.sendall(head(Content_Length=len(HELLO)) + HELLO)
        assert status_of(connection) == 200
        connection.sendall(b"\r\n")
        assert is_closed(connection)


def test_trailers_without_an_end_are_cut_off(server):
    with closing(server.raw()) as connection:
        connection.sendall(head(Transfer_Encoding="chunked") + b"1\r\n{\r\n0\r\n")
        eventually(lambda: cannot_send(connection, b"X-More: " + b"x" * 1000 + b"\r\n"), "the connection is closed")
    assert server.predict(text="hello").status == 200


def test_a_head_without_an_end_is_refused(server, monkeypatch):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 600.0)
    with closing(server.raw()) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nX-Long: ")
        eventually(lambda: cannot_send(connection, b"x" * 1000), "the connection is closed")
    assert server.predict(text="hello").status == 200


def test_a_large_head_that_ends_is_read(server):
    assert server.post("/predict", {"text": "hello"}, {"X-Long": "x" * 20_000}).status == 200


def test_what_is_no_http_is_refused(server):
    with closing(server.raw()) as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
        assert status_of(connection) == 400
    assert server.predict(text="hello").status == 200


def test_a_client_that_reads_nothing_is_cut_off(server, monkeypatch):
    monkeypatch.setattr(connections, "UNREAD_SECONDS", 0.3)
    with closing(server.raw()) as connection, pytest.raises((ConnectionResetError, BrokenPipeError)):
        connection.sendall(DOCUMENT * 1_000_000)
    assert server.predict(text="hello").status == 200


def test_a_client_that_reads_slowly_is_waited_for(server, monkeypatch):
    monkeypatch.setattr(connections, "UNREAD_SECONDS", 0.3)
    asked = 100
    with closing(server.raw()) as connection:
        connection.sendall(DOCUMENT * asked)
        found = b""
        while found.count(b"HTTP/1.1 200 OK") < asked:
            time.sleep(0.02)
            received = connection.recv(64 * 1024)
            assert received, "cut off"
            found += received


@pytest.mark.slow
def test_a_connection_that_is_idle_for_a_while_takes_the_next_request(server):
    with closing(server.connection()) as connection:
        for pause in (6, 0):  # uvicorn alone would have closed it after 5 s
            connection.request("GET", "/release")
            assert reply_of(connection).status == 200
            time.sleep(pause)
