"""What became of answers: counted off the request path, and written to Redis now and then by every replica.

Feedback is a measurement, not a promise: where Redis is slow or gone it is dropped, and a metric says how much.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Sequence
from typing import Any, cast

from app.ending import end
from app.feedback_counts import CLICKS_LATE_S, DAY_S, Counts, CountScript, Group, Tally, digest, read_counts
from app.metrics import Metrics
from app.redis_guard import HistoriesUnavailable, RedisGuard, connect
from app.request_ids import LABELS, parse_request_id

EVERY_S = 0.5
MOST_PENDING = 20_000
_TIMEOUT_S = 1.0
_READ_S = 30.0
_log = logging.getLogger(__name__)


class Feedback:
    """Impressions and clicks of one process on their way to Redis. Belongs to one event loop.

    window_s: how long after its answer a click counts, by the clocks of the two processes.
    """

    def __init__(self, url: str, metrics: Metrics, *, window_s: float, script: CountScript | None = None) -> None:
        self.window_s = window_s
        self._metrics = metrics
        self._script = script or CountScript(window_s=window_s)
        self._client = connect(url, _TIMEOUT_S, connections=2, wait_s=_TIMEOUT_S)
        self._guard = RedisGuard(probe=self._client.ping)
        self._tallies: dict[Group, Tally] = {}
        self._pending = 0
        self._writing: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._writing = asyncio.create_task(self._write_now_and_then(), name="feedback")

    async def close(self) -> None:
        """Writes what is left, if Redis takes it at once."""
        await end(self._writing)
        await self.flush()
        await self._guard.close()
        await self._client.aclose()

    def served(self, request_id: str, version: str, user_id: str | None) -> None:
        """An answer went out."""
        answered = parse_request_id(request_id)
        assert answered is not None, "it is ours"
        user = None if user_id is None else digest(user_id)
        tally = self._tally(Group.of(answered))
        tally.version = version
        tally.impressions += 1  # a sum has room whatever waits
        if user is not None and (user in tally.users or self._room()):
            tally.users[user] += 1

    def clicked(self, request_id: str, item_id: str, *, user_id: str, version: str | None) -> None:
        """An event names the answer that it came from. version: where this process knows it."""
        answered = parse_request_id(request_id)
        if answered is None:
            self._metrics.clicks_not_counted.labels("unknown").inc()
        elif not -CLICKS_LATE_S <= time.time() - answered.at_s <= self.window_s:
            self._metrics.clicks_not_counted.labels("late").inc()
        elif self._room():
            tally = self._tally(Group.of(answered))
            tally.version = tally.version or version
            tally.clicks.append((digest(f"{request_id} {item_id}"), digest(user_id)))

    async def flush(self) -> None:
        """Writes what has been counted; nothing is tried twice, because it may have been done the first time."""
        if self._guard.breaker.is_open or not self._tallies:
            return  # it waits, as far as there is room
        tallies, self._tallies, self._pending = self._tallies, {}, 0
        calls = [(group, call) for group, tally in tallies.items() for call in self._script.calls(group, tally)]
        try:
            replies = await self._guard.call(lambda: self._evaluate([call for _, call in calls]), deadline_s=_TIMEOUT_S)
        except HistoriesUnavailable as error:
            _log.warning("feedback is dropped: %s", error)
            self._metrics.feedback_dropped.labels("redis").inc(sum(tally.size for tally in tallies.values()))
            return
        for (group, call), reply in zip(calls, replies, strict=True):
            self._note(group, tallies[group], clicks=int(call[0]) - 2, reply=reply)

    async def counts(self, version: str) -> list[Counts]:
        """What all replicas have counted for `version`. HistoriesUnavailable when Redis cannot tell."""
        today = int(time.time()) // DAY_S
        return await self._guard.call(lambda: read_counts(self._client, version, today), deadline_s=_READ_S)

    def _tally(self, group: Group) -> Tally:
        return self._tallies.setdefault(group, Tally())

    def _room(self) -> bool:
        if self._pending >= MOST_PENDING:
            self._metrics.feedback_dropped.labels("full").inc()
            return False
        self._pending += 1
        return True

    async def _write_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.flush()
            except Exception:  # counting must not end because of one thing that could not be counted
                _log.exception("feedback could not be written")

    def _evaluate(self, calls: Sequence[list[str | int]]) -> Awaitable[list[Any]]:
        pipe = self._client.pipeline(transaction=False)
        for call in calls:
            pipe.execute_command("EVAL", self._script.text, *call)
        return cast("Awaitable[list[Any]]", pipe.execute(raise_on_error=False))

    def _note(self, group: Group, tally: Tally, *, clicks: int, reply: object) -> None:
        if not isinstance(reply, int):
            _log.warning("feedback is dropped: Redis refused: %s", reply)
            self._metrics.feedback_dropped.labels("redis").inc(max(1, clicks))
            return
        if reply < 0:
            self._metrics.clicks_not_counted.labels("unknown").inc(clicks)
            return
        self._metrics.clicks_not_counted.labels("repeated").inc(clicks - reply)
        if reply and tally.version is not None:
            self._metrics.clicks.labels(tally.version, LABELS[group.letter]).inc(reply)
