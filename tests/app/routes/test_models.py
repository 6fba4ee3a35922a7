from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from app.settings import Settings

if TYPE_CHECKING:
    from tests.app.conftest import Pair, Running


@pytest.fixture
def server(
    pair: Pair, in_process: None, serve: Callable[[Settings], AbstractContextManager[Running]]
) -> Iterator[Running]:
    """Looks at the labels only when hinted, so that 202 and 200 can be told apart."""
    settings = Settings(store=pair.store.root, data=pair.store.root / "data", redis_url="none", poll_seconds=600)
    with serve(settings) as running:
        yield running.ready()


def put(http: httpx.Client, version: str, wait: float | None = None, **body: Any) -> httpx.Response:
    params = {} if wait is None else {"wait": wait}
    return http.put("/v1/labels/live", params=params, json={"version": version, **body})


def test_models_tell_wanted_and_serving(server: Running, pair: Pair) -> None:
    while pair.store.labels().last_good is None:  # written a moment after it is ready
        time.sleep(0.01)
    answer = server.http.get("/v1/models").json()
    models = {model["version"]: model for model in answer["models"]}
    assert set(models) == {pair.alpha, pair.beta}
    beta = models[pair.beta]
    assert (beta["family"], beta["items"], beta["state"]) == ("beta", 60, "READY")
    assert set(beta["labels"]) == {"live", "last_good"}
    assert models[pair.alpha]["labels"] == ["previous"]
    assert answer["wanted"]["live"] == answer["serving"]["live"] == pair.beta
    assert answer["wanted"]["generation"] == answer["serving"]["generation"] == 2
    assert "salt" not in answer["wanted"]


def test_a_label_is_202_at_once_and_200_with_wait(server: Running, pair: Pair) -> None:
    at_once = put(server.http, pair.alpha)
    assert at_once.status_code == 202
    assert at_once.json()["wanted"]["live"] == pair.alpha
    waited = put(server.http, pair.beta, wait=30)
    assert waited.status_code == 200
    assert waited.json()["serving"]["live"] == pair.beta
    back = server.http.post("/v1/rollback", params={"wait": 30})
    assert (back.status_code, back.json()["serving"]["live"]) == (200, pair.alpha)
    assert server.http.post("/v1/recommend", json={}).json()["version"] == pair.alpha


def test_a_load_that_fails_is_409_with_the_reason(server: Running, pair: Pair, published: Callable[..., str]) -> None:
    bad = published(pair.store, "bad", seed=3)
    (pair.store.folder(bad) / "items.faiss").write_bytes(b"nonsense")
    refused = put(server.http, bad, wait=30)
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/not-possible")
    assert "items.faiss" in refused.json()["detail"]
    models = {model["version"]: model for model in server.http.get("/v1/models").json()["models"]}
    assert models[bad]["state"] == "FAILED"
    assert "items.faiss" in models[bad]["reason"]
    assert server.http.post("/v1/recommend", json={}).json()["version"] == pair.beta
    back = server.http.post("/v1/rollback", params={"wait": 30})
    assert back.json()["serving"]["live"] == pair.beta


def test_a_lost_race_is_409(server: Running, pair: Pair) -> None:
    assert put(server.http, pair.alpha, expected_generation=1).status_code == 409
    assert put(server.http, pair.alpha, expected_generation=2).status_code == 202


def test_versions_that_are_not_there(server: Running, pair: Pair) -> None:
    refused = put(server.http, "20200101t000000-none-000000000000", wait=5)
    assert (refused.status_code, refused.json()["type"]) == (404, "/problems/unknown-version")
    assert put(server.http, "../other").status_code == 422
    assert put(server.http, pair.alpha, traffic=0.5).status_code == 422
    assert server.http.put("/v1/labels/staging", json={"version": pair.alpha}).status_code == 422


def test_a_version_of_the_store_that_is_not_loaded(server: Running, pair: Pair, published: Callable[..., str]) -> None:
    staged = published(pair.store, "gamma", seed=2)
    refused = server.http.post("/v1/recommend", json={"version": staged})
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/not-possible")


@pytest.mark.parametrize("wait", ["-1", "301", "nan", "inf", "soon"])
def test_a_wait_is_bounded(http: httpx.Client, wait: str) -> None:
    assert http.post("/v1/rollback", params={"wait": wait}).status_code == 422


def test_a_first_version_cannot_be_rolled_back(
    pair: Pair, in_process: None, serve: Callable[[Settings], AbstractContextManager[Running]]
) -> None:
    labels = pair.store.root / "labels.json"
    labels.unlink()
    pair.store.activate(pair.alpha, by="test")
    settings = Settings(store=pair.store.root, data=pair.store.root / "data", redis_url="none")
    with serve(settings) as running:
        refused = running.ready().http.post("/v1/rollback")
        assert (refused.status_code, refused.json()["type"]) == (409, "/problems/not-possible")
