"""The one queue: entries by class, the most urgent first, given out as batches."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence

from app.admission import Admission
from app.entries import Entry
from app.metrics import Metrics
from app.work import Urgency

MOST_ENTRIES = 256  # of one batch: each entry costs a search as well as its tokens


class EntryQueue:
    """Filled by the event loop, emptied by the inference thread.

    Work-conserving and without a timer: a batch is what waits when the thread falls free. It holds work of one class
    and one bundle, up to a token budget, or one single longer entry. in_hand: what was given out last, for whoever has
    to answer it when the thread cannot.
    """

    def __init__(self, admission: Admission, metrics: Metrics) -> None:
        self._admission, self._metrics = admission, metrics
        self._changed = threading.Condition()
        self._queues: dict[Urgency, deque[Entry]] = {urgency: deque() for urgency in Urgency}
        self._closed = False
        self.in_hand: list[Entry] = []

    @property
    def depth(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def put(self, entries: Sequence[Entry]) -> None:
        with self._changed:
            for entry in entries:
                self._queues[entry.work.urgency].append(entry)
            self._changed.notify()

    def close(self) -> list[Entry]:
        """No batch comes after this; returns what still waited."""
        with self._changed:
            self._closed = True
            left = [entry for queue in self._queues.values() for entry in queue]
            for queue in self._queues.values():
                queue.clear()
            self._changed.notify()
        for entry in left:
            self._admission.leave(entry.work)
        return left

    def next_batch(self) -> list[Entry]:
        """Waits for work; empty only when the queue is closed."""
        self.in_hand = []
        with self._changed:
            while not self._closed:
                for queue in self._queues.values():
                    if self._take(queue):
                        return self.in_hand
                self._changed.wait()
        return []

    def _take(self, queue: deque[Entry]) -> list[Entry]:
        batch = self.in_hand = []
        others: list[Entry] = []
        keys: set[bytes] = set()
        tokens = budget = 0
        while queue and len(batch) < MOST_ENTRIES:
            entry = queue.popleft()
            work = entry.work
            if self._is_over(entry):
                self._admission.leave(work)
                continue
            if not batch:
                budget = self._admission.budget(work)
            elif type(work) is not type(batch[0].work) or work.bundle is not batch[0].work.bundle:
                others.append(entry)
                continue
            cost = work.own_tokens if work.key is not None and work.key in keys else work.tokens
            if batch and tokens + cost > budget:
                queue.appendleft(entry)
                break
            tokens += cost
            batch.append(entry)
            if work.key is not None:
                keys.add(work.key)
        queue.extendleft(reversed(others))
        for entry in batch:
            self._admission.leave(entry.work)
        return batch

    def _is_over(self, entry: Entry) -> bool:
        """Nobody waits for it any more: its client has gone, or has been told that the deadline passed."""
        if entry.future.cancelled():
            self._metrics.dropped.inc()
            return True
        if entry.deadline <= time.monotonic() or entry.future.done():
            self._metrics.expired.inc()
            return True
        return False
