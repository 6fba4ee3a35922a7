from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from app.settings import Settings

if TYPE_CHECKING:
    from tests.app.conftest import Running


@pytest.fixture(scope="module")
def locked(
    tmp_path_factory: pytest.TempPathFactory, serve: Callable[[Settings], AbstractContextManager[Running]]
) -> Iterator[httpx.Client]:
    folder: Path = tmp_path_factory.mktemp("locked")
    settings = Settings(
        store=folder,
        data=folder,
        redis_url="none",
        api_keys=("client", "sha256:" + hashlib.sha256(b"klient").hexdigest()),
        admin_keys=("admin",),
        metrics_key="m",
    )
    with serve(settings) as server:
        yield server.http


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize("headers", [{}, bearer("wrong"), {"authorization": "Basic Y2xpZW50Og=="}])
@pytest.mark.parametrize("path", ["/v1/items", "/v1/models", "/metrics", "/v1/history?user_id=u"])
def test_without_a_known_key(locked: httpx.Client, path: str, headers: dict[str, str]) -> None:
    refused = locked.get(path, headers=headers)
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    assert refused.json()["type"] == "/problems/key-missing"


def test_the_key_is_looked_at_before_the_body(locked: httpx.Client) -> None:
    assert locked.post("/v1/recommend", content=b"nonsense").status_code == 401


@pytest.mark.parametrize("key", ["client", "klient", "admin"])
def test_a_client_key_opens_client_routes(locked: httpx.Client, key: str) -> None:
    assert locked.get("/v1/items", headers=bearer(key)).status_code == 503, "no version yet, but let in"


def test_admin_routes_need_an_admin_key(locked: httpx.Client) -> None:
    refused = locked.get("/v1/models", headers=bearer("client"))
    assert (refused.status_code, refused.json()["type"]) == (403, "/problems/key-not-admin")
    assert locked.get("/v1/models", headers=bearer("admin")).status_code == 200


def test_health_and_console_are_open_and_metrics_have_their_own_key(locked: httpx.Client) -> None:
    assert locked.get("/livez").status_code == 200
    assert locked.get("/readyz").status_code == 503
    assert locked.get("/").status_code == 200
    assert locked.get("/metrics", headers=bearer("admin")).status_code == 401
    assert locked.get("/metrics", headers=bearer("m")).status_code == 200


def test_without_histories(locked: httpx.Client) -> None:
    refused = locked.get("/v1/history", params={"user_id": "u"}, headers=bearer("client"))
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/not-possible")


def test_without_keys_no_page_of_another_site_may_administer(http: httpx.Client) -> None:
    refused = http.get("/v1/models", headers={"origin": "https://elsewhere.example"})
    assert (refused.status_code, refused.json()["type"]) == (403, "/problems/key-not-admin")
    own = f"http://{http.base_url.host}:{http.base_url.port}"
    assert http.get("/v1/models", headers={"origin": own}).status_code == 200
    assert http.get("/v1/models", headers={"origin": "null"}).status_code == 403


@pytest.mark.parametrize(
    "host", ["rebound.example", "rebound.example:8000", "10.0.0.1", "", "localhost.example", "::1"]
)
def test_without_keys_a_name_that_was_pointed_here_may_not_administer(http: httpx.Client, host: str) -> None:
    """DNS rebinding: the page's own name, so its Origin equals its Host, and both are somebody else's."""
    headers = {"host": host, "origin": f"http://{host}"}
    refused = http.post("/v1/rollback", headers=headers)
    assert (refused.status_code, refused.json()["type"]) == (403, "/problems/key-not-admin")
    assert http.post("/v1/recommend", json={}, headers=headers).status_code == 200, "only what administers is guarded"


@pytest.mark.parametrize("host", ["localhost", "LocalHost:80", "127.0.0.1", "127.9.9.9:1", "[::1]", "[::1]:8000"])
def test_names_of_this_machine_may_administer(http: httpx.Client, host: str) -> None:
    assert http.get("/v1/models", headers={"host": host}).status_code == 200


def test_with_keys_the_host_may_be_any_name(locked: httpx.Client) -> None:
    assert locked.get("/v1/models", headers={"host": "api.example"} | bearer("admin")).status_code == 200


@pytest.fixture
def limited(
    tmp_path: Path, serve: Callable[[Settings], AbstractContextManager[Running]], request: pytest.FixtureRequest
) -> Iterator[Running]:
    settings = Settings(
        store=tmp_path, data=tmp_path, redis_url="none", rate_per_second=0.5, rate_burst=4, **request.param
    )
    with serve(settings) as server:
        yield server


KEYS = {"api_keys": ("one", "two"), "admin_keys": ("admin",)}


@pytest.mark.parametrize("limited", [KEYS], indirect=True)
def test_each_key_has_its_own_rate_and_an_operator_gets_through(limited: Running) -> None:
    http = limited.http

    def statuses(path: str, key: str, times: int = 6) -> list[int]:
        return [http.get(path, headers=bearer(key)).status_code for _ in range(times)]

    assert statuses("/v1/items", "one") == [503] * 4 + [429] * 2, "no version yet, but let in"
    assert statuses("/v1/items", "two") == [503] * 4 + [429] * 2
    refused = http.get("/v1/items", headers=bearer("one"))
    assert refused.json()["type"] == "/problems/rate-limited"
    assert 1 <= int(refused.headers["retry-after"]) <= 2
    assert statuses("/v1/models", "admin", 20) == [200] * 20
    assert statuses("/v1/items", "wrong", 6) == [401] * 4 + [429] * 2, "guesses are limited by address"
    assert statuses("/livez", "none", 20) == [200] * 20
    assert statuses("/v1/models", "admin", 1) == [200], "and hinder nobody who knows a key"
    rejects = limited.service.metrics.registry.get_sample_value
    assert rejects("naiseki_rejects_total", {"reason": "rate-limited"}) == 7


@pytest.mark.parametrize("limited", [{}], indirect=True)
def test_without_keys_it_is_the_address_and_a_batch_counts_its_entries(limited: Running) -> None:
    http = limited.http
    assert http.post("/v1/recommend/batch", json={"requests": [{}] * 50}).status_code == 503, "no version yet"
    refused = http.post("/v1/recommend", json={})
    assert refused.status_code == 429
    assert 90 <= int(refused.headers["retry-after"]) <= 96
    assert http.get("/v1/models").status_code == 200
