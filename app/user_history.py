"""What each user has done, oldest first: one sorted set per user in Redis, written by one Lua script.

Redis slow or gone is an expected state: every method then fails within a bounded time with `HistoriesUnavailable`, and
a recommendation goes on without the stored history.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import cast

from redis.exceptions import NoScriptError

from app.append_events import OUTCOMES, AppendScript, Event, Outcome, StoredEvent, stored_event, user_key
from app.redis_guard import HistoriesUnavailable, RedisGuard, connect
from app.redis_policy import RECHECK_S, HistoriesRefused, RedisPolicy

__all__ = ["Event", "HistoriesRefused", "HistoriesUnavailable", "Outcome", "StoredEvent", "UserHistories"]

log = logging.getLogger(__name__)

_USERS_PER_ROUND_TRIP = 100
_WRITE_WAIT_S = 1.0


class UserHistories:
    """Histories of all users. Belongs to the event loop that opened it; `close` it there."""

    def __init__(self, url: str, *, kept: int, timeout_s: float, write_timeout_s: float) -> None:
        self._script = AppendScript(kept)
        self._timeout_s = timeout_s
        self._reads = connect(url, timeout_s, connections=32, wait_s=timeout_s, connected=self._connected)
        # Writers wait their turn rather than fail: with an fsync per reply they are many and slow.
        self._writes = connect(url, write_timeout_s, connections=64, wait_s=_WRITE_WAIT_S, connected=self._connected)
        self._write_deadline_s = _WRITE_WAIT_S + 4 * write_timeout_s
        self._guard = RedisGuard(probe=lambda: self._policy.ask())
        self._policy = RedisPolicy(self._reads, self._guard, deadline_s=4 * timeout_s)

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        kept: int = 2000,
        timeout_s: float = 0.05,
        write_timeout_s: float = 1.0,
        recheck_s: float = RECHECK_S,
    ) -> UserHistories:
        """Connects to `redis://`, `rediss://` or `unix://`. kept: events per user; beyond it the oldest quarter is cut.

        A read is worth less than the time of the recommendation that waits for it. A write ends with an fsync, which a
        busy disk delays by more than that now and then, and refusing it would be worse than being late.

        A Redis that does not answer is no reason not to start: it is logged, and checked when it first answers. Its
        policy is looked at again every `recheck_s`: while it may evict, no event is accepted.
        Raises HistoriesRefused when Redis may evict keys, ValueError for a URL that is none.
        """
        histories = cls(url, kept=kept, timeout_s=timeout_s, write_timeout_s=write_timeout_s)
        try:
            await histories.check()
        except HistoriesUnavailable as error:
            log.warning("Redis does not answer (%s): there are no histories until it does", error)
        except HistoriesRefused:
            await histories.close()
            raise
        histories._policy.watch(recheck_s)
        return histories

    @property
    def evicting(self) -> str | None:
        """The policy by which this Redis may drop keys. While it has one, no event is accepted."""
        return self._policy.evicting

    @property
    def breaker_open(self) -> bool:
        return self._guard.breaker.is_open

    @property
    def errors(self) -> Mapping[str, int]:
        """Failures since the start by kind: `timeout`, `connection`, `response`, `breaker` (not even asked)."""
        return self._guard.errors

    async def check(self) -> None:
        """Raises HistoriesRefused unless Redis never evicts; warns unless it keeps an append-only file."""
        await self._policy.check()

    async def append(self, events: Sequence[Event]) -> list[Outcome | HistoriesUnavailable]:
        """One outcome per event, in the order given; an exception instance where that user's write failed.

        Events of one user are appended together and in the order given; an event is accepted, duplicate or old only
        once Redis has it as durably as it is set up to. Raises ValueError for a timestamp out of range or an id that
        is not UTF-8, and then writes nothing.
        """
        now_ms = time.time_ns() // 1_000_000
        positions: dict[str, list[int]] = {}
        for position, event in enumerate(events):
            positions.setdefault(event.user_id, []).append(position)
        calls = [
            self._script.call(user_id, [events[at] for at in places], now_ms) for user_id, places in positions.items()
        ]
        starts = range(0, len(calls), _USERS_PER_ROUND_TRIP)
        answers = await asyncio.gather(*(self._append_users(calls[at : at + _USERS_PER_ROUND_TRIP]) for at in starts))
        outcomes: list[Outcome | HistoriesUnavailable] = [HistoriesUnavailable()] * len(events)
        of_users = (answer for round_trip in answers for answer in round_trip)
        for places, answer in zip(positions.values(), of_users, strict=True):
            for index, place in enumerate(places):
                outcomes[place] = answer if isinstance(answer, HistoriesUnavailable) else OUTCOMES[answer[index]]
        return outcomes

    async def read(self, user_id: str, limit: int | None = None) -> list[str]:
        """Item ids, oldest first; with a limit the newest so many. Empty for an unknown user."""
        return [event.item_id for event in await self.read_events(user_id, limit)]

    async def read_events(self, user_id: str, limit: int | None = None) -> list[StoredEvent]:
        """As `read`, with times."""
        if limit is not None and limit < 1:
            if limit < 0:
                raise ValueError(f"limit must not be negative, but is {limit}")
            return []
        first = 0 if limit is None else -limit
        key = user_key(user_id, "history")
        await self._policy.current()
        members = await self._guard.call(lambda: self._reads.zrange(key, first, -1), deadline_s=2 * self._timeout_s)
        if not members and self._policy.evicting:
            # Keys are dropped whole: a history that is there can be believed, one that is not can have been.
            raise HistoriesUnavailable(self._policy.complaint())
        try:
            return [stored_event(member) for member in cast("list[bytes]", members)]
        except (ValueError, TypeError, AttributeError) as error:
            self._guard.errors["response"] += 1
            raise HistoriesUnavailable(f"the history holds something that is no event: {error}") from error

    async def forget(self, user_id: str) -> int:
        """Removes the user's history and floor; returns how many events it held.

        Event ids stay known for their day, so that a late repetition does not bring back what was forgotten.
        """
        history, state = user_key(user_id, "history"), user_key(user_id, "state")
        pipe = self._writes.pipeline(transaction=True)
        pipe.zcard(history)
        pipe.delete(history, state)
        held, removed = await self._guard.call(
            lambda: pipe.execute(raise_on_error=False), deadline_s=self._write_deadline_s
        )
        if isinstance(removed, Exception):
            raise HistoriesUnavailable(f"Redis refused: {removed}")
        return held if isinstance(held, int) else 0

    async def close(self) -> None:
        await self._policy.close()
        await self._guard.close()
        await self._reads.aclose()
        await self._writes.aclose()

    async def _append_users(self, calls: Sequence[list[str | int]]) -> list[str | HistoriesUnavailable]:
        """One string of outcome letters per call, or why that call failed."""
        try:
            await self._policy.current()
            if self._policy.evicting:
                raise HistoriesUnavailable(self._policy.complaint())
            replies = await self._guard.call(lambda: self._evaluate(calls), deadline_s=self._write_deadline_s)
        except HistoriesUnavailable as error:
            return [error] * len(calls)
        answers: list[str | HistoriesUnavailable] = []
        for call, reply in zip(calls, replies, strict=True):
            if isinstance(reply, bytes) and self._script.fits(call, reply):
                answers.append(reply.decode())
            else:
                self._guard.errors["response"] += 1
                answers.append(HistoriesUnavailable(f"Redis refused: {reply!r}"))
        return answers

    async def _evaluate(self, calls: Sequence[list[str | int]]) -> list[bytes | Exception]:
        replies = await self._pipeline(calls)
        unknown = [at for at, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unknown:
            # Redis forgets scripts when it restarts.
            await self._writes.script_load(self._script.text)
            for at, reply in zip(unknown, await self._pipeline([calls[at] for at in unknown]), strict=True):
                replies[at] = reply
        return replies

    async def _pipeline(self, calls: Sequence[list[str | int]]) -> list[bytes | Exception]:
        pipe = self._writes.pipeline(transaction=False)
        for call in calls:
            pipe.execute_command("EVALSHA", self._script.sha, *call)
        return cast("list[bytes | Exception]", await pipe.execute(raise_on_error=False))

    def _connected(self) -> None:
        self._policy.look_again()
