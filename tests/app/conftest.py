"""Tiny bundles with disjoint item ids, and the real server on a free port in a thread of this process."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
import torch
import uvicorn

from app.loading import Loader
from app.main import create_app
from app.server import server_config
from app.service import Service
from app.settings import Settings
from model_store.bundle import Bundle
from model_store.catalog import ItemCatalog
from model_store.encoders.history import Encoded, HistoryBatch
from model_store.encoders.sequence import SequenceConfig
from model_store.manifest import Provenance
from model_store.preparing import prepare
from model_store.staging import BundleParts
from model_store.store import ModelStore
from tests.waiting import until

ITEMS = 60
Publish = Callable[..., str]


def make_parts(family: str, *, items: int = ITEMS, dim: int = 8, seed: int = 0) -> BundleParts:
    """Item ids are `<family>-0` and so on; every third is in category `third`; odd ones have no text."""
    generator = torch.Generator().manual_seed(seed)
    frame = pl.DataFrame(
        {
            "item_id": [f"{family}-{row}" for row in range(items)],
            "title": [f"Film {row} of {family}" for row in range(items)],
            "text": [None if row % 2 else f"About {row}" for row in range(items)],
            "categories": [["third"] if row % 3 == 0 else ["other"] for row in range(items)],
            "popularity": [(row * 7) % 11 for row in range(items)],
        }
    )
    config = SequenceConfig(items=items, dim=dim, blocks=1, heads=2, max_history=12, jump=3)
    encoder = config.build().eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    golden = HistoryBatch.of([torch.randint(0, items, (1 + b % 20,), generator=generator) for b in range(32)])
    vectors_ND = encoder.item_vectors_ND.detach().clone()
    return BundleParts(
        family=family,
        catalog=ItemCatalog(frame),
        encoder=encoder,
        item_vectors_ND=vectors_ND,
        golden_histories=golden,
        controls={"history": lambda histories: encoder(HistoryBatch.of([[0]] * len(histories)))},
    )


def publish(store: ModelStore, family: str, *, items: int = ITEMS, dim: int = 8, seed: int = 0) -> str:
    return publish_parts(store, make_parts(family, items=items, dim=dim, seed=seed))


def publish_parts(store: ModelStore, parts: BundleParts) -> str:
    provenance = Provenance(
        run="tiny", recipe={}, seed=0, dataset="none", dataset_fingerprint="none", split_fingerprint="none",
        protocol="none", packages={}, train_seconds=0.0,
    )  # fmt: skip
    return store.publish(store.stage(parts, provenance=provenance))


Serve = Callable[[Settings], AbstractContextManager["Running"]]


@dataclass
class Running:
    """A server that answers, and the parts of it for a look inside."""

    url: str
    settings: Settings
    service: Service
    http: httpx.Client

    def ready(self, seconds: float = 60.0) -> Running:
        deadline = time.monotonic() + seconds
        while self.http.get("/readyz").status_code != 200:
            assert time.monotonic() < deadline, self.service.versions.states
            time.sleep(0.02)
        return self

    @contextmanager
    def left(self, path: str, body: dict[str, Any]) -> Iterator[None]:
        """A client that has sent its request, and closes its connection at the end of the block without an answer."""
        address, content = httpx.URL(self.url), json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
        with socket.create_connection((address.host, address.port or 80), timeout=10) as connection:
            connection.sendall(head.encode() + b"\r\n\r\n" + content)
            yield


@contextmanager
def running(settings: Settings) -> Iterator[Running]:
    app = create_app(settings)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(server_config(app, settings))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        with httpx.Client(base_url=url, timeout=30) as http:
            yield Running(url, settings, app.state.service, http)
    finally:
        server.should_exit = True
        thread.join()


def prepare_here(loader: Loader, folder: Path, urgent: bool) -> Path:
    return prepare(folder, loader._cache)


@contextmanager
def without_child() -> Iterator[None]:
    """Prepares bundles in this process: a child costs seconds of imports. `test_loading` has the real one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loader, "_prepare", prepare_here)
        yield


@pytest.fixture(scope="session")
def childless() -> Callable[[], AbstractContextManager[None]]:
    return without_child


@pytest.fixture
def in_process() -> Iterator[None]:
    with without_child():
        yield


@pytest.fixture(scope="session")
def serve() -> Callable[[Settings], AbstractContextManager[Running]]:
    return running


@pytest.fixture(scope="session")
def published() -> Publish:
    return publish


@pytest.fixture(scope="session")
def parts_of() -> Callable[..., BundleParts]:
    return make_parts


@pytest.fixture(scope="session", name="publish_parts")
def publish_parts_fixture() -> Callable[[ModelStore, BundleParts], str]:
    return publish_parts


@dataclass(frozen=True)
class Pair:
    """A store where `beta` is live and `alpha` was before; their items have no id in common."""

    store: ModelStore
    alpha: str
    beta: str


def make_pair(folder: Path) -> Pair:
    store = ModelStore(folder)
    pair = Pair(store, publish(store, "alpha"), publish(store, "beta", seed=1))
    store.activate(pair.alpha, by="test")
    store.activate(pair.beta, by="test")
    return pair


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return make_pair(tmp_path / "store")


@pytest.fixture
def real_pair(tmp_path: Path, real_language_model: Callable[..., BundleParts]) -> Pair:
    """`alpha`, a SASRec, is live; beta is SmolLM2 in its place, with other items, and has no label yet."""
    store = ModelStore(tmp_path / "store")
    parts = real_language_model(keep_layers=1, items=ITEMS, dim=8, max_history=12)
    pair = Pair(store, publish(store, "alpha"), publish_parts(store, parts))
    store.activate(pair.alpha, by="test")
    return pair


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One server with both versions in memory and an embedded Redis, for tests that leave its labels as they are."""
    folder = tmp_path_factory.mktemp("service")
    make_pair(folder / "store")
    settings = Settings(store=folder / "store", data=folder / "data", poll_seconds=0.05)
    with ExitStack() as stack:
        with without_child():
            server = stack.enter_context(running(settings)).ready()
            while server.service.versions.current().previous is None:
                time.sleep(0.02)
        yield server


@pytest.fixture
def http(shared: Running) -> httpx.Client:
    return shared.http


@pytest.fixture(scope="session")
def beta(shared: Running) -> Bundle:
    """What the shared server serves as live, opened a second time: an answer over HTTP must equal its `retrieve`."""
    live = shared.service.versions.current().live.version
    return ModelStore(shared.settings.store).open(live)


class Held:
    """The inference thread stays in its batch until the gate opens."""

    def __init__(self) -> None:
        self.entered, self.gate, self.on = threading.Event(), threading.Event(), False


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    held, encode = Held(), Bundle.encode

    def slow(self: Bundle, histories: HistoryBatch, states: Any = None) -> Encoded:
        if held.on:
            held.entered.set()
            assert held.gate.wait(20)
        return encode(self, histories, states)

    monkeypatch.setattr(Bundle, "encode", slow)
    yield held
    held.gate.set()


@contextmanager
def overloaded(
    serve: Serve, store: ModelStore, held: Held, *, headers: dict[str, str] | None = None, **more: Any
) -> Iterator[tuple[Running, list[Future[Any]]]]:
    """One request is being computed and as many wait as may: of "gamma", each with a history of three items.

    headers: of every request, also of those that are sent within the block. more: settings.
    """
    told: dict[str, Any] = {"redis_url": "none", "queue_tokens": 6, "hang_seconds": 60, **more}
    settings = Settings(store=store.root, data=store.root / "data", **told)
    with serve(settings) as server, ThreadPoolExecutor(4) as pool:
        server.ready()
        server.http.headers.update(headers or {})
        held.on = True

        def ask(first: int) -> Any:
            return server.http.post("/v1/recommend", json={"history": [f"gamma-{first + n}" for n in range(3)]})

        asked = [pool.submit(ask, 10)]
        assert held.entered.wait(10)
        asked += [pool.submit(ask, first) for first in (20, 30)]
        until(lambda: server.service.batcher.depth == 2)
        yield server, asked
        held.gate.set()
        assert [one.result().status_code for one in asked] == [200] * 3
        assert {one.result().json()["fallback"] for one in asked} == {None}
