"""The one inference thread, which alone computes with the bundles that are published, and the way to it."""

from __future__ import annotations

import asyncio
import logging
import math
import sys
import threading
import time
import traceback
from collections import deque
from typing import Any, TypeVar

import faiss
import torch

from app.admission import Admission
from app.batch_runner import BatchRunner, Running
from app.entries import Done, Entry, Outcome, settle
from app.entry_queue import MOST_ENTRIES, EntryQueue
from app.errors import Problem, deadline_passed, not_ready
from app.metrics import Metrics
from app.pace import Pace
from app.work import Urgency, Work

ResultT = TypeVar("ResultT")
ANSWER_SECONDS = 5.0  # for callers that set no deadline of their own
CLOSE_SECONDS = 5.0  # for the last batch, when the batcher closes
MOST_RESTARTS, RESTARTS_SECONDS = 5, 10.0  # a thread that dies more often will not get well by itself
_log = logging.getLogger(__name__)


class Batcher:
    """All methods but the thread's own are for the event loop.

    broken: why no entry will ever be computed again in this process; None while all is well.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        threads: int = 1,
        max_batch_tokens: int = 8192,
        max_batch_seconds: float = 0.15,
        queue_tokens: int = 32768,
        hang_seconds: float = 1.0,
    ) -> None:
        self._metrics, self._threads = metrics, threads
        self._admission = Admission(
            max_batch_tokens=max_batch_tokens, max_batch_seconds=max_batch_seconds, queue_tokens=queue_tokens
        )
        self._queue = EntryQueue(self._admission, metrics)
        self._runner = BatchRunner(self._admission, metrics, hang_seconds=hang_seconds)
        self._arrived: list[Entry] = []
        self._restarts: deque[float] = deque(maxlen=MOST_RESTARTS)
        self._closing = False
        self.broken: str | None = None

    def start(self) -> None:
        """Call on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._metrics.watch("queue_tokens", "Tokens that wait", lambda: self.waiting_tokens)
        self._metrics.watch("queue_depth", "Entries that wait", lambda: self.depth)
        self._metrics.watch("queue_wait_seconds", "How long what waits will take", self._admission.wait_seconds)
        self._start_thread()

    async def close(self) -> None:
        """Ends the thread after its batch; what still waits is refused. A thread that hangs is left behind."""
        self._closing = True
        self._refuse(self._queue.close() + self._take_arrived(), "the service is going away")
        if self.broken is None:
            await asyncio.to_thread(self._thread.join, CLOSE_SECONDS)

    def give_up(self, reason: str) -> None:
        """The thread cannot be had back: everything that waits is answered now, and nothing is let in any more."""
        if self.broken is not None:
            return
        self.broken = reason
        _log.critical("no inference any more: %s", reason, extra={"stack": self._stack()})
        self.abandon(reason)

    def abandon(self, reason: str) -> None:
        """Answers everything that waits, what is being computed included, and lets nothing in any more."""
        self._closing = True
        self._refuse([*self._queue.in_hand, *self._queue.close(), *self._take_arrived()], reason)

    @property
    def alive(self) -> bool:
        return self.broken is None and self._thread.is_alive()

    @property
    def running(self) -> Running | None:
        """The batch that the thread is in."""
        return self._runner.running

    @property
    def waiting_tokens(self) -> int:
        return self._admission.waiting_tokens

    @property
    def depth(self) -> int:
        return self._queue.depth

    def pace(self, version: str, kind: type[Work[Any]]) -> Pace:
        return self._admission.pace(version, kind)

    def batch_sizes(self, work: Work[Any]) -> list[int]:
        """How many copies of `work` the largest batch, half of it, ... and one would hold, as far as is known."""
        most = min(MOST_ENTRIES, max(1, self._admission.budget(work) // work.tokens))
        return [2**power for power in range(most.bit_length() - 1, -1, -1)]

    def forget(self, version: str) -> None:
        self._admission.forget(version)

    def refusal(self, work: Work[Any], *, deadline: float) -> Problem | None:
        """What `submit` would raise now, so that a caller can ask for something lighter instead."""
        return self.refusal_of(work.bundle.version, type(work), work.tokens, deadline=deadline)

    def refusal_of(self, version: str, kind: type[Work[Any]], tokens: int, *, deadline: float) -> Problem | None:
        """As `refusal`, of an entry that is not made yet."""
        if self.broken is not None or self._closing:
            return not_ready(self.broken or "the service is going away")
        return self._admission.refusal_of((version, kind), tokens, deadline)

    async def submit(self, work: Work[ResultT], *, deadline: float | None = None) -> Done[ResultT]:
        """The result of `work`. Problem `overloaded` at once when it could not be in time, `deadline` when it is not.

        deadline: of `time.monotonic()`, or infinity; by default ANSWER_SECONDS from now. Cancelling drops the entry.
        """
        deadline = time.monotonic() + ANSWER_SECONDS if deadline is None else deadline
        if (refusal := self.refusal(work, deadline=deadline)) is not None:
            if refusal.name != "not-ready" and work.urgency is not Urgency.SHADOW:
                self._metrics.rejects.labels(refusal.name).inc()
            raise refusal
        entry = Entry(work, self._loop.create_future(), deadline)
        self._admission.enter(work)
        self._arrived.append(entry)
        if len(self._arrived) == 1:
            # After everything that is ready in this turn of the loop: the entries of one batch call travel together.
            self._loop.call_soon(self._hand_over)
        if math.isinf(deadline):
            return await entry.future
        timer = self._loop.call_later(deadline - time.monotonic(), self._expire, entry)
        try:
            return await entry.future
        finally:
            timer.cancel()

    def _expire(self, entry: Entry) -> None:
        if entry.future.done():
            return
        if entry.work.urgency is not Urgency.SHADOW:  # of which no client knows
            self._metrics.rejects.labels("deadline").inc()
        entry.future.set_exception(deadline_passed())

    def _hand_over(self) -> None:
        self._queue.put(self._arrived)
        self._arrived = []

    def _take_arrived(self) -> list[Entry]:
        arrived, self._arrived = self._arrived, []
        for entry in arrived:
            self._admission.leave(entry.work)
        return arrived

    def _refuse(self, entries: list[Entry], reason: str) -> None:
        settle([(entry, not_ready(reason)) for entry in entries])

    def _start_thread(self) -> None:
        self._thread = threading.Thread(target=self._thread_main, name="inference", daemon=True)
        self._thread.start()

    def _thread_main(self) -> None:
        try:
            # Both are set per thread: torch's number is inherited by threads born later, FAISS's is not.
            torch.set_num_threads(self._threads)
            faiss.omp_set_num_threads(self._threads)
            while batch := self._queue.next_batch():
                self._deliver(list(zip(batch, self._runner.run(batch), strict=True)))
                del batch  # or the wait for the next one would keep this one's bundle in memory
        except BaseException:  # whatever it was: a service without its inference thread answers nobody
            _log.exception("the inference thread failed and is started again")
            self._restart()

    def _restart(self) -> None:
        self._metrics.thread_restarts.inc()
        self._deliver([(e, not_ready("the inference thread was started again")) for e in self._queue.in_hand])
        now = time.monotonic()
        if len(self._restarts) == MOST_RESTARTS and now - self._restarts[0] < RESTARTS_SECONDS:
            reason = f"the inference thread failed {MOST_RESTARTS + 1} times within {RESTARTS_SECONDS:.0f} s"
            self._loop.call_soon_threadsafe(self.give_up, reason)
            return
        self._restarts.append(now)
        self._start_thread()

    def _deliver(self, outcomes: list[Outcome]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(settle, outcomes)

    def _stack(self) -> str | None:
        """Where the thread is: what a person needs who wants to know why it hangs."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        return "".join(traceback.format_stack(frame)) if frame else None
