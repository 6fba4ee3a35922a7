"""A process that holds one version only: popular items while one goes and the next one comes."""

from __future__ import annotations

import dataclasses
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from app.errors import Problem
from app.loading import Loader
from app.settings import Settings
from app.swapping import without_model

if TYPE_CHECKING:
    from tests.app.conftest import Pair, Running


class Gate:
    """Holds every load between the checked copy and its opening, once it is shut."""

    def __init__(self) -> None:
        self.open, self.opening = threading.Event(), threading.Event()
        self.open.set()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    gate, opened = Gate(), Loader._open

    def held(loader: Loader, prepared: Path) -> Any:
        gate.opening.set()
        assert gate.open.wait(30)
        return opened(loader, prepared)

    monkeypatch.setattr(Loader, "_open", held)
    return gate


@pytest.fixture
def server(
    pair: Pair, in_process: None, gate: Gate, serve: Callable[[Settings], AbstractContextManager[Running]]
) -> Iterator[Running]:
    settings = Settings(
        store=pair.store.root,
        data=pair.store.root / "data",
        redis_url="none",
        poll_seconds=0.05,
        swap="resource-preserving",
    )
    with serve(settings) as running:
        yield running.ready()


def recommend(server: Running, **body: Any) -> dict[str, Any]:
    answer = server.http.post("/v1/recommend", json={"history": ["alpha-1", "beta-1"], **body})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_popular_items_while_versions_change_places(server: Running, pair: Pair, gate: Gate) -> None:
    first = server.service.versions.current()
    assert (first.previous, recommend(server)["fallback"]) == (None, None)
    encoder = weakref.ref(first.live.bundle.encoder)
    del first
    gate.opening.clear()
    gate.open.clear()
    assert server.http.post("/v1/rollback").status_code == 202
    assert gate.opening.wait(30)
    gc.collect()
    assert encoder() is None, "the old one is gone before the new one is opened"

    meanwhile = recommend(server, user_id="u", k=5, exclude_ids=["beta-3"])
    assert (meanwhile["fallback"], meanwhile["fallback_reason"]) == ("popular", "swapping")
    assert (meanwhile["version"], meanwhile["label"], len(meanwhile["items"])) == (pair.beta, "live", 5)
    assert not {"beta-1", "beta-3"} & {item["item_id"] for item in meanwhile["items"]}, "filters are obeyed"
    assert server.http.get("/v1/items", params={"q": "film 1"}).json()["version"] == pair.beta
    for path, body in (
        ("/v1/recommend", {"history": ["beta-1"], "strict": True}),
        ("/v1/items/similar", {"item_id": "beta-1"}),
    ):
        refused = server.http.post(path, json=body)
        assert (refused.status_code, refused.json()["type"]) == (503, "/problems/not-ready"), refused.text
        assert int(refused.headers["retry-after"]) >= 1
    ready = server.http.get("/readyz")
    assert (ready.status_code, ready.json()["degraded"]) == (
        200, f"{pair.alpha} is being loaded; popular items meanwhile",
    )  # fmt: skip
    models = server.http.get("/v1/models").json()
    assert models["serving"]["swapping"]
    assert models["serving"]["live"] == pair.beta
    states = {model["version"]: model for model in models["models"]}
    assert states[pair.beta]["state"] == "UNLOADED"
    assert states[pair.alpha]["state"] == "VALIDATING"
    assert states[pair.alpha]["progress"]["phase"] == "VALIDATING"
    assert states[pair.alpha]["progress"]["load_seconds"] >= states[pair.alpha]["progress"]["seconds"] >= 0
    assert 'naiseki_fallbacks_total{reason="swapping"} 1.0' in server.http.get("/metrics").text

    gate.open.set()
    until_live(server, pair.alpha)
    assert recommend(server)["fallback"] is None
    models = server.http.get("/v1/models").json()
    assert {one["version"]: one["state"] for one in models["models"]} == {pair.alpha: "READY", pair.beta: "UNLOADED"}


def until_live(server: Running, version: str) -> None:
    until = time.monotonic() + 30
    while (ready := server.http.get("/readyz").json())["degraded"] is not None or ready["version"] != version:
        assert time.monotonic() < until, ready
        time.sleep(0.01)


def test_a_damaged_version_takes_nothing_away(server: Running, pair: Pair, published: Callable[..., str]) -> None:
    bad = published(pair.store, "bad", seed=3)
    (pair.store.folder(bad) / "items.faiss").write_bytes(b"nonsense")
    live = server.service.versions.current().live
    refused = server.http.put("/v1/labels/live", params={"wait": 30}, json={"version": bad})
    assert refused.status_code == 409
    assert server.service.versions.current().live is live, "it was found on the way to the cache"
    assert recommend(server)["fallback"] is None


def test_a_version_that_fails_late_brings_the_last_good_one_back(
    server: Running, pair: Pair, published: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    while pair.store.labels().last_good != pair.beta:
        time.sleep(0.01)
    bad, opened = published(pair.store, "bad", seed=3), Loader._open

    def fails_late(loader: Loader, prepared: Path) -> Any:
        bundle = opened(loader, prepared)
        if bundle.version == bad:
            raise RuntimeError("its golden queries are answered otherwise")
        return bundle

    monkeypatch.setattr(Loader, "_open", fails_late)
    refused = server.http.put("/v1/labels/live", params={"wait": 30}, json={"version": bad})
    assert "golden" in refused.json()["detail"]
    while recommend(server)["fallback_reason"] == "swapping":
        time.sleep(0.01)
    assert recommend(server)["version"] == pair.beta
    assert "golden" in server.http.get("/readyz").json()["degraded"]


def test_a_second_version_has_no_place(server: Running, pair: Pair) -> None:
    canary = server.http.put("/v1/labels/canary", params={"wait": 5}, json={"version": pair.alpha, "traffic": 0.5})
    assert canary.status_code == 409
    assert "NAISEKI_SWAP=resource-preserving" in canary.json()["detail"]
    assert "NAISEKI_SWAP" in server.http.post(f"/v1/models/{pair.alpha}/load").json()["detail"]
    assert server.http.get("/v1/models").json()["serving"]["failed"].keys() == {"canary"}
    assert recommend(server, user_id="u")["version"] == pair.beta


def test_what_is_left_of_a_bundle_computes_nothing(pair: Pair) -> None:
    left = without_model(pair.store.open(pair.beta))
    assert left.version == pair.beta
    held = {field.name for field in dataclasses.fields(left) if getattr(left, field.name) is not None}
    assert held == {"manifest", "catalog", "encoder", "index"}, "whatever a bundle gets must be given back too"
    with pytest.raises(Problem, match="being swapped") as told:
        _ = left.encoder.config
    assert told.value.status == 503
