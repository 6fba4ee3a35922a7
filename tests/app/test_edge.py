"""What hostile and broken clients get."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

import app.work
from tests.waiting import until

if TYPE_CHECKING:
    from tests.app.conftest import Running

JSON = {"content-type": "application/json"}
POSTS = ["/v1/recommend", "/v1/recommend/batch", "/v1/events", "/v1/items/lookup", "/v1/items/similar"]
HOSTILE: dict[str, tuple[bytes, int]] = {
    "nothing": (b"", 400),
    "half": (b'{"history": ["a"', 400),
    "no utf-8": (b'{"user_id": "\xff\xfe"}', 400),
    "lone surrogate": (rb'{"user_id": "\ud800"}', 400),
    "utf-16": ('{"k": 1}'.encode("utf-16"), 400),
    "two values": (b"{} {}", 400),
    "deep": (b"[" * 200_000, 400),
    "deep object": (b'{"a":' * 100_000, 400),
    "a list": (b"[]", 422),
    "a number": (b"1e999", 422),
    "null": (b"null", 422),
    "nan": (b'{"k": NaN}', 422),
    "infinity": (b'{"k": -Infinity}', 422),
    "giant integer": (b'{"k": ' + b"9" * 5000 + b"}", 400),
    "deep value": (b'{"history": ' + b"[" * 100 + b"]" * 100 + b"}", 422),
    "string for a number": (b'{"k": "10"}', 422),
    "number for a bool": (b'{"strict": 1}', 422),
    "unknown field": (b'{"user": "u"}', 422),
    "control character": (rb'{"user_id": "a\u0000"}', 422),
    "k too large": (b'{"k": 1001}', 422),
    "too many ids": (json.dumps({"history": ["a"] * 10_001}).encode(), 422),
    "path in a version": (b'{"version": "../../etc/passwd"}', 422),
}


def check_problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    assert body["request_id"] == answer.headers["x-request-id"]
    assert "Traceback" not in answer.text
    return body


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bodies(http: httpx.Client, name: str) -> None:
    body, status = HOSTILE[name]
    check_problem(http.post("/v1/recommend", content=body, headers=JSON), status)


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("body", [b"", b"[" * 50_000, b'"\\ud800"', b"NaN", b"{}", b'{"events": 5, "requests": {}}'])
def test_no_route_answers_them_with_5xx(http: httpx.Client, path: str, body: bytes) -> None:
    assert http.post(path, content=body, headers=JSON).status_code in (200, 400, 422)


@pytest.mark.parametrize("path", POSTS)
def test_other_media_types(http: httpx.Client, path: str) -> None:
    for headers in ({}, {"content-type": "text/plain"}, {"content-type": "application/x-www-form-urlencoded"}):
        check_problem(http.post(path, content=b"{}", headers=headers), 415)


def test_json_with_parameters_is_json(http: httpx.Client) -> None:
    for kind in ("application/json; charset=utf-8", "Application/JSON", "application/vnd.api+json"):
        assert http.post("/v1/recommend", content=b"{}", headers={"content-type": kind}).status_code == 200


def test_a_body_that_announces_too_much(http: httpx.Client, shared: Running) -> None:
    body = b" " * (shared.settings.body_bytes + 1)
    problem = check_problem(http.post("/v1/recommend", content=body, headers=JSON), 413)
    assert str(shared.settings.body_bytes) in problem["detail"]


def test_a_body_that_grows_too_large(http: httpx.Client, shared: Running) -> None:
    chunks = (b" " * 65536 for _ in range(shared.settings.body_bytes // 65536 + 2))
    check_problem(http.post("/v1/recommend", content=chunks, headers=JSON), 413)


def test_unknown_paths_and_methods(http: httpx.Client) -> None:
    assert check_problem(http.get("/v1/nothing"), 404)["type"] == "/problems/unknown-route"
    check_problem(http.get("/v1/recommend/"), 404)
    refused = http.get("/v1/recommend")
    check_problem(refused, 405)
    assert refused.headers["allow"] == "POST"


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /v1/items?q=%ED%A0%80%00%FF HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /v1/items/%00%FF HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"POST /v1/recommend HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\nConnection: close\r\n\r\n",
        b"GET /" + b"a" * 8000 + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_raw_bytes(shared: Running, raw: bytes) -> None:
    address = httpx.URL(shared.url)
    with socket.create_connection((address.host, address.port or 80), timeout=10) as connection:
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    status = answer.split(b" ")[1:2]
    assert status == [] or status[0][:1] in (b"2", b"4"), answer[:200]
    assert shared.http.get("/livez").status_code == 200


def test_every_answer_has_the_security_headers(http: httpx.Client) -> None:
    for path in ("/", "/livez", "/v1/nothing", "/openapi.json"):
        headers = http.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        assert "total;dur=" in headers["server-timing"]
        assert "server" not in headers


def test_an_error_of_ours_shows_no_stack(shared: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> object:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(shared.service.versions, "current", broken)
    problem = check_problem(shared.http.post("/v1/recommend", json={}), 500)
    assert "secret" not in json.dumps(problem)


def test_work_whose_client_has_gone_is_dropped(shared: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first request holds the thread; the second one's client leaves while it waits."""
    entered, gate, original = threading.Event(), threading.Event(), app.work.Recommendation.run

    def held(bundle: Any, batch: Any) -> Any:
        entered.set()
        assert gate.wait(20)
        return original(bundle, batch)

    def dropped() -> float:
        return shared.service.metrics.registry.get_sample_value("naiseki_dropped_entries_total") or 0.0

    monkeypatch.setattr(app.work.Recommendation, "run", held)
    before = dropped()
    with httpx.Client(base_url=shared.url, timeout=30) as other:
        first = threading.Thread(target=lambda: other.post("/v1/recommend", json={"history": ["beta-1"]}))
        first.start()
        assert entered.wait(20)
        live = shared.service.versions.current().live
        with shared.left("/v1/recommend", {"history": ["beta-2"]}):
            until(lambda: shared.service.batcher.depth == 1)
        until(lambda: live.in_flight == 1)  # the server has noticed
        gate.set()
        first.join()
    assert shared.http.post("/v1/recommend", json={"history": ["beta-3"]}).status_code == 200
    assert dropped() == before + 1


def test_a_client_that_leaves_within_its_request_is_no_error_of_ours(
    shared: Running, caplog: pytest.LogCaptureFixture
) -> None:
    def answered(status: str) -> float:
        labels = {"route": "/v1/events", "status": status}
        return shared.service.metrics.registry.get_sample_value("naiseki_requests_total", labels) or 0.0

    before, address = answered("499"), httpx.URL(shared.url)
    with socket.create_connection((address.host, address.port or 80), timeout=10) as connection:
        head = "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n"
        connection.sendall(head.encode() + b'{"events": [')
        time.sleep(0.1)  # or the server may not have begun when it learns of the end
    until = time.monotonic() + 10
    while answered("499") == before and time.monotonic() < until:
        time.sleep(0.01)
    assert answered("499") == before + 1
    assert answered("500") == 0
    assert "unhandled" not in caplog.text


def test_polls_do_not_fill_the_log(http: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    def logged(level: int) -> list[str]:
        caplog.clear()
        with caplog.at_level(level, "app.access"):
            for path in ("/livez", "/readyz", "/no-such-route"):
                http.get(path)
            until = time.monotonic() + 10  # a line follows its answer
            while "other" not in caplog.text and time.monotonic() < until:
                time.sleep(0.01)
        return [record.getMessage() for record in caplog.records if record.name == "app.access"]

    assert logged(logging.INFO) == ["GET other 404"]
    assert logged(logging.DEBUG) == ["GET /livez 200", "GET /readyz 200", "GET other 404"]
