"""A large call takes many turns of the event loop, and in each of them little: counted, not timed."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from pydantic_core import to_json

from app import recommender
from app.routes import recommend
from app.settings import Settings
from app.turns import FEW_ITEMS, Turns
from app.work import Recommendation
from model_store.store import ModelStore

if TYPE_CHECKING:
    from pathlib import Path

    from tests.app.conftest import Running, Serve

ASKED, ITEMS = 100, 300


def test_blocks_come_one_by_one_and_the_loop_goes_round_between_them() -> None:
    async def story() -> None:
        turns, seen = Turns(), list[Any]()

        async def block(name: int) -> None:
            async with turns.one():
                seen.append(name)

        async def others() -> None:
            while len(seen) < 12:
                seen.append(None)
                await asyncio.sleep(0)

        await asyncio.gather(*(block(name) for name in range(4)), others())
        blocks = [place for place, name in enumerate(seen) if name is not None]
        assert [seen[place] for place in blocks] == [0, 1, 2, 3]
        assert all(None in seen[one:other] for one, other in itertools.pairwise(blocks))

    asyncio.run(story())


class Rounds:
    """Which work was done in which round of a server's loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self.round, self.stop = loop, 0, threading.Event()
        self.done: dict[str, Counter[int]] = {}
        loop.call_soon_threadsafe(self._go)

    def _go(self) -> None:
        self.round += 1
        if not self.stop.is_set():
            self._loop.call_soon(self._go)

    def watched(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        counted = self.done.setdefault(name, Counter())

        def counting(*given: Any, **named: Any) -> Any:
            counted[self.round] += 1
            return work(*given, **named)

        return counting


@pytest.fixture
def large(tmp_path: Path, in_process: None, serve: Serve, published: Callable[..., str]) -> Iterator[Running]:
    store = ModelStore(tmp_path / "store")
    store.activate(published(store, "large", items=ITEMS), by="test")
    with serve(Settings(store=store.root, data=tmp_path / "data", redis_url="none", hang_seconds=60)) as server:
        yield server.ready()


def test_a_call_with_a_hundred_long_answers_holds_the_loop_for_none_of_them(
    large: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = Rounds(large.service.batcher._loop)
    monkeypatch.setattr(recommender, "items_out", rounds.watched("items", recommender.items_out))
    monkeypatch.setattr(recommend, "to_json", rounds.watched("json", to_json))
    monkeypatch.setattr(Recommendation, "of", rounds.watched("asked", Recommendation.of))
    requests = [{"history": [f"large-{n}"], "k": 1000, "timeout_ms": 60_000} for n in range(ASKED)]
    try:
        answer = large.http.post("/v1/recommend/batch", json={"requests": requests})
    finally:
        rounds.stop.set()
    results = answer.json()["results"]
    assert [one["status"] for one in results] == [200] * ASKED
    for n, one in enumerate(results):
        ids = [item["item_id"] for item in one["answer"]["items"]]
        assert len(ids) == ITEMS - 1 > FEW_ITEMS
        assert f"large-{n}" not in ids, "each stands at its place"
    assert {name: sum(counted.values()) for name, counted in rounds.done.items()} == {
        "items": ASKED,
        "json": ASKED,
        "asked": ASKED,
    }
    assert max(rounds.done["items"].values()) == 1
    assert max(rounds.done["json"].values()) == 1
    assert max(rounds.done["asked"].values()) <= recommend.TOGETHER
