"""Replicas tell each other that labels have moved. Only a hint to look now: the store's file stays the truth."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

from redis.asyncio.client import PubSub

from app.ending import end
from app.redis_guard import HistoriesUnavailable, RedisGuard, connect

CHANNEL = "naiseki:labels"
TIMEOUT_S = 1.0
_AGAIN_S = 1.0
_log = logging.getLogger(__name__)


class LabelHints:
    """Belongs to the event loop. heard: called for each message, and whenever the channel is open again, because what
    was said meanwhile is lost. A Redis that is gone costs nothing but the wait for the next look at the store.
    silent_s: after so long without a word the channel is opened anew; its other end may be gone without a sign.
    """

    def __init__(self, url: str, *, heard: Callable[[], None], silent_s: float = 60.0) -> None:
        self._heard, self._silent_s = heard, silent_s
        self._redis = connect(url, TIMEOUT_S, connections=4, wait_s=TIMEOUT_S)
        self._guard = RedisGuard()
        self._task: asyncio.Task[None] | None = None
        self.listening = asyncio.Event()

    def start(self) -> None:
        self._task = asyncio.create_task(self._listen(), name="label-hints")

    async def close(self) -> None:
        await end(self._task)
        await self._redis.aclose(close_connection_pool=True)

    async def say(self, generation: int) -> None:
        """Never fails, and takes at most a second."""
        with contextlib.suppress(HistoriesUnavailable):
            await self._guard.call(lambda: self._redis.publish(CHANNEL, str(generation)), deadline_s=TIMEOUT_S)

    async def _listen(self) -> None:
        while True:
            channel, wait = self._redis.pubsub(ignore_subscribe_messages=True), _AGAIN_S
            try:
                await self._hear(channel)
                wait = 0.0
            except Exception as error:  # whatever it is: the labels are still polled
                _log.debug("no hints: %s", error)
            finally:
                self.listening.clear()
                with contextlib.suppress(Exception):
                    await channel.aclose()  # type: ignore[no-untyped-call]
            await asyncio.sleep(wait)

    async def _hear(self, channel: PubSub) -> None:
        await channel.subscribe(CHANNEL)
        self._heard()
        self.listening.set()
        last = time.monotonic()
        while time.monotonic() - last < self._silent_s:
            if await channel.get_message(timeout=self._silent_s) is not None:
                self._heard()
                last = time.monotonic()
