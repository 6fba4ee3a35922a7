"""Labels over HTTP, with the real server, store and bundles."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import pytest

from app.routing import in_share
from app.settings import Settings

if TYPE_CHECKING:
    from tests.app.conftest import Pair, Running

Published = Callable[..., str]
USERS = [f"u{number}" for number in range(40)]


@pytest.fixture
def server(
    pair: Pair, in_process: None, serve: Callable[[Settings], AbstractContextManager[Running]]
) -> Iterator[Running]:
    """Looks at the labels only when hinted; every live answer has a copy for a shadow."""
    settings = Settings(
        store=pair.store.root, data=pair.store.root / "data", redis_url="none", poll_seconds=600, shadow_share=1.0
    )
    with serve(settings) as running:
        yield running.ready()


def put(server: Running, label: str, version: str, *, status: int = 200, **body: Any) -> dict[str, Any]:
    answer = server.http.put(f"/v1/labels/{label}", params={"wait": 30}, json={"version": version, **body})
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


def answered_as(server: Running, user: str | None, family: str = "beta") -> str:
    body = {"history": [f"{family}-1", "gamma-1"], **({"user_id": user} if user else {})}
    answer = server.http.post("/v1/recommend", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["request_id"].startswith(answer.json()["label"][0])
    return str(answer.json()["label"])


def test_a_canary_is_sticky_and_grows_and_goes(server: Running, pair: Pair, published: Published) -> None:
    gamma = published(pair.store, "gamma", seed=2)
    serving = put(server, "canary", gamma, traffic=0.2)["serving"]
    assert serving["canary"] == {"version": gamma, "traffic": 0.2}
    assert serving["live"] == pair.beta
    salt = pair.store.labels().salt
    before = {user for user in USERS if answered_as(server, user) == "canary"}
    assert before == {user for user in USERS if in_share(salt, user, 0.2)}
    assert 0 < len(before) < len(USERS)
    put(server, "canary", gamma, traffic=0.6)
    assert before < {user for user in USERS if answered_as(server, user) == "canary"}
    assert answered_as(server, None) == "live"
    put(server, "canary", gamma, traffic=1.0)
    batch = server.http.post(
        "/v1/recommend/batch", json={"requests": [{"user_id": "u1"}, {}, {"user_id": "u1", "version": pair.beta}]}
    )
    assert [one["answer"]["label"] for one in batch.json()["results"]] == ["canary", "live", "live"]
    gone = server.http.delete("/v1/labels/canary", params={"wait": 30})
    assert (gone.status_code, gone.json()["serving"]["canary"]) == (200, None)
    assert {answered_as(server, user) for user in USERS} == {"live"}


def test_a_canary_that_is_promoted_is_live_at_once(server: Running, pair: Pair, published: Published) -> None:
    gamma = published(pair.store, "gamma", seed=2)
    put(server, "canary", gamma, traffic=0.5)
    serving = put(server, "live", gamma)["serving"]
    assert (serving["live"], serving["previous"], serving["canary"]) == (gamma, pair.beta, None)


@pytest.mark.parametrize("label", ["canary", "shadow"])
def test_a_broken_trial_holds_back_no_other_label(
    server: Running, pair: Pair, published: Published, label: str
) -> None:
    bad, gamma = published(pair.store, "bad", seed=3), published(pair.store, "gamma", seed=2)
    (pair.store.folder(bad) / "items.faiss").write_bytes(b"nonsense")
    share = {"traffic": 0.5} if label == "canary" else {}
    refused = put(server, label, bad, status=409, **share)
    assert refused["type"] == "/problems/not-possible"
    assert "items.faiss" in refused["detail"]
    serving = put(server, "live", gamma)["serving"]
    assert (serving["live"], serving[label], serving["degraded"]) == (gamma, None, None)
    # Labels of a new generation: it is tried once more, and fails once more.
    while label not in (answer := server.http.get("/v1/models").json())["serving"]["failed"]:
        time.sleep(0.02)
    assert "items.faiss" in answer["serving"]["failed"][label]
    assert {model["version"]: model["state"] for model in answer["models"]}[bad] == "FAILED"
    assert f'naiseki_label_failed{{label="{label}"}} 1.0' in server.http.get("/metrics").text
    assert answered_as(server, "u1", "gamma") == "live"
    assert server.http.get("/readyz").json()["degraded"] is None


def test_previous_can_be_chosen_and_taken_away(server: Running, pair: Pair, published: Published) -> None:
    gamma = published(pair.store, "gamma", seed=2)
    assert put(server, "previous", gamma)["serving"]["previous"] == gamma
    gone = server.http.delete("/v1/labels/previous", params={"wait": 30})
    assert (gone.status_code, gone.json()["serving"]["previous"]) == (200, None)
    assert server.http.post("/v1/rollback").status_code == 409


def test_a_shadow_answers_copies_and_nobody_sees_it(server: Running, pair: Pair, published: Published) -> None:
    twin = published(pair.store, "beta", seed=1)
    assert put(server, "shadow", twin)["serving"]["shadow"] == twin
    compared = 'naiseki_shadow_copies_total{outcome="compared"}'
    while compared not in server.http.get("/metrics").text:
        answer = server.http.post("/v1/recommend", json={"history": ["beta-1", "beta-2"], "k": 5})
        assert (answer.status_code, answer.json()["version"]) == (200, pair.beta)
    metrics = server.http.get("/metrics").text
    series = {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in metrics.splitlines() if line[0] != "#"
    }
    count = series[f'naiseki_shadow_agreement_count{{version="{twin}"}}']
    assert count >= 1
    assert series[f'naiseki_shadow_agreement_sum{{version="{twin}"}}'] == count, "the same model agrees with itself"
    assert not any("naiseki_impressions" in name and twin in name for name in series)


def test_what_is_refused(server: Running, pair: Pair) -> None:
    for label, body in (("canary", {}), ("live", {"traffic": 0.5}), ("shadow", {"traffic": 0.5})):
        refused = put(server, label, pair.alpha, status=422, **body)
        assert refused["errors"] == [{"pointer": "/traffic", "reason": refused["errors"][0]["reason"]}]
    for traffic in (-0.1, 1.1, "much", None, True):
        put(server, "canary", pair.alpha, status=422, traffic=traffic)
    put(server, "canary", pair.beta, status=409, traffic=0.5)  # it is live
    put(server, "shadow", "20200101t000000-none-000000000000", status=404)
    put(server, "staging", pair.alpha, status=422)
    http = server.http
    assert http.delete("/v1/labels/live").status_code == 409
    assert http.delete("/v1/labels/shadow", params={"expected_generation": 1}).status_code == 409
    assert http.post("/v1/rollback", params={"expected_generation": 1}).status_code == 409
    assert pair.store.labels().generation == 2
    assert len(http.get("/v1/audit").json()["changes"]) == 3, "what is refused is not told as done"


def test_a_label_of_somebody_else_does_not_end_a_wait(server: Running, pair: Pair, published: Published) -> None:
    gamma = published(pair.store, "gamma", seed=2)
    assert server.http.put("/v1/labels/canary", json={"version": gamma, "traffic": 0.5}).status_code == 202
    put(server, "shadow", pair.alpha)
    assert put(server, "live", pair.alpha)["serving"]["live"] == pair.alpha


def test_the_audit_tells_who_moved_what(server: Running, pair: Pair) -> None:
    put(server, "live", pair.alpha, by="ann")
    put(server, "canary", pair.beta, traffic=0.25)
    changes = server.http.get("/v1/audit", params={"limit": 2}).json()["changes"]
    at = {change.pop("at") for change in changes}
    assert all(time.endswith("Z") for time in at)
    assert changes == [
        {"generation": 4, "by": "api", "label": "canary", "from": None, "to": pair.beta, "traffic": 0.25},
        {"generation": 3, "by": "api:ann", "label": "previous", "from": pair.alpha, "to": pair.beta, "traffic": None},
    ]
    with (pair.store.root / "audit.jsonl").open("a") as file:
        file.write('{"generation": 5, "la')
    assert len(server.http.get("/v1/audit").json()["changes"]) == 6
    for limit in (0, 1001, "many"):
        assert server.http.get("/v1/audit", params={"limit": limit}).status_code == 422
    assert json.loads((pair.store.root / "audit.jsonl").read_text().splitlines()[0])["by"] == "test"
