"""Under overload: what is refused before it is looked at closely, and who must not notice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import httpx
import pytest

import app.recommender
from model_store.store import ModelStore
from tests.app.conftest import Held, Serve, make_parts, overloaded, publish_parts

if TYPE_CHECKING:
    from pathlib import Path


JSON = {"content-type": "application/json"}
pytestmark = pytest.mark.usefixtures("in_process")


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    made = ModelStore(tmp_path / "store")
    made.activate(publish_parts(made, make_parts("gamma")), by="test")
    return made


def test_a_certain_refusal_makes_no_work_and_is_counted(
    serve: Serve, store: ModelStore, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    with overloaded(serve, store, held) as (server, _):
        monkeypatch.setattr(app.recommender, "_want", None)  # whoever gets there fails
        refused = server.http.post("/v1/recommend", json={"history": ["gamma-1"]})
        assert (refused.status_code, refused.json()["type"]) == (429, "/problems/overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["request_id"] == refused.headers["x-request-id"]
        monkeypatch.undo()
        told = server.http.get("/metrics").text
        assert 'naiseki_rejects_total{reason="overloaded"} 1.0' in told
        assert 'naiseki_requests_total{route="/v1/recommend",status="429"} 1.0' in told


def test_what_needs_no_model_is_answered_and_what_is_wrong_is_told(serve: Serve, store: ModelStore, held: Held) -> None:
    with overloaded(serve, store, held) as (server, _):

        def status(body: object) -> int:
            return server.http.post("/v1/recommend", json=body).status_code

        assert status({"history": ["nobody-knows"]}) == 200
        assert status({}) == 200
        assert status({"history": ["gamma-1"], "k": 0}) == 422
        assert status({"history": ["gamma-1"], "version": "20260101t000000-none-000000000000"}) == 404
        plain = server.http.post("/v1/recommend", content=b'{"history": ["gamma-1"', headers=JSON)
        assert plain.status_code == 400
        assert status({"history": ["gamma-1"]}) == 429


def test_a_body_in_pieces_is_put_together_again(serve: Serve, store: ModelStore, held: Held) -> None:
    def pieces(body: object) -> Iterator[bytes]:
        whole = json.dumps(body).encode()
        yield whole[:5]
        yield whole[5:]

    with overloaded(serve, store, held) as (server, _):
        answers = [
            server.http.post("/v1/recommend", content=pieces({"history": [item]}), headers=JSON)
            for item in ("gamma-1", "nobody-knows")
        ]
        assert [one.status_code for one in answers] == [429, 200]
        assert answers[1].json()["unknown_items"] == ["nobody-knows"]


def test_who_has_no_key_hears_of_that(serve: Serve, store: ModelStore, held: Held) -> None:
    key = {"authorization": "Bearer a-client-key"}
    with overloaded(serve, store, held, headers=key, api_keys=("a-client-key",)) as (server, _):
        body = {"history": ["gamma-1"]}
        assert httpx.post(f"{server.url}/v1/recommend", json=body).status_code == 401
        assert server.http.post("/v1/recommend", json=body, headers={"authorization": "Bearer no"}).status_code == 401
        assert server.http.post("/v1/recommend", json=body).status_code == 429
