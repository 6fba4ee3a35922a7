"""How often one caller may ask: a token bucket for each, in this process."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

MOST_CALLERS = 10_000


class RateLimit:
    """`burst` requests at once, and `per_second` more as time goes by. Belongs to one event loop.

    The bucket of who has not asked for longest is forgotten when there are too many: a caller could gain a burst by
    asking under ten thousand names, which only an open service lets him have.
    """

    def __init__(self, per_second: float, burst: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second, self._burst, self._clock = per_second, burst, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, at this time

    def take(self, caller: str) -> float:
        """0, or the seconds after which it is worth asking again; then nothing was taken."""
        tokens = self._tokens(caller)
        if tokens < 1:
            return (1 - tokens) / self._per_second
        self._keep(caller, tokens - 1)
        return 0.0

    def owe(self, caller: str, tokens: int) -> None:
        """For a call that turns out to be many: it goes through, and the next ones wait."""
        self._keep(caller, self._tokens(caller) - tokens)

    def _tokens(self, caller: str) -> float:
        tokens, at = self._buckets.get(caller, (float(self._burst), self._clock()))
        return min(self._burst, tokens + (self._clock() - at) * self._per_second)

    def _keep(self, caller: str, tokens: float) -> None:
        self._buckets[caller] = (tokens, self._clock())
        self._buckets.move_to_end(caller)
        if len(self._buckets) > MOST_CALLERS:
            self._buckets.popitem(last=False)
