"""Whether a Redis keeps what it is given: looked at when it is first reached, after every new connection, and now and
then, because an operator or another server behind the same address may change it at any time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import Any

from redis.asyncio import Redis

from app.ending import end
from app.redis_guard import HistoriesUnavailable, RedisGuard

RECHECK_S = 10.0
log = logging.getLogger(__name__)


class HistoriesRefused(ValueError):
    """This Redis is not set up to hold histories; the message names the setting."""


class RedisPolicy:
    """What INFO says of eviction and of the append-only file. Belongs to one event loop.

    evicting: the policy by which keys may be dropped when memory is short, None where none is. known: it has been
    asked at least once.
    """

    def __init__(self, client: Redis, guard: RedisGuard, *, deadline_s: float) -> None:
        self._client, self._guard, self._deadline_s = client, guard, deadline_s
        self.evicting: str | None = None
        self.known = False
        self._durable = True
        self._due = True
        self._watching: asyncio.Task[None] | None = None

    def look_again(self) -> None:
        """Something has changed: the next use asks first."""
        self._due = True

    async def current(self) -> None:
        """Asks if that is due. HistoriesUnavailable when it cannot be asked."""
        if self._due or not self.known or self.evicting:
            self._due = False  # others go on with what was known last
            try:
                await self._guard.call(self.ask, deadline_s=self._deadline_s)
            except BaseException:
                self._due = True
                raise

    async def check(self) -> None:
        """Asks now. Raises HistoriesRefused when keys may be dropped."""
        self.look_again()
        await self.current()
        if self.evicting is not None:
            raise HistoriesRefused(self.complaint())

    def complaint(self) -> str:
        return (
            f"this Redis drops keys when memory is short (maxmemory-policy {self.evicting}) and histories would vanish "
            "without an error: set maxmemory-policy noeviction"
        )

    async def ask(self) -> None:
        """One INFO, without the guard: it is also what tells that a Redis is back."""
        # CONFIG is forbidden by most hosts of Redis, INFO by none.
        self._take(await self._client.info())

    def watch(self, every_s: float = RECHECK_S) -> None:
        """Asks now and then, until `close`."""
        self._watching = asyncio.create_task(self._watch(every_s), name="redis-policy")

    async def close(self) -> None:
        await end(self._watching)

    async def _watch(self, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            with contextlib.suppress(HistoriesUnavailable):
                self.look_again()
                await self.current()

    def _take(self, info: Mapping[str, Any]) -> None:
        policy = info.get("maxmemory_policy")
        evicting = None if policy in (None, "noeviction") else str(policy)
        if evicting is not None and evicting != self.evicting and self.known:
            log.error("no event is accepted until that changes: %s", f"maxmemory-policy is now {evicting}")
        elif evicting is None and self.evicting is not None:
            log.warning("maxmemory-policy is noeviction again: events are accepted")
        durable = bool(info.get("aof_enabled"))
        if not durable and self._durable:
            log.warning("this Redis keeps no append-only file: set appendonly yes, or events are lost when it restarts")
        self.evicting, self._durable, self.known = evicting, durable, True
