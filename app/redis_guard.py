"""The way to Redis: short timeouts, no retries, a bounded pool, a circuit breaker, and one exception."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from app.circuit_breaker import CircuitBreaker, CircuitOpen

T = TypeVar("T")


class HistoriesUnavailable(Exception):
    """Redis did not do what was asked: it is slow, gone, full, or holds something else under the user's key.

    A write that failed so may still have been stored; it was not acknowledged, and repeating it is safe.
    """


class RedisGuard:
    """Every call to one Redis goes through one of these; it belongs to one event loop.

    `errors` counts failures by kind (`timeout`, `connection`, `response`, `breaker`) since the start.
    """

    def __init__(self) -> None:
        self.breaker = CircuitBreaker()
        self.errors: Counter[str] = Counter()

    async def call(self, ask: Callable[[], Awaitable[T]], *, deadline_s: float) -> T:
        """Asks Redis through the breaker, and turns every way in which that fails into HistoriesUnavailable."""
        try:
            started = self.breaker.enter()
        except CircuitOpen as error:
            self.errors["breaker"] += 1
            raise HistoriesUnavailable("Redis failed repeatedly and is left alone for a moment") from error
        try:
            # The socket's timeouts bound one step each; this bounds their sum (a free connection, connect, ask).
            async with asyncio.timeout(deadline_s):
                answer = await ask()
        except (RedisConnectionError, RedisTimeoutError, OSError) as error:  # OSError includes the TimeoutError above
            self.breaker.failed(started)
            # redis-py wraps a timeout of its handshake in a ConnectionError.
            slow = any(isinstance(one, RedisTimeoutError | TimeoutError) for one in (error, error.__cause__))
            self.errors["timeout" if slow else "connection"] += 1
            raise HistoriesUnavailable(f"Redis does not answer: {error or 'timeout'}") from error
        except RedisError as error:
            # It answered, with a refusal that concerns this call: no reason to leave it alone.
            self.breaker.succeeded(started)
            self.errors["response"] += 1
            raise HistoriesUnavailable(f"Redis refused: {error}") from error
        except BaseException:
            self.breaker.abandoned(started)
            raise
        self.breaker.succeeded(started)
        return answer


def connect(url: str, timeout_s: float, *, connections: int, wait_s: float) -> Redis:
    """A client that connects at its first command.

    timeout_s bounds each step on the socket, wait_s the wait for one of so many connections. Raises ValueError for a
    URL that is none.
    """
    # redis-py's defaults are ten retries of five seconds. RESP 2 needs no handshake, so a connect is one step.
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=connections,
        timeout=wait_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
    )
    return Redis.from_pool(pool)
