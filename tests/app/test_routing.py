from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import cast

import pytest

from app.routing import Loaded, Routing
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
