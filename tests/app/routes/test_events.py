from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from tests.app.conftest import Running

users = (f"someone-{number}" for number in itertools.count())


def send(http: httpx.Client, *events: dict[str, Any]) -> dict[str, Any]:
    answer = http.post("/v1/events", json={"events": list(events)})
    assert answer.status_code == 200, answer.text
    said: dict[str, Any] = answer.json()
    return said


def test_events_become_the_history_in_order_of_time(http: httpx.Client) -> None:
    user = next(users)
    said = send(
        http,
        {"user_id": user, "item_id": "b", "timestamp": 2000},
        {"user_id": user, "item_id": "a", "timestamp": "1970-01-01T01:00:01+01:00"},
        {"user_id": user, "item_id": "b", "timestamp": 2000},
    )
    assert said == {"accepted": 2, "duplicate": 1, "old": 0, "refused": []}
    expected = [{"item_id": "a", "timestamp": 1000}, {"item_id": "b", "timestamp": 2000}]
    assert http.get("/v1/history", params={"user_id": user}).json() == {"user_id": user, "events": expected}
    newest = http.get(f"/v1/users/{user}/history", params={"limit": 1}).json()
    assert newest["events"] == expected[1:]


def test_without_a_timestamp_it_is_the_time_of_arrival(http: httpx.Client) -> None:
    user, before = next(users), time.time() * 1000 - 1
    event = {"user_id": user, "item_id": "x", "event_id": f"{user}-once"}
    assert send(http, event)["accepted"] == 1
    assert send(http, event)["duplicate"] == 1
    (stored,) = http.get("/v1/history", params={"user_id": user}).json()["events"]
    assert before <= stored["timestamp"] <= time.time() * 1000 + 1


def test_an_event_from_the_future_is_refused_and_the_others_stand(http: httpx.Client) -> None:
    user = next(users)
    soon = int(time.time() * 1000) + 4 * 60_000
    said = send(
        http,
        {"user_id": user, "item_id": "a", "timestamp": soon + 3 * 60_000},
        {"user_id": user, "item_id": "b", "timestamp": soon},
        {"user_id": user, "item_id": "c", "timestamp": "2999-01-01T00:00:00Z"},
    )
    assert said["accepted"] == 1
    assert [(one["index"], one["problem"]["type"]) for one in said["refused"]] == [
        (0, "/problems/invalid"),
        (2, "/problems/invalid"),
    ]


@pytest.mark.parametrize("user", ["a/b", "ein Leerzeichen", "名前", "%2F", "a?b#c", "🙂" * 64])
def test_any_id_travels_in_the_canonical_form(http: httpx.Client, user: str) -> None:
    send(http, {"user_id": user, "item_id": "x", "timestamp": 5})
    history = http.get("/v1/history", params={"user_id": user}).json()
    assert history == {"user_id": user, "events": [{"item_id": "x", "timestamp": 5}]}
    assert http.delete("/v1/history", params={"user_id": user}).json() == {"user_id": user, "forgotten": 1}
    assert http.get("/v1/history", params={"user_id": user}).json()["events"] == []


def test_forgetting_by_path(http: httpx.Client) -> None:
    user = next(users)
    send(http, {"user_id": user, "item_id": "x", "timestamp": 5})
    assert http.delete(f"/v1/users/{user}/history").json()["forgotten"] == 1
    assert http.delete(f"/v1/users/{user}/history").json()["forgotten"] == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"item_id": ""},
        {"item_id": "x" * 257},
        {"item_id": "é" * 129},
        {"item_id": "a\x00b"},
        {"item_id": "a\x85"},
        {"item_id": 5},
        {"timestamp": True},
        {"timestamp": 1.5},
        {"timestamp": -1},
        {"timestamp": 10**400},
        {"timestamp": "yesterday"},
        {"timestamp": "2024-01-01"},
        {"timestamp": "2024-01-01T00:00:00"},
        {"timestamp": "2024-02-30T00:00:00Z"},
        {"timestamp": "1900-01-01T00:00:00Z"},
        {"surprise": 1},
    ],
)
def test_a_wrong_field_is_named(http: httpx.Client, wrong: dict[str, Any]) -> None:
    event = {"user_id": "u", "item_id": "i", **wrong}
    refused = http.post("/v1/events", json={"events": [{"user_id": "u", "item_id": "i"}, event]})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == f"/events/1/{next(iter(wrong))}"


def test_an_event_that_names_its_answer_counts_as_a_click(http: httpx.Client, shared: Running) -> None:
    answer = http.post("/v1/recommend", json={"history": ["beta-1"]}).json()

    def clicks() -> float:
        labels = {"version": answer["version"], "label": "live"}
        return shared.service.metrics.registry.get_sample_value("naiseki_clicks_total", labels) or 0.0

    before, user = clicks(), next(users)
    event = {"user_id": user, "item_id": "beta-9", "timestamp": 7, "request_id": answer["request_id"]}
    send(http, event)
    send(http, event)
    send(http, {**event, "item_id": "beta-10", "request_id": "what is this"})
    until = time.monotonic() + 10  # counted off the request path
    while clicks() == before and time.monotonic() < until:
        time.sleep(0.02)
    assert clicks() - before == 1
