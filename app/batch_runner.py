"""One batch on the inference thread: a member that raises fails alone, and how long it took is remembered."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.admission import Admission
from app.entries import Done, Entry
from app.metrics import Metrics

KNOWN_AFTER = 2  # batches: before, an estimate is not trusted
UNKNOWN_SECONDS = 60.0  # what a batch may take while nobody knows how long it should
PATIENCE = 4.0  # times its estimate
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Running:
    """What the inference thread does just now, and how long it may. thread: its number in this system, for who asks."""

    version: str
    entries: int
    tokens: int
    most_seconds: float
    thread: int


class BatchRunner:
    """running: None between batches. Written by the inference thread, read by others."""

    def __init__(self, admission: Admission, metrics: Metrics, *, hang_seconds: float) -> None:
        self._admission, self._metrics, self._hang_seconds = admission, metrics, hang_seconds
        self.running: Running | None = None

    def run(self, batch: Sequence[Entry]) -> list[Done[Any] | Exception]:
        """In the order of the batch. What a model raises is that entry's outcome."""
        first, started = batch[0].work, time.perf_counter()
        self._begin(batch)
        try:
            results = type(first).run(first.bundle, [entry.work for entry in batch])
        except Exception as error:  # whatever the model raises: a poisoned entry must fail alone
            if len(batch) == 1:
                _log.exception("an entry failed", extra={"version": first.bundle.version})
                return [error]
            self._metrics.failed_batches.inc()
            return [outcome for entry in batch for outcome in self.run([entry])]
        finally:
            self.running = None
            self._admission.busy(0.0)
        self._learn(batch, time.perf_counter() - started)
        return [Done(result, started - entry.queued_at) for entry, result in zip(batch, results, strict=True)]

    def _begin(self, batch: Sequence[Entry]) -> None:
        work, tokens = batch[0].work, _tokens(batch)
        pace = self._admission.pace_of(work)
        expected = pace.seconds(tokens)
        most = max(self._hang_seconds, PATIENCE * expected if pace.observed >= KNOWN_AFTER else UNKNOWN_SECONDS)
        self._admission.busy(expected)
        self.running = Running(work.bundle.version, len(batch), tokens, most, threading.get_native_id())

    def _learn(self, batch: Sequence[Entry], seconds: float) -> None:
        tokens = _tokens(batch)
        self._admission.pace_of(batch[0].work).observe(tokens, seconds)
        self._metrics.batch_size.observe(len(batch))
        self._metrics.batch_tokens.observe(tokens)


def _tokens(batch: Sequence[Entry]) -> int:
    """Those of equal keys once, as the batch reads them."""
    shared = {
        entry.work.key if entry.work.key is not None else id(entry): entry.work.tokens - entry.work.own_tokens
        for entry in batch
    }
    return sum(shared.values()) + sum(entry.work.own_tokens for entry in batch)
