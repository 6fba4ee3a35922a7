"""Counted in a real Redis, by two processes' worth of counters."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count
from typing import cast

import pytest
from redis import Redis

from app import feedback as module
from app.feedback import Feedback
from app.feedback_counts import DAY_S, KEPT_DAYS, Counts, CountScript, Group, UserCounts, digest, kept_at
from app.metrics import Metrics
from app.redis_guard import HistoriesUnavailable
from app.request_ids import request_id
from tests.redis_server import RedisServer, redis_server

VERSIONS = count()


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture
def redis(server: RedisServer) -> Iterator[Redis]:
    with Redis(unix_socket_path=str(server.socket)) as client:
        client.flushall()
        yield client


@pytest.fixture
def version() -> str:
    return f"20260101t000000-x-{next(VERSIONS):012x}"


@asynccontextmanager
async def opened(server: RedisServer, *, window_s: float = 60.0, most_users: int = 10_000) -> AsyncIterator[Feedback]:
    script = CountScript(window_s=window_s, most_users=most_users)
    feedback = Feedback(server.url, Metrics(), window_s=window_s, script=script)
    try:
        yield feedback
    finally:
        await feedback.close()


def metric(feedback: Feedback, name: str, **labels: str) -> float:
    return feedback._metrics.registry.get_sample_value(f"naiseki_{name}_total", labels) or 0.0


def not_counted(feedback: Feedback) -> dict[str, float]:
    reasons = ("late", "repeated", "unknown")
    return {reason: metric(feedback, "clicks_not_counted", reason=reason) for reason in reasons}


def serve(feedback: Feedback, version: str, user: str | None, label: str = "live") -> str:
    made = request_id(version, label)
    feedback.served(made, version, user)
    return made


def at(seconds: float, version: str) -> str:
    """A request id of another time."""
    return f"l-{version.rpartition('-')[2]}-{int(time.time() + seconds):08x}000000000000"


async def one(feedback: Feedback, version: str) -> Counts:
    await feedback.flush()
    (counts,) = await feedback.counts(version)
    return counts


def test_replicas_add_up_and_a_restart_keeps_what_was_counted(server: RedisServer, redis: Redis, version: str) -> None:
    async def run() -> None:
        async with opened(server) as first, opened(server) as second:
            seen = serve(first, version, "u")
            serve(first, version, None)
            serve(second, version, "u")
            first.clicked(seen, "item", user_id="u", version=version)
            await first.flush()
            counts = await one(second, version)
            assert (counts.impressions, counts.clicks) == (3, 1)
            assert counts.users == {digest("u"): UserCounts(2, 1)}
            assert metric(first, "clicks", version=version, label="live") == 1
        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(server.start)
        async with opened(server) as again:
            assert (await one(again, version)).impressions == 3

    asyncio.run(run())


def test_labels_are_counted_apart(server: RedisServer, redis: Redis, version: str) -> None:
    async def run() -> None:
        async with opened(server) as feedback:
            for label in ("live", "canary", "canary"):
                serve(feedback, version, "u", label)
            await feedback.flush()
            found = {one.group.letter: one.impressions for one in await feedback.counts(version)}
            assert found == {"l": 1, "c": 2}

    asyncio.run(run())


def test_a_click_counts_once_whoever_reports_it_and_however_often(
    server: RedisServer, redis: Redis, version: str
) -> None:
    async def run() -> None:
        async with opened(server) as first, opened(server) as second:
            seen = serve(first, version, "u")
            for _ in range(3):
                first.clicked(seen, "item", user_id="u", version=version)
            await first.flush()
            second.clicked(seen, "item", user_id="u", version=None)
            second.clicked(seen, "another", user_id="u", version=None)
            counts = await one(second, version)
            assert counts.clicks == 2
            assert not_counted(first)["repeated"] == 2
            assert not_counted(second)["repeated"] == 1

    asyncio.run(run())


@pytest.mark.parametrize(("seconds", "counted"), [(0, 1), (-50, 1), (-70, 0), (50, 1), (90, 0), (-(2**29), 0)])
def test_a_click_counts_within_its_window(
    server: RedisServer, redis: Redis, version: str, *, seconds: float, counted: int
) -> None:
    async def run() -> None:
        async with opened(server, window_s=60.0) as feedback:
            made = at(seconds, version)
            feedback.served(made, version, "u")
            feedback.clicked(made, "item", user_id="u", version=version)
            await feedback.flush()
            assert metric(feedback, "clicks", version=version, label="live") == counted
            assert not_counted(feedback)["late"] == 1 - counted

    asyncio.run(run())


def test_made_up_request_ids_make_no_keys(server: RedisServer, redis: Redis, version: str) -> None:
    async def run() -> None:
        async with opened(server) as feedback:
            for made in (at(0, version), at(0, "never-seen"), "what is this", ""):
                feedback.clicked(made, "item", user_id="u", version=None)
            await feedback.flush()
            assert not_counted(feedback)["unknown"] == 4

    asyncio.run(run())
    assert redis.keys("*") == []


def test_everything_expires_and_names_no_user(server: RedisServer, redis: Redis, version: str) -> None:
    async def run() -> None:
        async with opened(server, window_s=100.0) as feedback:
            seen = serve(feedback, version, "somebody@example.org")
            feedback.clicked(seen, "item", user_id="somebody@example.org", version=version)
            await feedback.flush()

    asyncio.run(run())
    keys = [bytes(key).decode() for key in cast("list[bytes]", redis.keys("*"))]
    assert len(keys) == 3
    for key in keys:
        longest = 300 if ":click:" in key else (KEPT_DAYS + 1) * DAY_S
        assert 0 < redis.ttl(key) <= longest, key
        assert "somebody" not in key
        assert redis.type(key) == b"string" or b"somebody" not in repr(redis.hgetall(key)).encode()


def test_many_users_are_halved_to_the_same_half_under_every_version(
    server: RedisServer, redis: Redis, version: str
) -> None:
    users = [f"user-{number}" for number in range(1300)]

    async def run() -> None:
        async with opened(server, most_users=200) as feedback:
            for user in users:
                serve(feedback, version, user)
            counts = await one(feedback, version)
            assert counts.impressions == 1300, "sums stay exact"
            assert counts.level >= 2
            assert set(counts.users) == {digest(user) for user in users if kept_at(digest(user), counts.level)}
            clicked = serve(feedback, version, users[0])
            feedback.clicked(clicked, "item", user_id=users[0], version=version)
            assert (await one(feedback, version)).clicks == 1
            assert len(redis.hgetall(Group(int(time.time()) // DAY_S, version.rpartition("-")[2], "l").key)) <= 403

    asyncio.run(run())


def test_a_hanging_redis_costs_counts_and_nothing_else(
    server: RedisServer, redis: Redis, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TIMEOUT_S", 0.1)
    monkeypatch.setattr(module, "MOST_PENDING", 50)

    async def run() -> None:
        async with opened(server) as feedback:
            serve(feedback, version, "u")
            await feedback.flush()
            server.signal(signal.SIGSTOP)
            try:
                for _ in range(6):
                    serve(feedback, version, "u")
                    await feedback.flush()
                assert metric(feedback, "feedback_dropped", reason="redis") >= 5
                assert feedback._guard.breaker.is_open
                for number in range(100):
                    serve(feedback, version, f"waits-{number}")
                assert metric(feedback, "feedback_dropped", reason="full") == 51  # one waits since before
            finally:
                server.signal(signal.SIGCONT)
            while feedback._guard.breaker.is_open:
                await asyncio.sleep(0.05)
            before = time.monotonic()
            assert (await one(feedback, version)).impressions >= 100, "what waited is written"
            assert time.monotonic() - before < 5

    asyncio.run(run())


def test_garbage_under_a_key_costs_that_key(server: RedisServer, redis: Redis, version: str) -> None:
    async def run() -> None:
        other = version + "0"
        async with opened(server) as feedback:
            redis.set(Group(int(time.time()) // DAY_S, version.rpartition("-")[2], "l").key, "foreign")
            serve(feedback, version, "u")
            serve(feedback, other, "u")
            assert (await one(feedback, other)).impressions == 1
            assert metric(feedback, "feedback_dropped", reason="redis") == 1
            with pytest.raises(HistoriesUnavailable):
                await feedback.counts(version)

    asyncio.run(run())
