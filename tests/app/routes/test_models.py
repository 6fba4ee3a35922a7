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


def post(server: Running, path: str, status: int = 200) -> dict[str, Any]:
    answer = server.http.post(f"/v1/models/{path}", params={"wait": 30})
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_an_operator_keeps_a_version_under_no_label(server: Running, pair: Pair, published: Callable[..., str]) -> None:
    gamma = published(pair.store, "gamma", seed=2)
    there = post(server, f"{gamma}/load")
    assert (there["state"], there["progress"]) == ("READY", None)
    assert there["memory_bytes"] > 1000
    answer = server.http.post("/v1/recommend", json={"history": ["gamma-1"], "version": gamma, "user_id": "u"}).json()
    assert (answer["version"], answer["label"], answer["request_id"][:2]) == (gamma, "loaded", "o-")
    assert server.http.post("/v1/recommend", json={}).json()["version"] == pair.beta
    models = server.http.get("/v1/models").json()
    assert models["serving"]["loaded"] == [gamma]
    told = {model["version"]: model for model in models["models"]}[gamma]
    assert (told["state"], told["labels"], told["memory_bytes"]) == ("READY", [], there["memory_bytes"])
    assert told["load_seconds"] > 0
    assert post(server, f"{gamma}/load")["state"] == "READY"
    assert put(server.http, pair.alpha, wait=30).status_code == 200
    assert server.http.get("/v1/models").json()["serving"]["loaded"] == [gamma], "a swap does not touch it"
    gone = post(server, f"{gamma}/unload")
    assert (gone["state"], gone["memory_bytes"]) == ("UNLOADED", None)
    assert server.http.post("/v1/recommend", json={"version": gamma}).status_code == 409
    assert f'naiseki_version_memory_bytes{{version="{gamma}"}}' not in server.http.get("/metrics").text


def test_an_unload_waits_for_the_requests_that_may_name_the_version(
    server: Running, pair: Pair, published: Callable[..., str]
) -> None:
    gamma = published(pair.store, "gamma", seed=2)
    post(server, f"{gamma}/load")
    with server.service.versions.current().held():
        draining = server.http.post(f"/v1/models/{gamma}/unload", params={"wait": 0.2})
        assert (draining.status_code, draining.json()["state"]) == (202, "DRAINING")
    assert post(server, f"{gamma}/unload")["state"] == "UNLOADED"


def test_what_a_label_needs_is_not_unloaded(server: Running, pair: Pair) -> None:
    for version, label in ((pair.beta, "live"), (pair.alpha, "previous")):
        refused = post(server, f"{version}/unload", 409)
        assert refused["detail"] == f"{version} is {label}: move or remove that label first"
    server.http.delete("/v1/labels/previous", params={"wait": 30})
    assert post(server, f"{pair.alpha}/unload")["state"] == "UNLOADED"


def test_only_so_many_are_kept(server: Running, pair: Pair, published: Callable[..., str]) -> None:
    extra = [published(pair.store, "gamma", seed=seed) for seed in (2, 3, 4)]
    for version in extra[:2]:
        post(server, f"{version}/load")
    refused = post(server, f"{extra[2]}/load", 409)
    assert "NAISEKI_MODELS_KEPT" in refused["detail"]
    assert extra[0] in refused["detail"]
    post(server, f"{extra[0]}/unload")
    assert post(server, f"{extra[2]}/load")["state"] == "READY"


def test_a_version_that_failed_is_tried_again_when_an_operator_asks(
    server: Running, pair: Pair, published: Callable[..., str]
) -> None:
    bad = published(pair.store, "bad", seed=3)
    file = pair.store.folder(bad) / "items.faiss"
    good = file.read_bytes()
    file.write_bytes(b"nonsense")
    assert "items.faiss" in post(server, f"{bad}/load", 409)["detail"]
    assert server.service.versions.asked == [], "what failed takes no place"
    assert put(server.http, bad, wait=30).status_code == 409
    assert "failed" in server.http.get("/readyz").json()["degraded"]
    file.write_bytes(good)
    assert post(server, f"{bad}/load")["state"] == "READY"
    while server.http.get("/readyz").json()["degraded"] is not None:
        time.sleep(0.01)
    assert server.http.post("/v1/recommend", json={}).json()["version"] == bad, "it was wanted as live all the time"
    assert server.service.versions.asked == []


@pytest.mark.parametrize("verb", ["load", "unload"])
def test_versions_that_cannot_be_named(server: Running, verb: str) -> None:
    assert post(server, f"20200101t000000-none-000000000000/{verb}", 404)["type"] == "/problems/unknown-version"
    for name in ("..%2f..%2fetc", "UPPER", "%00", "a" * 81):
        assert server.http.post(f"/v1/models/{name}/{verb}").status_code in (404, 422)
