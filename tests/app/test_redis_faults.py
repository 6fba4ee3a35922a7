"""A real server behind a real proxy that does to it what networks, hosts and operators do."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count
from statistics import median

import pytest
from redis import Redis

from app.item_log import ItemLog, ItemsUnavailable
from app.user_history import Event, HistoriesUnavailable, UserHistories
from tests.redis_proxy import RedisProxy
from tests.redis_server import RedisServer, redis_server

USERS = count()


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[RedisProxy]:
    with RedisProxy(server.socket) as running:
        yield running


@pytest.fixture
def user() -> str:
    return f"faulty-{next(USERS)}"


@asynccontextmanager
async def opened(proxy: RedisProxy, *, timeout_s: float = 0.1, recheck_s: float = 60.0) -> AsyncIterator[UserHistories]:
    histories = await UserHistories.open(
        proxy.url, timeout_s=timeout_s, write_timeout_s=5 * timeout_s, recheck_s=recheck_s
    )
    try:
        yield histories
    finally:
        await histories.close()


async def append(histories: UserHistories, event: Event) -> object:
    return (await histories.append([event]))[0]


async def until_back(histories: UserHistories, user: str) -> list[str]:
    deadline = time.monotonic() + 10
    while True:
        try:
            return await histories.read(user)
        except HistoriesUnavailable:
            assert time.monotonic() < deadline, "it never came back"
            await asyncio.sleep(0.02)


def test_a_slow_redis_is_waited_for_and_a_too_slow_one_is_not(proxy: RedisProxy, user: str) -> None:
    async def run() -> None:
        async with opened(proxy, timeout_s=0.2) as histories:
            assert await append(histories, Event(user, "a", 1, None)) == "accepted"
            proxy.delay_s = 0.02
            assert await histories.read(user) == ["a"]
            proxy.delay_s = 0.5
            for _ in range(5):
                with pytest.raises(HistoriesUnavailable):
                    await histories.read(user)
            assert histories.breaker_open
            proxy.delay_s = 0.0
            assert await until_back(histories, user) == ["a"]

    asyncio.run(run())


def test_with_the_breaker_open_no_caller_waits_not_even_for_a_probe(proxy: RedisProxy, user: str) -> None:
    """Three times the breaker's second pass: somebody must have asked whether Redis is back."""

    async def run() -> None:
        async with opened(proxy) as histories:
            assert await histories.read(user) == []
            proxy.pause()
            while not histories.breaker_open:
                with pytest.raises(HistoriesUnavailable):
                    await histories.read(user)
            asked, waits, until = histories.errors["timeout"], [], time.monotonic() + 3.2
            while time.monotonic() < until:
                started = time.monotonic()
                with pytest.raises(HistoriesUnavailable):
                    await histories.read(user)
                waits.append(time.monotonic() - started)
                await asyncio.sleep(0.01)
            assert histories.errors["timeout"] > asked, "nobody asked"
            assert median(waits) < 0.005
            assert sum(wait > 0.08 for wait in waits) == 0, "a caller was made to wait for a timeout"
            proxy.resume()
            assert await until_back(histories, user) == []

    asyncio.run(run())


def test_connections_cut_while_idle_cost_no_call(proxy: RedisProxy, user: str) -> None:
    async def run() -> None:
        async with opened(proxy, timeout_s=5.0) as histories:
            assert await append(histories, Event(user, "a", 1, None)) == "accepted"
            await asyncio.gather(*(histories.read(user) for _ in range(20)))
            for _ in range(5):
                proxy.cut()
                await asyncio.sleep(0.02)
                said = await asyncio.gather(*(histories.read(user) for _ in range(20)))
                assert said == [["a"]] * 20, "a connection that ended while idle is replaced without a word"

    asyncio.run(run())


def test_a_redis_that_refuses_and_comes_back(proxy: RedisProxy, user: str) -> None:
    async def run() -> None:
        async with opened(proxy) as histories:
            assert await append(histories, Event(user, "a", 1, None)) == "accepted"
            proxy.refuse()
            for _ in range(8):
                assert isinstance(await append(histories, Event(user, "b", 2, None)), HistoriesUnavailable)
            assert histories.errors["connection"] >= 5
            proxy.accept()
            assert await until_back(histories, user) == ["a"]
            assert await append(histories, Event(user, "b", 2, None)) == "accepted"

    asyncio.run(run())


def test_a_restart_loses_nothing_that_was_acknowledged(server: RedisServer, proxy: RedisProxy, user: str) -> None:
    async def run() -> None:
        async with opened(proxy) as histories:
            events = [Event(user, f"i{at}", at, None) for at in range(50)]
            acknowledged = [event for event in events if await append(histories, event) == "accepted"]
            assert len(acknowledged) == 50
            await asyncio.to_thread(server.stop)  # SIGKILL
            assert isinstance(await append(histories, Event(user, "lost", 99, None)), HistoriesUnavailable)
            await asyncio.to_thread(server.start)
            assert await until_back(histories, user) == [event.item_id for event in acknowledged]
            assert await append(histories, Event(user, "lost", 99, None)) == "accepted"

    asyncio.run(run())


def test_a_lost_reply_is_not_acknowledged_and_its_repetition_is_a_duplicate(proxy: RedisProxy, user: str) -> None:
    async def run() -> None:
        async with opened(proxy) as histories:
            assert await append(histories, Event(user, "a", 1, None)) == "accepted"
            assert await histories.read(user) == ["a"]
            proxy.swallow = True
            event = Event(user, "b", None, "once")
            assert isinstance(await append(histories, event), HistoriesUnavailable)
            proxy.swallow = False
            proxy.cut()
            await asyncio.sleep(0.02)
            assert await append(histories, event) == "duplicate"
            assert await histories.read(user) == ["a", "b"]

    asyncio.run(run())


@pytest.mark.parametrize(
    "garbage",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b":5\r\n",
        b"+OK\r\n",
        b"$-1\r\n",
        b"*-1\r\n",
        b"*1\r\n$1\r\nx\r\n",
        b"*1\r\n:7\r\n",
        b"*2\r\n*-1\r\n$-1\r\n",
        b"$1\r\nz\r\n",
        b"-ERR \xff\xfe\r\n",
        b"-LOADING reading\r\n",
        b"-MISCONF disk is full\r\n",
        b"-OOM no memory\r\n",
        b"-READONLY a replica\r\n",
        b"-NOAUTH who are you\r\n",
        b"\x00\xff\r\n",
    ],
)
def test_garbage_for_replies_is_an_outage_and_nothing_else(proxy: RedisProxy, user: str, garbage: bytes) -> None:
    async def run() -> None:
        async with opened(proxy) as histories:
            assert await append(histories, Event(user, "a", 1, None)) == "accepted"
            proxy.garbage = garbage
            with pytest.raises(HistoriesUnavailable):
                await histories.read(user)
            assert isinstance(await append(histories, Event(user, "b", 2, None)), HistoriesUnavailable)
            with pytest.raises(HistoriesUnavailable):
                await histories.forget(f"{user}-other")
            proxy.garbage = b""
            proxy.cut()
            assert (await until_back(histories, user))[:1] == ["a"], "no reply is taken for the answer to another call"

    asyncio.run(run())


def test_a_policy_that_changes_is_noticed(
    server: RedisServer, proxy: RedisProxy, user: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with opened(proxy, timeout_s=1.0, recheck_s=0.05) as histories:
            assert await append(histories, Event(user, "a", 1, None)) == "accepted"
            with Redis(unix_socket_path=str(server.socket)) as operator:
                operator.config_set("maxmemory-policy", "allkeys-lru")
                try:
                    await asyncio.sleep(0.3)
                    assert histories.evicting == "allkeys-lru", "without a call"
                    assert isinstance(await append(histories, Event(user, "b", 2, None)), HistoriesUnavailable)
                    assert await histories.read(user) == ["a"], "what is there can be believed"
                    with pytest.raises(HistoriesUnavailable, match="noeviction"):
                        await histories.read(f"{user}-nobody")
                finally:
                    operator.config_set("maxmemory-policy", "noeviction")
            assert await append(histories, Event(user, "b", 2, None)) == "accepted"
            assert histories.evicting is None

    with caplog.at_level(logging.WARNING, "app.redis_policy"):
        asyncio.run(run())
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"], "once each, not with every look"


def test_no_item_is_kept_where_it_may_be_dropped(server: RedisServer, proxy: RedisProxy) -> None:
    async def run() -> None:
        async with opened(proxy, timeout_s=1.0, recheck_s=0.05) as histories:
            log = ItemLog(server.url, most=10, evicting=lambda: histories.evicting)
            with Redis(unix_socket_path=str(server.socket)) as operator:
                operator.config_set("maxmemory-policy", "allkeys-lru")
                try:
                    await asyncio.sleep(0.3)
                    with pytest.raises(ItemsUnavailable, match="allkeys-lru"):
                        await log.write("i", "record")
                    assert not operator.exists("naiseki:items")
                finally:
                    operator.config_set("maxmemory-policy", "noeviction")
                    await log.close()

    asyncio.run(run())


def test_another_server_behind_the_same_address_is_looked_at_before_it_is_used(
    server: RedisServer, proxy: RedisProxy, user: str
) -> None:
    async def run() -> None:
        async with opened(proxy, timeout_s=1.0) as histories:
            assert await append(histories, Event(user, "a", 1, None)) == "accepted"
            with Redis(unix_socket_path=str(server.socket)) as operator:
                operator.config_set("maxmemory-policy", "volatile-ttl")
                try:
                    proxy.cut()  # as a failover does; the next calls connect again, unasked
                    await asyncio.sleep(0.02)
                    await histories.read(user)
                    assert isinstance(await append(histories, Event(user, "b", 2, None)), HistoriesUnavailable)
                finally:
                    operator.config_set("maxmemory-policy", "noeviction")

    asyncio.run(run())


def test_a_foreign_member_does_not_stop_a_history_from_being_cut(server: RedisServer, user: str) -> None:
    async def run() -> None:
        histories = await UserHistories.open(server.url, kept=4, timeout_s=1.0)
        try:
            with Redis(unix_socket_path=str(server.socket)) as operator:
                operator.zadd(f"naiseki:{{{user}}}:history", {b"foreign": -1})
            for at in range(6):
                assert await append(histories, Event(user, f"i{at}", at, None)) == "accepted"
            assert await histories.read(user) == ["i2", "i3", "i4", "i5"]
        finally:
            await histories.close()

    asyncio.run(run())
