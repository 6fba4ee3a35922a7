"""Clients that write events until told to stop, repeat what was not acknowledged, and remember what was."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.torture.http_connection import Answer, Connections, request_bytes

EVENTS_PER_CALL, EVENTS_PER_USER = 10, 200


@dataclass
class EventWriters:
    """acknowledged: user -> item ids in the order in which they were acknowledged, each item id used once.

    Half of the clients send no timestamp: then only the event's id makes a repetition harmless.
    again: seconds before a call is repeated; None = what was refused is left.
    """

    port: int
    clients: int = 8
    again: float | None = 0.05
    acknowledged: dict[str, list[str]] = field(default_factory=dict)
    refused_calls: int = 0
    unanswered_calls: int = 0
    count: int = 0
    stopping: bool = False

    async def run(self) -> None:
        async with Connections(self.port) as connections:
            await asyncio.gather(*(self._client(number, connections) for number in range(self.clients)))

    async def reach(self, count: int) -> None:
        while self.count < count:
            await asyncio.sleep(0.005)

    async def _client(self, number: int, connections: Connections) -> None:
        n = 0
        while not self.stopping:
            user = f"writer-{number}-{n // EVENTS_PER_USER}"
            events = [self._event(user, number, n + i) for i in range(EVENTS_PER_CALL)]
            call = request_bytes("POST", "/v1/events", json.dumps({"events": events}).encode())
            while not self._settle(user, events, await connections.ask(call, seconds=20)):
                if self.again is None or self.stopping:
                    break
                await asyncio.sleep(self.again)
            n += EVENTS_PER_CALL

    def _event(self, user: str, number: int, n: int) -> dict[str, Any]:
        event: dict[str, Any] = {"user_id": user, "item_id": f"item-{number}-{n}", "event_id": f"event-{number}-{n}"}
        return event if number % 2 else event | {"timestamp": 1_700_000_000_000 + n}

    def _settle(self, user: str, events: list[dict[str, Any]], answer: Answer) -> bool:
        """Whether the call was acknowledged as a whole."""
        if answer.status == 0:
            self.unanswered_calls += 1
            return False
        if answer.status == 503:
            self.refused_calls += 1
            return False
        assert answer.status == 200, answer
        told = json.loads(answer.body)
        refused = {one["index"] for one in told["refused"]}
        known = self.acknowledged.setdefault(user, [])
        for index, event in enumerate(events):
            if index not in refused and event["item_id"] not in known:
                known.append(event["item_id"])
                self.count += 1
        return not refused

    def audit(self, http: httpx.Client) -> tuple[list[str], list[str]]:
        """Acknowledged events that no history has, and item ids that a history has more than once."""
        lost, twice = [], []
        for user, items in self.acknowledged.items():
            stored = [event["item_id"] for event in http.get("/v1/history", params={"user_id": user}).json()["events"]]
            lost += sorted(set(items) - set(stored))
            twice += sorted({item for item in stored if stored.count(item) > 1})
        return lost, twice
