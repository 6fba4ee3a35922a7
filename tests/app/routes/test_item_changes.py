"""Items put and removed over HTTP, on one replica and on two, over swaps and restarts."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import polars as pl
import pytest
import redis
import torch
from tokenizers import Tokenizer

from app.settings import Settings
from model_store.base_models import open_base
from model_store.catalog import ItemCatalog
from model_store.item_placer import ItemPlacer, PlacerConfig
from model_store.staging import BundleParts
from model_store.store import ModelStore
from model_store.text_tower import TextTowerConfig
from model_store.tf_idf import TfIdf

if TYPE_CHECKING:
    from tests.app.conftest import Running

Serve = Callable[[Settings], AbstractContextManager["Running"]]
WORDS = ["drama of the sea", "comedy of the hill", "war at sea", "love on a hill"]


def with_placer(parts: BundleParts, dim: int = 8) -> BundleParts:
    """Texts are read by a random regression over a few words."""
    tf_idf = TfIdf.fit(WORDS)
    weights_FD = np.random.default_rng(5).normal(size=(len(tf_idf.vocabulary) + 1, dim))
    config = PlacerConfig(item_text="{title} | {text}", vocabulary=tf_idf.vocabulary, unseen=tf_idf.unseen, norm=40.0)
    return replace(parts, placer=ItemPlacer(config, tf_idf, weights_FD))


def with_tower(parts: BundleParts, base_folder: Path, dim: int = 8) -> BundleParts:
    """Items named `Item <row>` stand where a random language model puts that."""
    base = open_base(str(base_folder), dtype=torch.float32)
    size = len(next(base.embedding.parameters()))
    config = TextTowerConfig(lm=base.config, vocabulary=size, inner_dim=dim, item_text="{title}", max_tokens=8)
    tower = config.build(base.lm).eval().requires_grad_(False)
    tower.token_inputs.copy_(base.embedding(torch.arange(size)))
    tower.tokenizer = Tokenizer.from_file(str(base.tokenizer_file))
    titles = [f"Item {row}" for row in range(len(parts.catalog))]
    return replace(
        parts,
        catalog=ItemCatalog(parts.catalog.frame.with_columns(pl.Series("title", titles))),
        item_vectors_ND=tower.encode_texts(titles),
        text_tower=tower,
        tokenizer=base.tokenizer_file,
    )


@dataclass(frozen=True)
class World:
    """A store with a live version that reads texts, one that does not, and one to swap to; and a Redis for all."""

    settings: Settings
    store: ModelStore
    live: str
    by_id: str
    later: str


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory,
    parts_of: Callable[..., BundleParts],
    publish_parts: Callable[[ModelStore, BundleParts], str],
) -> World:
    folder = tmp_path_factory.mktemp("items")
    store = ModelStore(folder / "store")
    live = publish_parts(store, with_placer(parts_of("beta")))
    by_id = publish_parts(store, parts_of("beta", seed=2))
    later = publish_parts(store, with_placer(parts_of("beta", seed=3, items=70)))
    store.activate(by_id, by="test")
    store.activate(live, by="test")
    return World(Settings(store=store.root, data=folder / "data", poll_seconds=0.05), store, live, by_id, later)


@pytest.fixture(scope="module")
def server(world: World, serve: Serve, childless: Callable[[], AbstractContextManager[None]]) -> Iterator[Running]:
    with childless(), ExitStack() as stack:
        running = stack.enter_context(serve(world.settings)).ready()
        wait_for(lambda: running.service.versions.current().previous is not None)
        yield running


def wait_for(done: Callable[[], bool], seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until
        time.sleep(0.01)


def recommended(http: httpx.Client, item_id: str, **ask: Any) -> bool:
    body = {"history": ["beta-1", "beta-2"], "k": 1000, **ask}
    answer = http.post("/v1/recommend", json=body).json()
    return item_id in {item["item_id"] for item in answer["items"]}


def test_a_new_item_is_recommended_within_a_second(server: Running, world: World) -> None:
    http = server.http
    started = time.monotonic()
    answer = http.put("/v1/items", params={"id": "new/1"}, json={"title": "War at sea", "categories": ["fresh"]})
    assert answer.status_code == 200
    assert answer.json() == {
        "item_id": "new/1",
        "versions": {world.live: "recommendable", world.by_id: "id_family"},
    }
    assert recommended(http, "new/1")
    assert time.monotonic() - started < 1.0
    assert not recommended(http, "new/1", version=world.by_id)
    assert recommended(http, "new/1", categories=["fresh"], k=1)
    assert recommended(http, "new/1", history=[], categories=["fresh"]), "popular items see it too"
    assert not recommended(http, "new/1", exclude_ids=["new/1"])
    assert recommended(http, "new/1", allow_ids=["new/1"])
    looked_up = http.post("/v1/items/lookup", json={"ids": ["new/1", "no"]}).json()
    assert [item["title"] for item in looked_up["items"]] == ["War at sea"]
    assert [item["item_id"] for item in http.get("/v1/items", params={"q": "war SEA"}).json()["items"]] == ["new/1"]
    similar = http.post("/v1/items/similar", json={"item_id": "new/1", "k": 3}).json()
    assert len(similar["items"]) == 3
    near = http.post("/v1/items/similar", json={"item_id": similar["items"][0]["item_id"], "k": 60}).json()
    assert "new/1" in {item["item_id"] for item in near["items"]}


def test_a_history_may_hold_a_new_item(server: Running) -> None:
    http = server.http
    http.put("/v1/items/seen", json={"title": "War"}).raise_for_status()
    answer = http.post("/v1/recommend", json={"history": ["beta-1", "seen", "nobody"], "k": 1000}).json()
    assert answer["unknown_items"] == ["nobody"], "a new item is known, if not readable yet"
    assert "seen" not in {item["item_id"] for item in answer["items"]}
    alone = http.post("/v1/recommend", json={"history": ["seen"], "k": 1000}).json()
    assert (alone["fallback"], alone["fallback_reason"], alone["unknown_items"]) == ("popular", "unknown_items", [])
    assert "seen" not in {item["item_id"] for item in alone["items"]}


def test_a_changed_item_says_what_was_put_and_keeps_its_place(server: Running, world: World) -> None:
    http = server.http
    before = http.post("/v1/recommend", json={"history": ["beta-1"], "k": 60}).json()["items"]
    put = http.put("/v1/items/beta-12", json={"title": "Another title", "categories": ["moved"]})
    assert put.json()["versions"] == {world.live: "recommendable", world.by_id: "recommendable"}
    after = http.post("/v1/recommend", json={"history": ["beta-1"], "k": 1000}).json()["items"]
    scores = {item["item_id"]: item["score"] for item in after}
    assert scores["beta-12"] == next(item["score"] for item in before if item["item_id"] == "beta-12")
    assert http.get("/v1/items/beta-12").json()["item"]["popularity"] == 7
    assert recommended(http, "beta-12", categories=["moved"], k=1)
    assert not recommended(http, "beta-12", categories=["third"])
    assert [item["item_id"] for item in after].count("beta-12") == 1


def test_a_removed_item_is_gone_until_it_is_put(server: Running, world: World) -> None:
    http = server.http
    gone = http.delete("/v1/items/beta-20")
    assert gone.json() == {"item_id": "beta-20", "versions": [world.live, world.by_id]}
    for version in (world.live, world.by_id):
        assert not recommended(http, "beta-20", version=version)
    assert http.get("/v1/items/beta-20").status_code == 404
    assert http.delete("/v1/items", params={"id": "beta-20"}).json()["type"] == "/problems/unknown-item"
    assert http.post("/v1/recommend", json={"history": ["beta-20"]}).json()["fallback"] is None, "it was chosen once"
    http.put("/v1/items/beta-20", json={"title": "Back"}).raise_for_status()
    assert recommended(http, "beta-20")


def test_bulk_answers_each_and_the_later_of_two_wins(server: Running) -> None:
    http = server.http
    items = [
        {"item_id": "bulk-1", "title": "Sea"},
        {"item_id": "beta-30", "remove": True},
        {"item_id": "nothing", "remove": True},
        {"item_id": "bulk-1", "title": "Hill"},
    ]
    results = http.post("/v1/items/bulk", json={"items": items}).json()["results"]
    assert [one["status"] for one in results] == [200, 200, 404, 200]
    assert results[2]["problem"]["type"] == "/problems/unknown-item"
    assert http.get("/v1/items/bulk-1").json()["item"]["title"] == "Hill"
    assert not recommended(http, "beta-30")
    assert recommended(http, "bulk-1")


@pytest.mark.parametrize(
    "body",
    [{}, {"title": ""}, {"title": " "}, {"title": 3}, {"title": "x", "extra": 1}, {"title": "x" * 1001},
     {"title": "x", "categories": "drama"}, {"title": "x", "categories": [""]}],
)  # fmt: skip
def test_wrong_items_are_refused(server: Running, body: dict[str, object]) -> None:
    refused = server.http.put("/v1/items/wrong", json=body)
    assert (refused.status_code, refused.json()["type"]) == (422, "/problems/invalid")
    assert server.http.get("/v1/items/wrong").status_code == 404


@pytest.mark.parametrize("body", [{"item_id": "a"}, {"item_id": "a", "title": "A", "remove": True}])
def test_a_bulk_entry_puts_or_removes(server: Running, body: dict[str, object]) -> None:
    assert server.http.post("/v1/items/bulk", json={"items": [body]}).status_code == 422


def test_search_by_meaning_is_refused_where_nothing_reads(server: Running, world: World) -> None:
    refused = server.http.post("/v1/search", json={"text": "war"})
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/not-possible")
    assert world.live in refused.json()["detail"]


def test_a_replica_a_swap_and_a_restart_keep_what_was_put(
    server: Running, world: World, serve: Serve, childless: Callable[[], AbstractContextManager[None]]
) -> None:
    here = server.http
    here.put("/v1/items/kept", json={"title": "Comedy of the hill"}).raise_for_status()
    here.delete("/v1/items/beta-40").raise_for_status()
    with childless():
        with serve(world.settings) as other:
            other.ready()
            assert recommended(other.http, "kept"), "there from the first answer on"
            assert not recommended(other.http, "beta-40")
            other.http.put("/v1/items/there", json={"title": "Love"}).raise_for_status()
            wait_for(lambda: recommended(here, "there"), 1.0)
            here.delete("/v1/items/there").raise_for_status()
            wait_for(lambda: not recommended(other.http, "there"), 1.0)

            swapped = here.put("/v1/labels/live", params={"wait": 30}, json={"version": world.later})
            assert swapped.status_code == 200, swapped.text
            for http in (here, other.http):
                wait_for(lambda http=http: http.get("/readyz").json()["version"] == world.later)  # type: ignore[misc]
                assert recommended(http, "kept", version=world.later)
                assert not recommended(http, "beta-40")
        with serve(world.settings) as again:
            again.ready()
            assert recommended(again.http, "kept")
            assert not recommended(again.http, "beta-40")
    text = here.get("/metrics").text
    assert f'naiseki_overlay_items{{version="{world.later}"}}' in text
    assert f'naiseki_overlay_hidden{{version="{world.later}"}}' in text
    here.put("/v1/labels/live", params={"wait": 30}, json={"version": world.live}).raise_for_status()


def test_garbage_in_redis_is_skipped_and_counted(server: Running) -> None:
    http, url = server.http, server.service.changes._log._writes.connection_pool.connection_kwargs["path"]  # type: ignore[union-attr]
    store = redis.Redis(unix_socket_path=url)
    store.hset("naiseki:items", "bad-1", b"\xff\xfe")
    store.hset("naiseki:items", "bad-2", b'5-1|{"title": 3}')
    store.xadd("naiseki:items:log", {"something": "else"})  # also a gap: everything is read again
    http.put("/v1/items/after-garbage", json={"title": "Sea"}).raise_for_status()
    assert recommended(http, "after-garbage")
    wait_for(lambda: "naiseki_item_records_skipped 2.0" in http.get("/metrics").text)
    store.hdel("naiseki:items", "bad-1", "bad-2")
    store.close()


def test_redis_gone_refuses_changes_and_nothing_else(server: Running, world: World) -> None:
    http = server.http
    http.put("/v1/items/before", json={"title": "Sea"}).raise_for_status()
    path = server.service.changes._log._writes.connection_pool.connection_kwargs["path"]  # type: ignore[union-attr]
    store = redis.Redis(unix_socket_path=path)
    pid = int(store.info()["process_id"])
    os.kill(pid, signal.SIGSTOP)
    try:
        refused = http.put("/v1/items/during", json={"title": "Sea"})
        assert (refused.status_code, refused.json()["type"]) == (503, "/problems/not-ready")
        assert "retry-after" in refused.headers
        bulk = http.post("/v1/items/bulk", json={"items": [{"item_id": "during", "title": "Sea"}]})
        assert [one["status"] for one in bulk.json()["results"]] == [503]
        assert recommended(http, "before")
    finally:
        os.kill(pid, signal.SIGCONT)
        store.close()

    def accepted() -> bool:
        return http.put("/v1/items/afterwards", json={"title": "Hill"}).status_code == 200

    wait_for(accepted)
    assert recommended(http, "afterwards")


def test_a_version_with_a_text_tower_is_searched_by_meaning(
    world: World,
    serve: Serve,
    childless: Callable[[], AbstractContextManager[None]],
    parts_of: Callable[..., BundleParts],
    publish_parts: Callable[[ModelStore, BundleParts], str],
    tiny_base: Path,
    tmp_path: Path,
) -> None:
    parts = with_tower(parts_of("item"), tiny_base)
    store = ModelStore(tmp_path / "store")
    store.activate(publish_parts(store, parts), by="test")
    with childless(), serve(Settings(store=store.root, data=tmp_path / "data", poll_seconds=0.05)) as server:
        http = server.ready().http
        found = http.post("/v1/search", json={"text": "Item 7", "k": 3}).json()["items"]
        assert (found[0]["item_id"], found[0]["score"]) == ("item-7", pytest.approx(1.0, abs=1e-5))
        put = http.put("/v1/items/new", json={"title": "a b 7 7 Item"})
        assert set(put.json()["versions"].values()) == {"recommendable"}
        assert recommended(http, "new", history=["item-1"])
        assert http.post("/v1/search", json={"text": "a b 7 7 Item", "k": 1}).json()["items"][0]["item_id"] == "new"
        http.put("/v1/items/item-7", json={"title": "b b b b"}).raise_for_status()
        assert http.post("/v1/search", json={"text": "b b b b", "k": 1}).json()["items"][0]["item_id"] == "item-7"
        far = http.post("/v1/search", json={"text": "Item 7", "k": 100}).json()["items"]
        assert [item["item_id"] for item in far].count("item-7") == 1
        assert len(far) == 61
        for body in ({"text": ""}, {"text": "x", "k": 0}, {"text": "x" * 2001}, {"k": 1}):
            assert http.post("/v1/search", json=body).status_code == 422


def test_an_id_family_alone_refuses_new_items(http: httpx.Client) -> None:
    refused = http.put("/v1/items/new", json={"title": "New"})
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/not-possible")


def test_without_redis_nothing_is_changed(
    world: World, serve: Serve, childless: Callable[[], AbstractContextManager[None]], tmp_path: Path
) -> None:
    settings = world.settings.model_copy(update={"redis_url": "none", "data": tmp_path})
    with childless(), serve(settings) as server:
        server.ready()
        refused = server.http.put("/v1/items/x", json={"title": "X"})
        assert (refused.status_code, refused.json()["type"]) == (409, "/problems/not-possible")
        assert "NAISEKI_REDIS_URL" in refused.json()["detail"]


def test_changes_need_an_admin_key(world: World, serve: Serve, childless: Any, tmp_path: Path) -> None:
    settings = world.settings.model_copy(
        update={"api_keys": ("client",), "admin_keys": ("admin",), "data": tmp_path, "items_added": 2}
    )
    with childless(), serve(settings) as server:
        http = server.http
        keyed = {key: {"authorization": f"Bearer {key}"} for key in ("client", "admin")}
        until = time.monotonic() + 20
        while http.get("/readyz").status_code != 200:
            assert time.monotonic() < until
            time.sleep(0.02)
        for method, path, body in (
            ("PUT", "/v1/items/x", {"title": "X"}),
            ("PUT", "/v1/items?id=x", {"title": "X"}),
            ("DELETE", "/v1/items/x", None),
            ("POST", "/v1/items/bulk", {"items": [{"item_id": "x", "title": "X"}]}),
        ):
            assert http.request(method, path, json=body).status_code == 401
            assert http.request(method, path, json=body, headers=keyed["client"]).status_code == 403
        for item_id in ("x", "y", "x"):
            assert http.put(f"/v1/items/{item_id}", json={"title": "X"}, headers=keyed["admin"]).status_code == 200
        full = http.put("/v1/items/z", json={"title": "Z"}, headers=keyed["admin"])
        assert (full.status_code, full.json()["type"]) == (409, "/problems/not-possible")
        assert "NAISEKI_ITEMS_ADDED" in full.json()["detail"]
