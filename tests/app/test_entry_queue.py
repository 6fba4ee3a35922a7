from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any, cast

from app.admission import Admission
from app.entries import Entry
from app.entry_queue import EntryQueue
from app.metrics import Metrics
from model_store.bundle import Bundle
from tests.app.test_admission import Answer, Shadow

V = cast(Bundle, SimpleNamespace(version="v"))


class Scene:
    def __init__(self, *, max_batch_tokens: int = 8) -> None:
        self.metrics = Metrics()
        self.admission = Admission(max_batch_tokens=max_batch_tokens, max_batch_seconds=1e9, queue_tokens=10_000)
        self.queue = EntryQueue(self.admission, self.metrics)
        self.loop = asyncio.new_event_loop()

    def put(self, *works: Any, deadline: float = float("inf")) -> list[Entry]:
        entries = [Entry(work, self.loop.create_future(), deadline) for work in works]
        for one in entries:
            self.admission.enter(one.work)
        self.queue.put(entries)
        return entries

    def batches(self, count: int) -> list[list[int]]:
        return [[one.work.tokens for one in self.queue.next_batch()] for _ in range(count)]

    def value(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"naiseki_{name}_total")


def test_one_longer_entry_runs_alone_wherever_it_stands() -> None:
    scene = Scene()
    scene.put(*(Answer(V, tokens, None) for tokens in (2, 3, 40, 1, 50, 60, 2)))
    assert scene.batches(6) == [[2, 3], [40], [1], [50], [60], [2]]
    assert scene.admission.waiting_tokens == 0
    scene.loop.close()


def test_shadow_work_runs_in_small_batches_when_nothing_else_waits() -> None:
    scene = Scene(max_batch_tokens=32)
    scene.put(*(Shadow(V, 4, None) for _ in range(5)))
    scene.put(*(Answer(V, 4, None) for _ in range(5)))
    assert scene.batches(2) == [[4] * 5, [4] * 2]
    scene.put(Answer(V, 9, None))
    assert scene.batches(3) == [[9], [4] * 2, [4]]
    scene.loop.close()


def test_what_nobody_waits_for_is_dropped_and_counted() -> None:
    scene = Scene()
    gone, told, late, kept = scene.put(*(Answer(V, tokens, None) for tokens in (1, 2, 3, 4)))
    gone.future.cancel()
    told.future.set_result(cast(Any, None))
    late.deadline = time.monotonic()
    assert scene.queue.next_batch() == [kept]
    assert scene.queue.in_hand == [kept]
    assert (scene.value("dropped_entries"), scene.value("expired_entries")) == (1, 2)
    assert (scene.admission.waiting_tokens, scene.queue.depth) == (0, 0)
    scene.loop.close()


def test_a_closed_queue_gives_back_what_waited() -> None:
    scene = Scene()
    entries = scene.put(Answer(V, 1, None), Shadow(V, 1, None))
    assert scene.queue.close() == entries
    assert scene.queue.next_batch() == []
    assert scene.admission.waiting_tokens == 0
    scene.loop.close()
