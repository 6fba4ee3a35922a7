"""The way to Redis: short timeouts, no retries, a bounded pool, a circuit breaker, and one exception."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from app.circuit_breaker import CircuitBreaker, CircuitOpen
from app.ending import end

T = TypeVar("T")
_PROBE_S = 0.25


class HistoriesUnavailable(Exception):
    """Redis did not do what was asked: it is slow, gone, full, or holds something else under the user's key.

    A write that failed so may still have been stored; it was not acknowledged, and repeating it is safe.
    """


class RedisGuard:
    """Every call to one Redis goes through one of these; it belongs to one event loop.

    `errors` counts failures by kind (`timeout`, `connection`, `response`, `breaker`) since the start.

    probe: asked, by a task of its own, whether Redis is back while the breaker is open. Without it one caller after
    the other is the probe and waits for a timeout: one request of a hundred, at a hundred requests a second.
    """

    def __init__(self, probe: Callable[[], Awaitable[object]] | None = None) -> None:
        self.breaker = CircuitBreaker()
        self.errors: Counter[str] = Counter()
        self._probe = probe
        self._probing: asyncio.Task[None] | None = None

    async def call(self, ask: Callable[[], Awaitable[T]], *, deadline_s: float) -> T:
        """Asks Redis through the breaker, and turns every way in which that fails into HistoriesUnavailable."""
        if self._probe is not None and self.breaker.is_open:
            raise self._left_alone()
        return await self._through(ask, deadline_s)

    async def close(self) -> None:
        await end(self._probing)

    async def _through(self, ask: Callable[[], Awaitable[T]], deadline_s: float) -> T:
        try:
            started = self.breaker.enter()
        except CircuitOpen as error:
            raise self._left_alone() from error
        try:
            # The socket's timeouts bound one step each; this bounds their sum (a free connection, connect, ask).
            async with asyncio.timeout(deadline_s):
                answer = await ask()
        except (RedisConnectionError, RedisTimeoutError, OSError) as error:  # OSError includes the TimeoutError above
            self._failed(started)
            # redis-py wraps a timeout of its handshake in a ConnectionError.
            slow = any(isinstance(one, RedisTimeoutError | TimeoutError) for one in (error, error.__cause__))
            self.errors["timeout" if slow else "connection"] += 1
            raise HistoriesUnavailable(f"Redis does not answer: {error or 'timeout'}") from error
        except RedisError as error:
            # It answered, with a refusal that concerns this call: no reason to leave it alone.
            self.breaker.succeeded(started)
            self.errors["response"] += 1
            raise HistoriesUnavailable(f"Redis refused: {error}") from error
        except Exception as error:  # redis-py takes replies apart as what they should be, and fails in any way
            self.breaker.succeeded(started)
            self.errors["response"] += 1
            raise HistoriesUnavailable(f"Redis answered something else than what was asked: {error}") from error
        except BaseException:
            self.breaker.abandoned(started)
            raise
        self.breaker.succeeded(started)
        return answer

    def _left_alone(self) -> HistoriesUnavailable:
        self.errors["breaker"] += 1
        return HistoriesUnavailable("Redis failed repeatedly and is left alone for a moment")

    def _failed(self, started: float) -> None:
        self.breaker.failed(started)
        if self.breaker.is_open and self._probe is not None and (self._probing is None or self._probing.done()):
            self._probing = asyncio.create_task(self._probe_until_back(self._probe), name="redis-probe")

    async def _probe_until_back(self, probe: Callable[[], Awaitable[object]]) -> None:
        while self.breaker.is_open:
            await asyncio.sleep(self.breaker.cooldown_s)
            with contextlib.suppress(HistoriesUnavailable):
                await self._through(probe, _PROBE_S)


def connect(
    url: str, timeout_s: float, *, connections: int, wait_s: float, connected: Callable[[], object] | None = None
) -> Redis:
    """A client that connects at its first command.

    timeout_s bounds each step on the socket, wait_s the wait for one of so many connections. connected: told of every
    new connection, behind which another server may be than behind the last. Raises ValueError for a URL that is none.
    """

    async def made(connection: Any) -> None:
        await connection.on_connect()
        if connected is not None:
            connected()

    # redis-py's defaults are ten retries of five seconds. RESP 2 needs no handshake, so a connect is one step.
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=connections,
        timeout=wait_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
        redis_connect_func=made,
    )
    return Redis.from_pool(pool)
