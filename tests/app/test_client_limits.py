"""Clients that cost something without asking for anything, on real sockets."""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from app.client_limits import make_room
from app.settings import Settings

if TYPE_CHECKING:
    from tests.app.conftest import Running

SECONDS = 1.5
CONNECTIONS = 12
HEAD = b"POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def strict(
    tmp_path_factory: pytest.TempPathFactory, serve: Callable[[Settings], AbstractContextManager[Running]]
) -> Iterator[Running]:
    folder: Path = tmp_path_factory.mktemp("strict")
    settings = Settings(
        store=folder, data=folder, redis_url="none", client_seconds=SECONDS, connections=CONNECTIONS, head_bytes=4096,
        url_bytes=300, body_bytes=100_000,
    )  # fmt: skip
    with serve(settings) as server:
        yield server


def connect(server: Running, *, buffer: int | None = None) -> socket.socket:
    address = httpx.URL(server.url)
    connection = socket.socket()
    if buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    connection.settimeout(10)
    connection.connect((address.host, address.port or 80))
    return connection


def rest(connection: socket.socket) -> bytes:
    """Until the server hangs up."""
    parts = []
    try:
        while part := connection.recv(1 << 16):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def problem(answer: bytes) -> dict[str, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head, answer
    said: dict[str, Any] = json.loads(body)
    assert head.startswith(f"HTTP/1.1 {said['status']} ".encode())
    return said


def rejected(server: Running, reason: str) -> float:
    labels = {"reason": reason}
    return server.service.metrics.registry.get_sample_value("naiseki_rejects_total", labels) or 0.0


def drip(connection: socket.socket, text: bytes, *, every_s: float = 0.1) -> None:
    """One byte at a time, until the server has had enough."""
    try:
        for at in range(len(text)):
            connection.sendall(text[at : at + 1])
            time.sleep(every_s)
    except (BrokenPipeError, ConnectionResetError):
        pass


@pytest.mark.parametrize("asked_before", [False, True])
def test_a_head_that_drips_is_answered_408(strict: Running, *, asked_before: bool) -> None:
    before = rejected(strict, "slow")
    with connect(strict) as connection:
        if asked_before:
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
        started = time.monotonic()
        drip(connection, HEAD[:20])
        said = problem(rest(connection))
    assert (said["status"], said["type"]) == (408, "/problems/too-slow")
    assert "NAISEKI_CLIENT_SECONDS" in said["detail"]
    assert SECONDS * 0.9 < time.monotonic() - started < 10
    assert rejected(strict, "slow") == before + 1


@pytest.mark.parametrize("framing", [b"Content-Length: 500\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n1f4\r\n"])
def test_a_body_that_drips_is_answered_408(strict: Running, framing: bytes) -> None:
    with connect(strict) as connection:
        connection.sendall(HEAD + framing)
        drip(connection, b" " * 12)
        said = problem(rest(connection))
    assert (said["status"], said["type"]) == (408, "/problems/too-slow")


@pytest.mark.parametrize("noise", [b"", b"\r\n"])
def test_who_asks_nothing_is_sent_away_without_a_word(strict: Running, noise: bytes) -> None:
    with connect(strict) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n" if noise else b"")
        if noise:
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
        started = time.monotonic()
        if noise:
            drip(connection, noise * 6)
        assert rest(connection) == b""
    assert time.monotonic() - started < 5, "an empty line is no reason to wait for another"


def test_the_rest_of_a_refused_body_may_not_drip_either(strict: Running) -> None:
    with connect(strict) as connection:
        connection.sendall(HEAD.replace(b"/v1/recommend", b"/v1/nothing") + b"Content-Length: 500\r\n\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 404")
        started = time.monotonic()
        drip(connection, b" " * 15)
        assert rest(connection) == b""
    assert time.monotonic() - started < 5


def test_a_patient_client_with_a_steady_one_is_served(strict: Running) -> None:
    """In three pieces, with pauses that together stay within the limit."""
    with connect(strict) as connection:
        for piece in (b"GET /live", b"z HTTP/1.1\r\nHost: loc", b"alhost\r\nConnection: close\r\n\r\n"):
            connection.sendall(piece)
            time.sleep(0.05)
        assert rest(connection).startswith(b"HTTP/1.1 200")


def test_a_client_that_does_not_read_is_cut_off(strict: Running) -> None:
    before = rejected(strict, "slow")
    with connect(strict, buffer=4096) as connection:
        connection.settimeout(0.2)
        until = time.monotonic() + 10
        while rejected(strict, "slow") == before and time.monotonic() < until:
            try:
                connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50)
            except (TimeoutError, BrokenPipeError, ConnectionResetError):
                time.sleep(0.05)
    assert rejected(strict, "slow") == before + 1
    assert strict.http.get("/livez").status_code == 200


@pytest.mark.parametrize("pieces", [1, 50])
def test_a_head_without_end_is_too_large(strict: Running, pieces: int) -> None:
    head = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * 5000 + (b"\r\n\r\n" if pieces == 1 else b"")
    step = len(head) // pieces
    with connect(strict) as connection:
        with contextlib.suppress(ConnectionError):  # it need not hear the rest
            for at in range(0, len(head), step):
                connection.sendall(head[at : at + step])
                time.sleep(0.002)
        said = problem(rest(connection))
    assert (said["status"], said["type"]) == (413, "/problems/too-large")
    assert "NAISEKI_HEAD_BYTES" in said["detail"]


def test_many_small_headers_are_a_large_head(strict: Running) -> None:
    head = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n" + b"".join(b"X-%d: a\r\n" % at for at in range(1000))
    with connect(strict) as connection:
        connection.sendall(head + b"\r\n")
        assert problem(rest(connection))["status"] == 413


def test_a_long_url_is_too_large(strict: Running) -> None:
    refused = strict.http.get("/v1/items", params={"q": "a" * 300})
    assert (refused.status_code, refused.json()["type"]) == (413, "/problems/too-large")
    assert "NAISEKI_URL_BYTES" in refused.json()["detail"]
    assert strict.http.get("/v1/items", params={"q": "a" * 100}).status_code == 503, "no version yet, but let in"


def test_one_connection_too_many_is_told_so_and_the_others_go_on(strict: Running) -> None:
    with ExitStack() as stack:
        waiting = [stack.enter_context(connect(strict)) for _ in range(CONNECTIONS)]
        time.sleep(0.05)
        said = problem(ask(stack.enter_context(connect(strict))))
        assert (said["status"], said["type"]) == (503, "/problems/not-ready")
        assert "NAISEKI_CONNECTIONS" in said["detail"]
        assert ask(waiting[0]).startswith(b"HTTP/1.1 200"), "who is in stays in"
    until = time.monotonic() + 10
    while strict.http.get("/livez").status_code != 200:
        assert time.monotonic() < until
    assert rejected(strict, "connections") >= 1


def test_a_flood_of_connections_is_cut_off(strict: Running) -> None:
    with ExitStack() as stack:
        flood = [stack.enter_context(connect(strict)) for _ in range(3 * CONNECTIONS)]
        assert rest(flood[-1]) == b""
    until = time.monotonic() + 10
    while httpx.get(f"{strict.url}/livez").status_code != 200:
        assert time.monotonic() < until


def ask(connection: socket.socket) -> bytes:
    connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    return rest(connection)


def test_room_for_all_of_them_is_asked_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda kind, limits: asked.append(limits))
    for now, expected in (((1024, 4096), [(2512, 4096)]), ((1024, 2000), [(2000, 2000)]), ((4096, 4096), [])):
        asked.clear()
        monkeypatch.setattr(resource, "getrlimit", lambda kind, now=now: now)
        make_room(1000)
        assert asked == expected
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1024, resource.RLIM_INFINITY))
    asked.clear()
    make_room(1000)
    assert asked == [(2512, resource.RLIM_INFINITY)]
