"""Against a real server, set up as the embedded one is."""

from __future__ import annotations

import asyncio
import itertools
import logging
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.append_events import MAX_TIMESTAMP_MS, user_key
from app.user_history import (
    Event,
    HistoriesRefused,
    HistoriesUnavailable,
    Outcome,
    StoredEvent,
    UserHistories,
)
from tests.redis_server import RedisServer as Server
from tests.redis_server import redis_server

USERS = itertools.count()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with redis_server() as running:
        yield running


@pytest.fixture
def user() -> str:
    """An id that no other test uses."""
    return f"user-{next(USERS)}"


@asynccontextmanager
async def opened(server: Server, *, kept: int = 2000, timeout_s: float = 2.0) -> AsyncIterator[UserHistories]:
    """Patient, so that a slow disk fails no test."""
    histories = await UserHistories.open(server.url, kept=kept, timeout_s=timeout_s, write_timeout_s=timeout_s)
    try:
        yield histories
    finally:
        await histories.close()


def test_order_is_by_time_then_by_arrival(server: Server, user: str) -> None:
    async def run() -> None:
        async with opened(server) as histories:
            events = [("z", 5), ("b", 7), ("y", 5), ("a", 7), ("c", 6)]
            outcomes = await histories.append([Event(user, item, at, None) for item, at in events])
            assert outcomes == ["accepted"] * 5
            await histories.append([Event(user, "A", 5, None), Event(user, "first", -3, None)])
            assert await histories.read(user) == ["first", "z", "y", "A", "c", "b", "a"]
            assert (await histories.read_events(user))[:2] == [StoredEvent("first", -3), StoredEvent("z", 5)]
            assert await histories.read(user, 2) == ["b", "a"]
            assert await histories.read(user, 0) == []
            assert len(await histories.read(user, 99)) == 7
            with pytest.raises(ValueError, match="limit"):
                await histories.read(user, -1)
            assert await histories.read(user + "-nobody") == []

    asyncio.run(run())


def test_outcomes_are_in_the_order_of_the_call(server: Server, user: str) -> None:
    async def run() -> None:
        async with opened(server) as histories:
            users = [f"{user}-{number % 250}" for number in range(750)]
            events = [Event(one, f"i{number // 500}", 1, None) for number, one in enumerate(users)]
            assert await histories.append(events) == ["accepted"] * 250 + ["duplicate"] * 250 + ["accepted"] * 250
            assert await histories.read(users[7]) == ["i0", "i1"]
            assert await histories.append([]) == []

    asyncio.run(run())


def test_no_timestamp_is_the_time_of_arrival(server: Server, user: str) -> None:
    async def run() -> None:
        async with opened(server) as histories:
            before = time.time_ns() // 1_000_000
            await histories.append([Event(user, item, None, None) for item in ("c", "a", "b")])
            after = time.time_ns() // 1_000_000
            stored = await histories.read_events(user)
            assert [event.item_id for event in stored] == ["c", "a", "b"]
            assert all(before <= event.timestamp_ms <= after for event in stored)

    asyncio.run(run())


def test_event_id_makes_a_repetition_a_duplicate(server: Server, user: str) -> None:
    async def run() -> None:
        async with opened(server) as histories:
            event = Event(user, "a", None, "id")
            assert await histories.append([event, event, Event(user + "-other", "a", None, "id")]) == [
                "accepted",
                "duplicate",
                "accepted",
            ]
            assert await histories.append([Event(user, "b", 77, "id")]) == ["duplicate"]
            assert await histories.read(user) == ["a"]
            ttl = await histories._reads.ttl(user_key(user, "event:id"))
            assert 86_000 < ttl <= 86_400

    asyncio.run(run())


def test_cut_moves_the_floor(server: Server, user: str) -> None:
    async def run() -> None:
        async with opened(server, kept=8) as histories:
            numbers = [Event(user, str(number), number, None) for number in range(8)]
            await histories.append(numbers)
            assert len(await histories.read(user)) == 8
            assert await histories.append([Event(user, "8", 8, None)]) == ["accepted"]
            assert await histories.read(user) == ["2", "3", "4", "5", "6", "7", "8"]
            assert await histories.append(numbers) == ["old"] * 2 + ["duplicate"] * 6
            assert await histories.append([Event(user, "late", 1, None), Event(user, "later", 2, None)]) == [
                "old",
                "accepted",
            ]
            assert await histories.read(user) == ["2", "later", "3", "4", "5", "6", "7", "8"]

    asyncio.run(run())


def test_more_events_in_one_millisecond_than_its_order_can_tell(server: Server, user: str) -> None:
    async def run() -> None:
        async with opened(server, kept=3000) as histories:
            at = MAX_TIMESTAMP_MS - 1
            items = [f"i{1500 - number}" for number in range(1500)]
            await histories.append([Event(user, "next", at + 1, None), Event(user, "before", at - 1, None)])
            assert set(await histories.append([Event(user, item, at, None) for item in items])) == {"accepted"}
            stored = await histories.read(user)
            assert [stored[0], stored[-1]] == ["before", "next"]
            assert stored[1:1024] == items[:1023]
            assert sorted(stored[1:-1]) == sorted(items)

    asyncio.run(run())


def test_forget(server: Server, user: str) -> None:
    async def run() -> None:
        async with opened(server, kept=2) as histories:
            await histories.append([Event(user, str(number), number, f"id-{number}") for number in range(3)])
            assert await histories.forget(user) == 2
            assert await histories.read(user) == []
            assert await histories.append([Event(user, "2", 2, "id-2")]) == ["duplicate"], "forgotten stays forgotten"
            assert await histories.append([Event(user, "0", 0, None)]) == ["accepted"], "the floor is forgotten, too"
            assert await histories.forget(user) == 1
            assert await histories.forget(user) == 0

    asyncio.run(run())


def test_concurrent_writers(server: Server, user: str) -> None:
    async def run() -> None:
        async with opened(server) as first, opened(server) as second:
            both = [first, second]
            answers = await asyncio.gather(
                *(both[n % 2].append([Event(user, f"i{n}", 5, None), Event(user, "same", 9, "id")]) for n in range(100))
            )
            assert [answer[0] for answer in answers] == ["accepted"] * 100
            assert sorted(str(answer[1]) for answer in answers) == ["accepted"] + ["duplicate"] * 99
            stored = await first.read(user)
            assert sorted(stored) == sorted([f"i{n}" for n in range(100)] + ["same"])
            assert stored[-1] == "same"

    asyncio.run(run())


class Model:
    """What the Lua script must do, in a few lines of Python."""

    def __init__(self, kept: int) -> None:
        self.kept = kept
        self.floor = float("-inf")
        self.events: list[tuple[int, int, str]] = []  # ms, order of arrival, item
        self.ids: set[str] = set()

    def append(self, events: list[Event]) -> list[Outcome]:
        outcomes = [self._one(event) for event in events]
        excess = len(self.events) - self.kept
        if excess > 0:
            quarter = max(1, self.kept // 4)
            cut = -(-excess // quarter) * quarter
            self.floor = self.events[cut - 1][0]
            self.events = self.events[cut:]
        return outcomes

    def _one(self, event: Event) -> Outcome:
        assert event.timestamp_ms is not None
        if event.event_id in self.ids:
            return "duplicate"
        if event.event_id is not None:
            self.ids.add(event.event_id)
        if any((ms, item) == (event.timestamp_ms, event.item_id) for ms, _, item in self.events):
            return "duplicate"
        if event.timestamp_ms <= self.floor:
            return "old"
        orders = [order for ms, order, _ in self.events if ms == event.timestamp_ms]
        self.events.append((event.timestamp_ms, max(orders, default=-1) + 1, event.item_id))
        self.events.sort()
        return "accepted"


ONE_EVENT = st.tuples(
    st.sampled_from(["u", "v}", "v"]),
    st.sampled_from(["a", "b", "|", "ü-1|2"]),
    st.integers(-3, 8),
    st.sampled_from([None, None, None, "x", "y:z"]),
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kept=st.integers(1, 9), calls=st.lists(st.lists(ONE_EVENT, max_size=8), max_size=8), limit=st.integers(0, 9))
def test_equals_a_simple_model(
    server: Server, kept: int, calls: list[list[tuple[str, str, int, str | None]]], limit: int
) -> None:
    fresh = next(USERS)

    async def run() -> None:
        models: dict[str, Model] = {}
        async with opened(server, kept=kept) as histories:
            for call in calls:
                events = [Event(f"{user}{fresh}", item, at, event_id) for user, item, at, event_id in call]
                outcomes = await histories.append(events)
                for user in {event.user_id for event in events}:
                    model = models.setdefault(user, Model(kept))
                    of_user = [
                        outcome for event, outcome in zip(events, outcomes, strict=True) if event.user_id == user
                    ]
                    assert of_user == model.append([event for event in events if event.user_id == user])
                    items = [item for _, _, item in model.events]
                    assert await histories.read(user) == items
                    assert await histories.read(user, limit) == items[len(items) - min(limit, len(items)) :]

    asyncio.run(run())


def test_timestamp_or_text_out_of_range_writes_nothing(server: Server, user: str) -> None:
    async def run() -> None:
        async with opened(server) as histories:
            good = Event(user, "a", 1, None)
            for bad in (
                Event(user, "b", MAX_TIMESTAMP_MS + 1, None),
                Event(user, "b", -MAX_TIMESTAMP_MS - 1, None),
                Event(user, "\ud800", 1, None),
                Event("\ud800", "b", 1, None),
                Event(user, "b", 1, "\ud800"),
            ):
                with pytest.raises(ValueError, match=r"out of range|surrogates"):
                    await histories.append([good, bad])
            assert await histories.read(user) == []

    asyncio.run(run())


def test_garbage_under_one_user_s_key_fails_that_user_only(server: Server, user: str) -> None:
    async def run() -> None:
        async with opened(server) as histories:
            bad, good = f"{user}-bad", f"{user}-good"
            await histories._writes.set(user_key(bad, "history"), "foreign")
            for _ in range(10):
                event = Event(bad, "a", 1, "id")
                refused, accepted = await histories.append([event, Event(good, str(time.time_ns()), None, None)])
                assert isinstance(refused, HistoriesUnavailable)
                assert accepted == "accepted"
                with pytest.raises(HistoriesUnavailable):
                    await histories.read(bad)
            assert not histories.breaker_open
            assert histories.errors["response"] == 20
            assert await histories.forget(bad) == 0
            assert await histories.append([event]) == ["accepted"], "the failed write did not use up the event id"

            await histories._writes.set(user_key(good, "state"), "foreign")
            assert isinstance((await histories.append([Event(good, "x", 1, None)]))[0], HistoriesUnavailable)
            await histories.forget(good)
            await histories._writes.zadd(user_key(good, "history"), {b"\xff": 1})
            with pytest.raises(HistoriesUnavailable, match="no event"):
                await histories.read(good)

    asyncio.run(run())


def test_full_memory_refuses_writes_and_reads_on(server: Server, user: str) -> None:
    async def run() -> None:
        async with opened(server) as histories:
            await histories.append([Event(user, "a", 1, None)])
            await histories._writes.config_set("maxmemory", "1")
            try:
                outcomes = await histories.append([Event(user, "b", 2, "id")])
                assert isinstance(outcomes[0], HistoriesUnavailable)
                assert await histories.read(user) == ["a"]
                assert not histories.breaker_open
            finally:
                await histories._writes.config_set("maxmemory", "0")
            assert await histories.append([Event(user, "b", 2, "id")]) == ["accepted"]

    asyncio.run(run())


def test_script_is_loaded_again_when_redis_forgot_it(server: Server, user: str) -> None:
    async def run() -> None:
        async with opened(server) as histories:
            for number in range(3):
                await histories._writes.script_flush()
                users = [f"{user}-{other}" for other in range(150)]
                outcomes = await histories.append([Event(one, "a", number, None) for one in users])
                assert outcomes == ["accepted"] * 150

    asyncio.run(run())


def test_eviction_is_refused_and_a_missing_log_is_told(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        async with opened(server) as histories:
            admin = histories._writes
            try:
                for policy in ("allkeys-lru", "volatile-ttl"):
                    await admin.config_set("maxmemory-policy", policy)
                    with pytest.raises(HistoriesRefused, match="noeviction"):
                        await UserHistories.open(server.url, timeout_s=2.0)
            finally:
                await admin.config_set("maxmemory-policy", "noeviction")
            assert not caplog.records
            await admin.config_set("appendonly", "no")
            try:
                async with opened(server):
                    pass
            finally:
                await admin.config_set("appendonly", "yes")
            assert "appendonly yes" in caplog.text

    with caplog.at_level(logging.WARNING):
        asyncio.run(run())


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + 10
    while not await condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.02)


def test_paused_redis_fails_fast_then_recovers(server: Server, user: str) -> None:
    async def run() -> None:
        async with opened(server, timeout_s=0.05) as histories, opened(server) as patient:
            assert await patient.append([Event(user, "a", 1, None)]) == ["accepted"]

            async def failing_read() -> float:
                started = time.monotonic()
                with pytest.raises(HistoriesUnavailable):
                    await histories.read(user)
                return time.monotonic() - started

            server.signal(signal.SIGSTOP)
            try:
                # The fastest of three: this machine may be busy with something else.
                assert min([await failing_read() for _ in range(3)]) < 0.15
                outcomes = await histories.append([Event(user, "b", 2, None)])
                assert isinstance(outcomes[0], HistoriesUnavailable)
                with pytest.raises(HistoriesUnavailable):
                    await histories.forget(user)
                assert histories.errors["timeout"] >= 5
                assert histories.breaker_open
                asked = histories.errors["timeout"]
                await asyncio.gather(*(failing_read() for _ in range(100)))
                assert histories.errors["breaker"] >= 99
                assert histories.errors["timeout"] - asked <= 1, "an open breaker lets one probe through at most"
            finally:
                server.signal(signal.SIGCONT)

            async def recovered() -> bool:
                try:
                    return "a" in await histories.read(user)
                except HistoriesUnavailable:
                    return False

            await until(recovered)
            assert not histories.breaker_open
            assert await patient.append([Event(user, "c", 3, None)]) == ["accepted"]
            assert (await patient.read(user))[-1] == "c"

    asyncio.run(run())


def test_cancelled_calls_leave_no_trace(server: Server, user: str) -> None:
    async def run() -> None:
        async with opened(server) as histories:
            server.signal(signal.SIGSTOP)
            try:
                reads = [asyncio.create_task(histories.read(user)) for _ in range(60)]
                # All must have sent: while redis-py sends, Python 3.11's wait_for can lose a cancellation.
                await asyncio.sleep(0.5)
                for read in reads:
                    read.cancel()
                await asyncio.wait(reads)
                assert all(read.cancelled() for read in reads)
            finally:
                server.signal(signal.SIGCONT)
            assert await asyncio.gather(*(histories.read(user) for _ in range(60))) == [[]] * 60
            assert not histories.errors

    asyncio.run(run())


def test_start_without_redis_and_its_check_when_it_comes(user: str, caplog: pytest.LogCaptureFixture) -> None:
    server = Server(Path(tempfile.mkdtemp(prefix="naiseki-test-")))

    async def run() -> None:
        async with opened(server) as histories:
            assert "no histories until" in caplog.text
            with pytest.raises(HistoriesUnavailable):
                await histories.read(user)
            assert isinstance((await histories.append([Event(user, "a", 1, None)]))[0], HistoriesUnavailable)
            await asyncio.to_thread(server.start)
            async with opened(server) as other:
                await other._writes.config_set("maxmemory-policy", "allkeys-lfu")
                with pytest.raises(HistoriesUnavailable, match="noeviction"):
                    await histories.read(user)
                await other._writes.config_set("maxmemory-policy", "noeviction")
            assert await histories.append([Event(user, "a", 1, None)]) == ["accepted"]

    try:
        asyncio.run(run())
    finally:
        server.stop()
        shutil.rmtree(server.folder)


def test_no_address() -> None:
    with pytest.raises(ValueError, match="scheme"):
        asyncio.run(UserHistories.open("http://localhost"))
    with pytest.raises(ValueError, match="kept"):
        asyncio.run(UserHistories.open("redis://localhost", kept=0))
