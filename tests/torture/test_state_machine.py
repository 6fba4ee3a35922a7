"""Random sequences of swaps, label moves, events and item changes: the service agrees with a simple model of itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from app.settings import Settings
from model_store.store import ModelStore
from tests.torture.figures import Figures

if TYPE_CHECKING:
    from tests.app.conftest import Publish, Running

FAMILIES = ("alpha", "beta", "gamma")
USERS = ("ann", "bob")
EXAMPLES, STEPS = 150, 40
SHORT_EXAMPLES, SHORT_STEPS = 6, 15
ROWS = st.integers(0, 7)  # few, so that events repeat and items come back


class Agreement(RuleBasedStateMachine):
    """One server for all examples, each with users of its own, the same labels at its start, and every item there."""

    server: Running
    versions: dict[str, str]
    examples: Iterator[int]
    changes_items: bool

    def __init__(self) -> None:
        super().__init__()
        self.http = self.server.http
        self.example = next(self.examples)
        self.generation = self.http.get("/v1/models").json()["wanted"]["generation"]
        self.live = self.previous = ""
        for family in FAMILIES:
            self.swap(family)
        self.titles: dict[str, str] = {}
        self.removed: set[str] = set()
        self.events: dict[str, dict[tuple[int, str], int]] = {user: {} for user in USERS}
        self.known_ids: set[tuple[str, str]] = set()
        self.arrivals = 0

    def teardown(self) -> None:
        for family in {item.partition("-")[0] for item in self.removed}:
            self.swap(family)
            for item in [item for item in self.removed if item.startswith(f"{family}-")]:
                assert self.http.put("/v1/items", params={"id": item}, json={"title": item}).status_code == 200

    def user(self, name: str) -> str:
        return f"{name}-{self.example}"

    def history(self, name: str) -> list[str]:
        """By time, then by arrival."""
        events = self.events[name]
        return [item for _, item in sorted(events, key=lambda event: (event[0], events[event]))]

    def family(self, version: str) -> str:
        return next(family for family, known in self.versions.items() if known == version)

    @rule(family=st.sampled_from(FAMILIES))
    def swap(self, family: str) -> None:
        version = self.versions[family]
        body = {"version": version, "expected_generation": self.generation}
        answer = self.http.put("/v1/labels/live?wait=60", json=body)
        assert answer.status_code == 200, answer.text
        if version != self.live:
            self.previous, self.live = self.live, version
        self.generation += 1

    @rule(family=st.sampled_from(FAMILIES), behind=st.integers(1, 3))
    def lose_a_race(self, family: str, behind: int) -> None:
        body = {"version": self.versions[family], "expected_generation": max(0, self.generation - behind)}
        assert self.http.put("/v1/labels/live", json=body).status_code == 409

    @rule()
    def ask_for_an_unknown_version(self) -> None:
        assert self.http.put("/v1/labels/live", json={"version": "no-such-version"}).status_code == 404
        assert self.http.post("/v1/recommend", json={"version": "no-such-version"}).status_code == 404

    @precondition(lambda self: self.previous is not None)
    @rule()
    def roll_back(self) -> None:
        assert self.http.post("/v1/rollback?wait=60").status_code == 200
        self.live, self.previous = self.previous, self.live
        self.generation += 1

    @rule(
        name=st.sampled_from(USERS),
        events=st.lists(
            st.tuples(st.sampled_from(FAMILIES), ROWS, st.integers(1, 5), st.none() | st.integers(0, 3)),
            min_size=1, max_size=5,
        ),
    )  # fmt: skip
    def record(self, name: str, events: list[tuple[str, int, int, int | None]]) -> None:
        sent: list[dict[str, Any]] = []
        accepted = 0
        for family, row, timestamp, event_id in events:
            item = f"{family}-{row}"
            event = {"user_id": self.user(name), "item_id": item, "timestamp": timestamp}
            sent.append(event if event_id is None else event | {"event_id": f"e{event_id}"})
            repeated = event_id is not None and (name, f"e{event_id}") in self.known_ids
            if event_id is not None:
                self.known_ids.add((name, f"e{event_id}"))
            if not repeated and (timestamp, item) not in self.events[name]:
                self.arrivals += 1
                self.events[name][timestamp, item] = self.arrivals
                accepted += 1
        answer = self.http.post("/v1/events", json={"events": sent}).json()
        told = (answer["accepted"], answer["duplicate"], answer["old"], answer["refused"])
        assert told == (accepted, len(events) - accepted, 0, []), answer

    @rule(name=st.sampled_from(USERS))
    def forget(self, name: str) -> None:
        assert self.http.delete("/v1/history", params={"user_id": self.user(name)}).status_code == 200
        self.events[name] = {}

    @precondition(lambda self: self.changes_items)
    @rule(row=ROWS, family=st.sampled_from(FAMILIES))
    def remove_an_item(self, row: int, family: str) -> None:
        item = f"{family}-{row}"
        status = self.http.delete("/v1/items", params={"id": item}).status_code
        assert status in (200, 404)
        if item in self.removed or self.is_served(family):
            assert status == (404 if item in self.removed else 200)
        if status == 200:
            self.removed.add(item)

    @precondition(lambda self: self.changes_items)
    @rule(row=ROWS, family=st.sampled_from(FAMILIES), title=st.sampled_from(("old", "new")))
    def put_an_item(self, row: int, family: str, title: str) -> None:
        """These versions know items by their ids: one that none of them knows is refused."""
        item = f"{family}-{row}"
        status = self.http.put("/v1/items", params={"id": item}, json={"title": title}).status_code
        assert status == 200 if self.is_served(family) else status in (200, 409)
        if status == 200:
            self.removed.discard(item)
            self.titles[item] = title

    def is_served(self, family: str) -> bool:
        return self.versions[family] == self.live

    @precondition(lambda self: self.changes_items)
    @rule(row=ROWS)
    def look_up(self, row: int) -> None:
        item = f"{self.family(self.live)}-{row}"
        told = self.http.post("/v1/items/lookup", json={"ids": [item]}).json()
        if item in self.removed:
            assert (told["items"], told["unknown"]) == ([], [item])
        else:
            assert [one["item_id"] for one in told["items"]] == [item]
            assert item not in self.titles or told["items"][0]["title"] == self.titles[item]

    @rule(name=st.sampled_from(USERS), k=st.integers(1, 60), of_previous=st.booleans())
    def recommend(self, name: str, k: int, of_previous: bool) -> None:
        body: dict[str, Any] = {"user_id": self.user(name), "k": k}
        version = self.live
        if of_previous and self.in_memory(self.previous):
            version = self.previous
            body["version"] = version
        answer = self.http.post("/v1/recommend", json=body).json()
        history, family = self.history(name), self.family(version)
        known = {item for item in history if item.startswith(f"{family}-")}  # a removed one is still what was chosen
        items = [item["item_id"] for item in answer["items"]]
        assert answer["version"] == version
        assert answer["label"] == ("live" if version == self.live else "previous")
        assert all(item.startswith(f"{family}-") for item in items)
        assert not set(items) & (known | self.removed)
        assert len(items) == len(set(items))
        assert answer["exhausted"] == (len(items) < k)
        reason = None if known else "unknown_items" if history else "new_user"
        assert (answer["fallback"], answer["fallback_reason"]) == ("popular" if reason else None, reason)

    def in_memory(self, version: str | None) -> bool:
        states = {one["version"]: one["state"] for one in self.http.get("/v1/models").json()["models"]}
        return version is not None and version != self.live and states[version] == "READY"

    @invariant()
    def labels_agree(self) -> None:
        told = self.http.get("/v1/models").json()
        wanted = told["wanted"]
        assert (wanted["live"], wanted["previous"], wanted["generation"]) == (self.live, self.previous, self.generation)
        assert told["serving"]["live"] == self.live

    @invariant()
    def histories_agree(self) -> None:
        for name in USERS:
            told = self.http.get("/v1/history", params={"user_id": self.user(name)}).json()["events"]
            assert [event["item_id"] for event in told] == self.history(name)


@pytest.mark.usefixtures("in_process")
def test_service_and_model_agree(
    tmp_path: Path,
    published: Publish,
    serve: Callable[[Settings], AbstractContextManager[Running]],
    full: bool,
    figures: Figures,
) -> None:
    store = ModelStore(tmp_path / "store")
    versions = {family: published(store, family, seed=seed) for seed, family in enumerate(FAMILIES)}
    store.activate(versions["alpha"], by="torture")
    with serve(Settings(store=store.root, data=tmp_path / "data", poll_seconds=0.05)) as server:
        server.ready()
        routes = server.http.get("/openapi.json").json()["paths"]
        members = {"server": server, "versions": versions, "examples": iter(range(10**6))}
        machine = type("Machine", (Agreement,), members | {"changes_items": "delete" in routes.get("/v1/items", {})})
        figures.tell("state machine: divergences", 1)  # until it has come through
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=EXAMPLES if full else SHORT_EXAMPLES,
                stateful_step_count=STEPS if full else SHORT_STEPS,
                deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck),
            ),
        )  # fmt: skip
        figures.tell("state machine: divergences", 0)
