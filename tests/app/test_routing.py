from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import cast, get_args

import pytest

from app.request_ids import LETTERS
from app.routing import Label, Loaded, Routing, Served
from model_store.bundle import Bundle


def loaded(version: str) -> Loaded:
    return Loaded(cast(Bundle, SimpleNamespace(version=version)))


def test_a_request_finds_live_by_default_and_previous_by_name() -> None:
    routing = Routing(3, loaded("b"), loaded("a"))
    found = [routing.find(version) for version in (None, "b", "a", "c")]
    assert [one and (one.version, one.label) for one in found] == [
        ("b", "live"),
        ("b", "live"),
        ("a", "previous"),
        None,
    ]
    assert Routing(1, loaded("b")).find("a") is None


def whole() -> Routing:
    return Routing(
        3,
        loaded("live"),
        loaded("previous"),
        canary=loaded("canary"),
        traffic=0.25,
        salt="salt",
        shadow=loaded("shadow"),
        others=(loaded("kept"), loaded("kept too")),
    )


def test_whatever_is_loaded_answers_who_names_it() -> None:
    routing = whole()
    for label in ("live", "previous", "canary", "shadow"):
        assert routing.route("u", label) == Served(getattr(routing, label).serving, label)
    assert routing.route(None, "kept too") == Served(routing.others[1].serving, "loaded")
    assert routing.route("u", "gone") is None
    assert len(routing.loaded()) == 6
    twice = dataclasses.replace(routing, canary=routing.previous)
    found = twice.find("previous")
    assert found is not None
    assert found.label == "previous"
    assert len(twice.loaded()) == 5, "one that carries two labels is held once"


def test_every_label_has_a_letter_of_its_own() -> None:
    assert set(LETTERS) == set(get_args(Label))
    assert len(set(LETTERS.values())) == len(LETTERS)


USERS = [f"user-{number}" for number in range(4000)]


def canaries(routing: Routing, traffic: float) -> set[str]:
    share = dataclasses.replace(routing, traffic=traffic)
    found = {user: share.route(user, None) for user in USERS}
    return {user for user, served in found.items() if served is not None and served.label == "canary"}


def test_a_growing_share_only_adds_users() -> None:
    routing, before = whole(), set[str]()
    for traffic in (0.0, 0.01, 0.05, 0.25, 0.5, 0.99, 1.0):
        now = canaries(routing, traffic)
        assert before <= now
        assert abs(len(now) / len(USERS) - traffic) < 0.03
        before = now
    assert before == set(USERS)
    assert canaries(routing, 0.25) == canaries(whole(), 0.25), "another process says the same"
    other = canaries(dataclasses.replace(routing, salt="another"), 0.25)
    assert len(other & canaries(routing, 0.25)) < 0.1 * len(USERS)


def test_who_says_no_name_is_no_canary() -> None:
    routing = dataclasses.replace(whole(), traffic=1.0)
    found = routing.route(None, None)
    assert found is not None
    assert found.label == "live"
    assert Routing(1, loaded("b"), traffic=1.0).route("u", None) is not None


def test_holding_counts_both_and_lets_go_after_an_error() -> None:
    routing = Routing(3, loaded("b"), loaded("a"))
    assert routing.previous is not None
    with routing.held(), routing.held():
        assert (routing.live.in_flight, routing.previous.in_flight) == (2, 2)
    with pytest.raises(KeyError), routing.held():
        raise KeyError
    assert (routing.live.in_flight, routing.previous.in_flight) == (0, 0)


def test_a_routing_never_changes() -> None:
    routing = Routing(3, loaded("b"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        routing.generation = 4  # type: ignore[misc]
