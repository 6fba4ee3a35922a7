"""A sampled copy of live requests, run by another version while nobody waits: how far would its answers differ?"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from app.batching import Batcher
from app.ending import end
from app.metrics import Metrics
from app.routing import Loaded
from app.work import Recommendation, Urgency

Copy = Callable[[], Awaitable[Sequence[str] | None]]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class ShadowRecommendation(Recommendation):
    """A recommendation that nobody waits for."""

    urgency: ClassVar[Urgency] = Urgency.SHADOW


class Shadow:
    """One copy at a time: so a request that comes meanwhile waits for one history at most. The rest is dropped.

    Lives on the event loop. share: of the live answers, 0..1, drawn anew for each.
    """

    def __init__(self, metrics: Metrics, batcher: Batcher, *, share: float) -> None:
        self._metrics, self._batcher, self._share = metrics, batcher, share
        self._task: asyncio.Task[None] | None = None

    def offer(self, shadow: Loaded, answered: Sequence[str], copy: Copy) -> None:
        """Waits for nothing. answered: the live item ids. copy: asks the shadow the same; its ids, or None."""
        if random.random() >= self._share:
            return
        if not answered or self.busy or self._batcher.waiting_tokens:
            self._count("dropped")
            return
        shadow.in_flight += 1  # not unloaded while it computes
        self._task = asyncio.create_task(self._compare(shadow, frozenset(answered), copy), name="shadow")

    @property
    def busy(self) -> bool:
        return self._task is not None

    async def close(self) -> None:
        await end(self._task)

    async def _compare(self, shadow: Loaded, answered: frozenset[str], copy: Copy) -> None:
        """agreement@k: the share of the live answer's k items that are among the shadow's k."""
        try:
            items = await copy()
            if items is not None:
                agreement = len(answered & set(items)) / len(answered)
                self._metrics.shadow_agreement.labels(shadow.version).observe(agreement)
            self._count("no_history" if items is None else "compared")
        except Exception as error:  # whatever a version on trial does must not show
            self._count("failed")
            _log.warning("the shadow failed: %s", error, extra={"version": shadow.version})
        finally:
            self._task = None
            shadow.in_flight -= 1

    def _count(self, outcome: str) -> None:
        self._metrics.shadow_copies.labels(outcome).inc()
