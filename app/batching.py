"""The one queue and the one inference thread, which alone computes with the bundles that are published."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import faiss
import torch

from app.errors import not_ready, overloaded
from app.metrics import Metrics
from app.pace import Pace
from app.work import Urgency, Work

ResultT = TypeVar("ResultT")
MOST_ENTRIES = 256  # of one batch: each entry costs a search as well as its tokens
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Done(Generic[ResultT]):
    result: ResultT
    queue_seconds: float


@dataclass(slots=True, eq=False)
class _Entry:
    work: Work[Any]
    future: asyncio.Future[Done[Any]]
    queued_at: float = field(default_factory=time.perf_counter)


class Batcher:
    """Work-conserving and without a timer: a batch is what waits when the thread falls free.

    One batch holds work of one class and one bundle, up to a token budget, or one single longer entry.
    All methods but the thread's own are for the event loop.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        threads: int = 1,
        max_batch_tokens: int = 8192,
        max_batch_seconds: float = 0.15,
        queue_tokens: int = 32768,
    ) -> None:
        self._metrics = metrics
        self._threads, self._queue_tokens = threads, queue_tokens
        self._max_batch_tokens, self._max_batch_seconds = max_batch_tokens, max_batch_seconds
        self._paces: dict[tuple[str, type[Work[Any]]], Pace] = {}
        self._seconds_per_token = 0.0
        self._arrived: list[_Entry] = []
        self._changed = threading.Condition()
        self._queues: dict[Urgency, deque[_Entry]] = {urgency: deque() for urgency in Urgency}
        self._in_hand: Sequence[_Entry] = ()
        # Two counters that only grow, one written by each thread, need no lock.
        self._tokens_in = self._tokens_out = 0
        self._closing = False

    def start(self) -> None:
        """Call on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._metrics.watch("queue_tokens", "Tokens that wait", lambda: self.waiting_tokens)
        self._metrics.watch("queue_depth", "Entries that wait", lambda: self.depth)
        self._start_thread()

    async def close(self) -> None:
        """Ends the thread after its batch; what still waits is refused."""
        with self._changed:
            self._closing = True
            left = [entry for queue in self._queues.values() for entry in queue] + self._arrived
            self._changed.notify()
        _settle([(entry, not_ready("the service is going away")) for entry in left])
        await asyncio.to_thread(self._thread.join)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def waiting_tokens(self) -> int:
        return self._tokens_in - self._tokens_out

    @property
    def depth(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def pace(self, version: str, kind: type[Work[Any]]) -> Pace:
        return self._paces.setdefault((version, kind), Pace())

    def batch_sizes(self, work: Work[Any]) -> list[int]:
        """How many copies of `work` the largest batch, half of it, ... and one would hold, as far as is known."""
        most = min(MOST_ENTRIES, max(1, self._budget(work) // work.tokens))
        return [2**power for power in range(most.bit_length() - 1, -1, -1)]

    def forget(self, version: str) -> None:
        self._paces = {key: pace for key, pace in self._paces.items() if key[0] != version}

    async def submit(self, work: Work[ResultT]) -> Done[ResultT]:
        """The result of `work`; Problem `overloaded` at once when too much waits. Cancelling drops the entry."""
        waiting = self.waiting_tokens
        if self._closing:
            raise not_ready("the service is going away")
        if waiting and waiting + work.tokens > self._queue_tokens:
            self._metrics.rejects.labels("overloaded").inc()
            raise overloaded(waiting * self._seconds_per_token)
        entry = _Entry(work, self._loop.create_future())
        self._tokens_in += work.tokens
        self._arrived.append(entry)
        if len(self._arrived) == 1:
            # After everything that is ready in this turn of the loop: the entries of one batch call travel together.
            self._loop.call_soon(self._hand_over)
        return await entry.future

    def _hand_over(self) -> None:
        with self._changed:
            for entry in self._arrived:
                self._queues[entry.work.urgency].append(entry)
            self._arrived.clear()
            self._changed.notify()

    def _start_thread(self) -> None:
        self._thread = threading.Thread(target=self._thread_main, name="inference", daemon=True)
        self._thread.start()

    def _thread_main(self) -> None:
        try:
            # Both are set per thread: torch's number is inherited by threads born later, FAISS's is not.
            torch.set_num_threads(self._threads)
            faiss.omp_set_num_threads(self._threads)
            while batch := self._next_batch():
                self._in_hand = batch
                self._deliver(list(zip(batch, self._run(batch), strict=True)))
                del batch  # or the wait for the next one would keep this one's bundle in memory
        except Exception:  # whatever it was: a service without its inference thread answers nobody
            _log.exception("the inference thread failed and is started again")
            self._metrics.thread_restarts.inc()
            self._deliver([(entry, not_ready("the inference thread was started again")) for entry in self._in_hand])
            self._start_thread()

    def _next_batch(self) -> list[_Entry]:
        """Waits for work; empty only when the batcher closes."""
        with self._changed:
            while not self._closing:
                for queue in self._queues.values():
                    if batch := self._take(queue):
                        return batch
                self._in_hand = ()
                self._changed.wait()
        return []

    def _take(self, queue: deque[_Entry]) -> list[_Entry]:
        batch: list[_Entry] = []
        others: list[_Entry] = []
        keys: set[bytes] = set()
        tokens = budget = 0
        while queue and len(batch) < MOST_ENTRIES:
            entry = queue.popleft()
            work = entry.work
            if entry.future.cancelled():
                self._tokens_out += work.tokens
                self._metrics.dropped.inc()
                continue
            if not batch:
                budget = self._budget(work)
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
        self._tokens_out += sum(entry.work.tokens for entry in batch)
        return batch

    def _budget(self, work: Work[Any]) -> int:
        pace = self.pace(work.bundle.version, type(work))
        return pace.budget(self._max_batch_seconds, self._max_batch_tokens)

    def _run(self, batch: Sequence[_Entry]) -> list[Done[Any] | Exception]:
        first, started = batch[0].work, time.perf_counter()
        try:
            results = type(first).run(first.bundle, [entry.work for entry in batch])
        except Exception as error:  # whatever the model raises: a poisoned entry must fail alone
            if len(batch) == 1:
                _log.exception("an entry failed", extra={"version": first.bundle.version})
                return [error]
            self._metrics.failed_batches.inc()
            return [outcome for entry in batch for outcome in self._run([entry])]
        self._learn(batch, time.perf_counter() - started)
        return [Done(result, started - entry.queued_at) for entry, result in zip(batch, results, strict=True)]

    def _learn(self, batch: Sequence[_Entry], seconds: float) -> None:
        first = batch[0].work
        shared = {
            entry.work.key if entry.work.key is not None else id(entry): entry.work.tokens - entry.work.own_tokens
            for entry in batch
        }
        tokens = sum(shared.values()) + sum(entry.work.own_tokens for entry in batch)
        self.pace(first.bundle.version, type(first)).observe(tokens, seconds)
        self._seconds_per_token += 0.2 * (seconds / tokens - self._seconds_per_token)
        self._metrics.batch_size.observe(len(batch))
        self._metrics.batch_tokens.observe(tokens)

    def _deliver(self, outcomes: list[tuple[_Entry, Done[Any] | Exception]]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_settle, outcomes)


def _settle(outcomes: Sequence[tuple[_Entry, Done[Any] | Exception]]) -> None:
    for entry, outcome in outcomes:
        if entry.future.done():  # its client has gone
            continue
        if isinstance(outcome, Exception):
            entry.future.set_exception(outcome)
        else:
            entry.future.set_result(outcome)
