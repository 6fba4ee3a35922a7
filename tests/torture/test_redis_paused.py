"""Redis stops answering under load: recommendations go on, events are refused, and what was acknowledged is there."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from app.embedded_valkey import EmbeddedValkey
from tests.redis_proxy import RedisProxy
from tests.torture.bundles import TwoVersions
from tests.torture.event_writers import EventWriters
from tests.torture.figures import Figures
from tests.torture.http_connection import Connections, request_bytes
from tests.torture.load import OpenLoad, Sent, peak, percentile_ms
from tests.torture.service_process import ServiceProcess
from tests.torture.test_swaps import SHARE_OF_PEAK

ROUNDS, PAUSE_SECONDS, STEADY_SECONDS = 5, 30.0, 10.0
USERS = 50
SETTLED_SECONDS = 3.0  # after the pause, so that what was under way when it began is answered


@dataclass
class Paused:
    """One entry per round in `steady` and `added`: p99 in ms before the pause, and with the breaker open."""

    steady: list[float] = field(default_factory=list)
    broken: list[float] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    acknowledged_meanwhile: int = 0
    refused_calls: int = 0
    lost: list[str] = field(default_factory=list)


def of_user(n: int) -> bytes:
    return request_bytes("POST", "/v1/recommend", b'{"user_id": "known-%d"}' % (n % USERS))


async def breaker_is_open(connections: Connections) -> bool:
    text = (await connections.ask(request_bytes("GET", "/metrics"))).body.decode()
    return re.search(r"^naiseki_redis_breaker_open(\{.*\})? 1\.0$", text, flags=re.MULTILINE) is not None


async def pause_under_load(service: ServiceProcess, proxy: RedisProxy, writers: EventWriters, *, full: bool) -> Paused:
    told = Paused()
    rate = SHARE_OF_PEAK * await peak(service.port, of_user, seconds=5) if full else 30.0
    steady, pause = (STEADY_SECONDS, PAUSE_SECONDS) if full else (1.0, 2.0)
    async with Connections(service.port) as connections, OpenLoad(service.port, of_user, rate) as load:
        for _ in range(ROUNDS if full else 1):
            start = time.perf_counter()
            await asyncio.sleep(steady)
            proxy.pause()
            told.steady.append(percentile_ms([one.seconds for one in load.between(start, time.perf_counter() - 0.1)]))
            end = time.perf_counter() + pause
            while not await breaker_is_open(connections):
                await asyncio.sleep(0.02)
                assert time.perf_counter() < end, "the breaker never opened"
            await asyncio.sleep(0.5)
            opened, acknowledged = time.perf_counter(), writers.count
            await asyncio.sleep(end - time.perf_counter())
            told.acknowledged_meanwhile += writers.count - acknowledged
            told.broken.append(percentile_ms([one.seconds for one in load.between(opened, end - 0.1)]))
            proxy.resume()
            await asyncio.sleep(SETTLED_SECONDS)
        await load.ended()
        told.sent = load.sent
    return told


async def told_by(service: ServiceProcess, proxy: RedisProxy, *, full: bool) -> Paused:
    events = [{"user_id": f"known-{n}", "item_id": f"alpha-{n}"} for n in range(USERS)]
    known = await asyncio.to_thread(service.http.post, "/v1/events", json={"events": events})
    assert known.json()["accepted"] == USERS
    writers = EventWriters(service.port, clients=2, again=None)
    writing = asyncio.create_task(writers.run())
    told = await pause_under_load(service, proxy, writers, full=full)
    writers.stopping = True
    await writing
    told.lost, _ = await asyncio.to_thread(writers.audit, service.http)
    told.refused_calls = writers.refused_calls
    return told


async def torture(versions: TwoVersions, folder: Path, *, full: bool) -> Paused:
    redis = EmbeddedValkey(folder / "redis")
    socket = unquote((await redis.start()).removeprefix("unix://"))
    try:
        with RedisProxy(Path(socket)) as proxy:
            service = ServiceProcess(
                versions.store.root, folder / "data", pinned=full, prepared=(versions.first,),
                redis_url=proxy.url,
            )  # fmt: skip
            try:
                await asyncio.to_thread(service.__enter__)
                return await told_by(service, proxy, full=full)
            finally:
                await asyncio.to_thread(service.stop)
    finally:
        await redis.stop()


def test_recommendations_go_on(
    two_versions: Callable[[str], TwoVersions], tmp_path: Path, full: bool, figures: Figures
) -> None:
    told = asyncio.run(torture(two_versions("sequence"), tmp_path, full=full))
    errors = [one.answer for one in told.sent if one.answer.status >= 500 or one.answer.status == 0]
    popular = sum(b'"history_unavailable"' in one.answer.body for one in told.sent)
    assert popular > 10, "Redis was never missed: nothing was proved"
    assert told.refused_calls > 0
    figures.tell("Redis paused under load: 5xx on recommend", len(errors))
    figures.tell("Redis paused under load: events acknowledged and lost", len(told.lost))
    figures.tell("Redis paused under load: events acknowledged while paused", told.acknowledged_meanwhile)
    figures.tell(
        "Redis paused under load: added p99 once the breaker is open", max(0.0, min(told.broken) - min(told.steady))
    )
    assert not errors, errors[0]
    assert not told.lost, told.lost[:10]
    assert told.acknowledged_meanwhile == 0
