"""Light answers: what they are, and that they come before a refusal."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from app.light import Light
from app.serving import Serving
from app.settings import Settings
from app.work import Urgency
from model_store.bundle import Bundle
from model_store.encoders.history import HistoryBatch
from model_store.encoders.sequence import SequenceConfig
from model_store.retrieval import Want
from model_store.staging import BundleParts
from model_store.store import ModelStore
from tests.app.conftest import Held, Serve, make_parts, overloaded, publish_parts
from tests.app.test_work import Backwards
from tests.waiting import until

if TYPE_CHECKING:
    from pathlib import Path


HISTORY = ["gamma-1", "gamma-2", "gamma-3"]
ROWS = [1, 2, 3]


def light_parts() -> BundleParts:
    """As an iLoRA is: another encoder answers in the same items, with a shorter window of its own."""
    parts = make_parts("gamma")
    torch.manual_seed(5)
    light = SequenceConfig(items=60, dim=8, blocks=1, heads=1, max_history=4, jump=1).build().eval()
    with torch.no_grad():
        light.items.weight.copy_(parts.item_vectors_ND)
    return dataclasses.replace(parts, fallback=light)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    made = ModelStore(tmp_path / "store")
    made.activate(publish_parts(made, light_parts()), by="test")
    return made


@pytest.fixture
def gamma(store: ModelStore) -> Bundle:
    return store.open(store.labels().live or "")


def expected(bundle: Bundle, rows: list[int], want: Want) -> Any:
    return bundle.search(bundle.encode_light(HistoryBatch.of([rows])), [dataclasses.replace(want, rerank=False)])[0]


def test_a_batch_of_light_work_answers_as_the_light_encoder_does(gamma: Bundle) -> None:
    histories = [[1, 2, 3], [5], list(range(30)), [5]]
    wants = [Want(k, excluded_rows=np.array([k])) for k in (5, 6, 7, 8)]
    entries = [Light.of(Serving.of(gamma), rows, want) for rows, want in zip(histories, wants, strict=True)]
    assert all(entry is not None and entry.urgency is Urgency.LIGHT for entry in entries)
    assert [entry.tokens for entry in entries if entry] == [3, 1, 4, 1], "its own window, not the encoder's"
    found = Light.run(gamma, [entry for entry in entries if entry])
    for one, rows, want in zip(found, histories, wants, strict=True):
        light = expected(gamma, rows, want)
        np.testing.assert_array_equal(one.candidates.rows, light.rows)
        np.testing.assert_allclose(one.candidates.scores, light.scores, rtol=1e-5)


def test_where_the_ranker_is_heavy_the_search_alone_is_light(beta: Bundle) -> None:
    ranked = dataclasses.replace(beta, ranker=Backwards())
    light = Light.of(Serving.of(ranked), [1, 2], Want(5))
    assert light is not None
    assert not light.want.rerank
    np.testing.assert_array_equal(
        Light.run(ranked, [light])[0].candidates.rows, beta.retrieve(HistoryBatch.of([[1, 2]]), [Want(5)])[0].rows
    )
    assert Light.of(Serving.of(ranked), [1, 2], Want(5, rerank=False)) is None, "it is light already"
    assert Light.of(Serving.of(beta), [1, 2], Want(5)) is None


@pytest.mark.usefixtures("in_process")
def test_a_light_answer_comes_before_a_refusal(serve: Serve, store: ModelStore, held: Held, gamma: Bundle) -> None:
    with overloaded(serve, store, held) as (server, _), ThreadPoolExecutor(2) as pool:
        body = {"history": HISTORY, "k": 7, "exclude_ids": ["gamma-9"]}
        single = pool.submit(lambda: server.http.post("/v1/recommend", json=body))
        batch = pool.submit(lambda: server.http.post("/v1/recommend/batch", json={"requests": [body, {}]}))
        until(lambda: server.service.batcher.depth >= 4, seconds=10)
        held.gate.set()
        answer = single.result().json()
        assert (answer["fallback"], answer["fallback_reason"]) == ("light", "overloaded")
        want = Want(7, excluded_rows=np.array([1, 2, 3, 9]))
        rows = expected(gamma, ROWS, want).rows.tolist()
        assert [item["item_id"] for item in answer["items"]] == [f"gamma-{row}" for row in rows]
        first, second = batch.result().json()["results"]
        assert first["answer"]["items"] == answer["items"]
        assert (second["answer"]["fallback"], second["answer"]["fallback_reason"]) == ("popular", "empty_history")
        text = server.http.get("/metrics").text
        assert 'naiseki_fallbacks_total{reason="overloaded"} 2.0' in text
        assert "naiseki_rejects_total{" not in text


@pytest.mark.usefixtures("in_process")
def test_without_a_light_encoder_the_refusal_comes_at_once(serve: Serve, tmp_path: Path, held: Held) -> None:
    store = ModelStore(tmp_path / "plain")
    store.activate(publish_parts(store, make_parts("gamma")), by="test")
    with overloaded(serve, store, held) as (server, _):
        refused = server.http.post("/v1/recommend", json={"history": HISTORY})
        assert (refused.status_code, refused.json()["type"]) == (429, "/problems/overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        batch = server.http.post("/v1/recommend/batch", json={"requests": [{"history": HISTORY}, {}]})
        assert [one["status"] for one in batch.json()["results"]] == [429, 200]
        impatient = server.http.post("/v1/items/similar", json={"item_id": "gamma-1"})
        assert impatient.status_code == 429
        assert 'naiseki_rejects_total{reason="overloaded"} 3.0' in server.http.get("/metrics").text


@pytest.mark.usefixtures("in_process")
def test_a_deadline_is_kept_to_in_single_and_batch_calls(serve: Serve, store: ModelStore, held: Held) -> None:
    settings = Settings(store=store.root, data=store.root / "data", redis_url="none", hang_seconds=60)
    with serve(settings) as server:
        server.ready()
        held.on = True
        body = {"history": HISTORY, "timeout_ms": 100}
        late = server.http.post("/v1/recommend", json=body)
        assert (late.status_code, late.json()["type"]) == (504, "/problems/deadline")
        batch = server.http.post("/v1/recommend/batch", json={"requests": [body, {"timeout_ms": 100}]})
        assert [one["status"] for one in batch.json()["results"]] == [504, 200]
        held.gate.set()
        assert server.http.post("/v1/recommend", json={"history": HISTORY}).status_code == 200


@pytest.mark.usefixtures("in_process")
def test_a_batch_call_whose_client_has_gone_is_never_computed(serve: Serve, store: ModelStore, held: Held) -> None:
    settings = Settings(store=store.root, data=store.root / "data", redis_url="none", hang_seconds=60)
    with serve(settings) as server, ThreadPoolExecutor(1) as pool:
        server.ready()
        held.on = True
        first = pool.submit(lambda: server.http.post("/v1/recommend", json={"history": HISTORY}))
        assert held.entered.wait(10)
        requests = [{"history": [f"gamma-{n}"]} for n in range(45)]
        with server.left("/v1/recommend/batch", {"requests": requests}):
            until(lambda: server.service.batcher.depth == 45)
        until(lambda: server.service.versions.current().live.in_flight == 1)  # the server has noticed
        held.gate.set()
        assert first.result().status_code == 200
        assert server.http.post("/v1/recommend", json={"history": HISTORY}).status_code == 200
        assert "naiseki_dropped_entries_total 45.0" in server.http.get("/metrics").text
        assert not server.service.versions.current().live.in_flight
