from __future__ import annotations

import re
from typing import TYPE_CHECKING

import httpx
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from tests.app.conftest import Running


def test_ready_says_what_is_served(http: httpx.Client, shared: Running) -> None:
    assert http.get("/livez").json() == {"status": "alive"}
    routing = shared.service.versions.current()
    expected = {"status": "ready", "version": routing.live.version, "generation": 2, "degraded": None}
    assert http.get("/readyz").json() == expected


def test_draining_is_not_ready_but_answers(http: httpx.Client, shared: Running) -> None:
    shared.service.draining = True
    try:
        refused = http.get("/readyz")
        assert (refused.status_code, refused.json()["type"]) == (503, "/problems/not-ready")
        assert int(refused.headers["retry-after"]) >= 1
        assert http.post("/v1/recommend", json={"history": ["beta-1"]}).status_code == 200
    finally:
        shared.service.draining = False


def test_metrics_are_of_one_namespace(http: httpx.Client, shared: Running) -> None:
    http.post("/v1/recommend", json={"history": ["beta-1", "beta-2"]})
    http.post("/v1/recommend", json={})
    http.get("/nowhere/at/all")
    families = {family.name: family for family in text_string_to_metric_families(http.get("/metrics").text)}
    assert all(name.startswith("naiseki_") for name in families)
    version = shared.service.versions.current().live.version
    for stage in ("queue", "encode", "search", "rank"):
        labels = [sample.labels for sample in families[f"naiseki_{stage}_seconds"].samples]
        assert any(one["version"] == version and one["label"] == "live" for one in labels)
        assert all("route" not in one for one in labels)
    routes = {sample.labels["route"] for sample in families["naiseki_request_seconds"].samples}
    assert "/v1/recommend" in routes
    assert not any(re.search("nowhere", route) for route in routes), "what clients type is no label"
    states = {
        (sample.labels["version"], sample.labels["state"])
        for sample in families["naiseki_version_state"].samples
        if sample.value == 1
    }
    assert (version, "READY") in states
    reasons = {sample.labels["reason"] for sample in families["naiseki_fallbacks"].samples}
    assert "empty_history" in reasons
    assert {"naiseki_queue_depth", "naiseki_redis_errors", "naiseki_redis_breaker_open"} <= set(families)
