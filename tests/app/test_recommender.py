"""What a recommendation is worth when Redis is gone, or was never there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from app.settings import Settings
from tests.ports import free_port

if TYPE_CHECKING:
    from tests.app.conftest import Pair, Running, Serve


@pytest.fixture
def dead_redis() -> str:
    """A port that nobody listens on."""
    return f"redis://127.0.0.1:{free_port()}/0"


@pytest.fixture
def without_redis(pair: Pair, in_process: None, serve: Serve, dead_redis: str) -> Iterator[Running]:
    settings = Settings(store=pair.store.root, data=pair.store.root / "data", redis_url=dead_redis)
    with serve(settings) as server:
        yield server.ready()


def test_redis_gone_never_fails_a_recommendation(without_redis: Running) -> None:
    http = without_redis.http
    for _ in range(20):  # past the point where the circuit breaker opens
        answer = http.post("/v1/recommend", json={"user_id": "u"})
        assert answer.status_code == 200
        assert answer.json()["fallback_reason"] == "history_unavailable", "an outage must not look like a new user"
    body = http.post("/v1/recommend", json={"user_id": "u", "history": ["beta-1", "beta-2"]}).json()
    assert (body["fallback"], len(body["items"])) == (None, 10)
    strict = http.post("/v1/recommend", json={"user_id": "u", "strict": True})
    assert strict.json()["type"] == "/problems/no-usable-history"
    assert http.get("/readyz").status_code == 200
    assert "naiseki_redis_errors_total{kind=" in http.get("/metrics").text


def test_redis_gone_refuses_what_it_would_have_to_keep(without_redis: Running) -> None:
    http = without_redis.http
    for answer in (
        http.post("/v1/events", json={"events": [{"user_id": "u", "item_id": "beta-1"}]}),
        http.get("/v1/history", params={"user_id": "u"}),
        http.delete("/v1/history", params={"user_id": "u"}),
    ):
        assert (answer.status_code, answer.json()["type"]) == (503, "/problems/not-ready")
        assert int(answer.headers["retry-after"]) >= 1


def test_a_service_without_histories(pair: Pair, in_process: None, serve: Serve) -> None:
    settings = Settings(store=pair.store.root, data=pair.store.root / "data", redis_url="none")
    with serve(settings) as server:
        http = server.ready().http
        assert http.post("/v1/recommend", json={"user_id": "u"}).json()["fallback_reason"] == "history_unavailable"
        event = {"user_id": "u", "item_id": "beta-1"}
        assert http.post("/v1/events", json={"events": [event]}).status_code == 409
