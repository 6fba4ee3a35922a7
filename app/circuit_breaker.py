"""A circuit breaker: after a run of failures, fail at once instead of waiting for each timeout."""

from __future__ import annotations

import time
from collections.abc import Callable


class CircuitOpen(Exception):
    """The guarded thing failed repeatedly; it is left alone until the cooldown has passed."""


class CircuitBreaker:
    """Opens after `failures` failed rounds in a row; after `cooldown_s` lets one probe through at a time.

    Calls that overlap a counted failure are the same round: one stall of the event loop fails every call that
    was waiting, and must not look like an outage.

    Use: `started = breaker.enter()`, then exactly one of `succeeded`, `failed`, `abandoned` with that value.
    Not thread-safe: it belongs to one event loop.
    """

    def __init__(
        self, *, failures: int = 5, cooldown_s: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._failures = failures
        self.cooldown_s = cooldown_s
        self._clock = clock
        self._rounds = 0
        self._last_failure = float("-inf")
        self._opened: float | None = None
        self._probe: float | None = None

    @property
    def is_open(self) -> bool:
        """True from the failure that opened it to the first success."""
        return self._opened is not None

    def enter(self) -> float:
        """Permission for one call. Raises CircuitOpen."""
        now = self._clock()
        if self._opened is not None:
            if self._probe is not None or now < self._opened + self.cooldown_s:
                raise CircuitOpen
            self._probe = now
        return now

    def succeeded(self, started: float) -> None:
        """Any answer, also to a call that began before the failures, proves that it is back."""
        self._end_probe(started)
        self._rounds = 0
        self._opened = None

    def failed(self, started: float) -> None:
        now = self._clock()
        if self._opened is not None:
            if self._end_probe(started):
                self._opened = now
        elif started >= self._last_failure:
            self._last_failure = now
            self._rounds += 1
            if self._rounds >= self._failures:
                self._opened = now
                self._probe = None

    def abandoned(self, started: float) -> None:
        """The call was cancelled: it says nothing, and if it was the probe, another may go."""
        self._end_probe(started)

    def _end_probe(self, started: float) -> bool:
        """Whether the call that began at `started` was the probe; it is one no longer."""
        if self._probe is None or self._probe != started:
            return False
        self._probe = None
        return True
