from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from tests.app.conftest import Running

users = (f"compared-{number}" for number in itertools.count())


def ask(http: httpx.Client, user: str, version: str | None = None) -> dict[str, Any]:
    said: dict[str, Any] = http.post("/v1/recommend", json={"user_id": user, "version": version}).json()
    return said


def click(http: httpx.Client, user: str, answer: dict[str, Any], item: str) -> None:
    event = {"user_id": user, "item_id": item, "request_id": answer["request_id"]}
    assert http.post("/v1/events", json={"events": [event]}).json()["accepted"] == 1


def test_live_against_previous_once_both_have_answered(shared: Running) -> None:
    http, routing = shared.http, shared.service.versions.current()
    assert routing.previous is not None
    a, b = routing.live.version, routing.previous.version
    for number in range(40):
        user = next(users)
        answer = ask(http, user)
        other = ask(http, user, b)
        click(http, user, other, f"alpha-{number}")
        if number == 0:
            click(http, user, answer, "beta-1")
    until = time.monotonic() + 10
    said: dict[str, Any] = {}
    while said.get("b", {}).get("clicks", 0) < 40:  # written now and then
        assert time.monotonic() < until, said
        time.sleep(0.05)
        said = http.get("/v1/compare", params={"a": a, "b": b}).json()
    assert said["verdict"].startswith(f"{b} is better than {a}: +")
    assert said["low"] > 0
    assert said["b"]["users"] == 40
    assert [one["label"] for one in said["b"]["labels"]] == ["previous"]
    assert said["click_window_seconds"] == shared.settings.click_window


def test_versions_that_never_answered_are_not_known(http: httpx.Client) -> None:
    refused = http.get("/v1/compare", params={"a": "never-seen", "b": "nor-this"})
    assert (refused.status_code, refused.json()["type"]) == (404, "/problems/unknown-version")


def test_a_name_that_is_none_is_invalid(http: httpx.Client) -> None:
    assert http.get("/v1/compare", params={"a": "../x", "b": "y"}).status_code == 422
    assert http.get("/v1/compare", params={"a": "x"}).status_code == 422
