from __future__ import annotations

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
        api_keys=("client", "klient"),
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
