"""kill -9 amid acknowledged events: of the service, of its Redis, of both at once."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from redis import Redis
from redis.exceptions import RedisError

from app.valkey_server import socket_path
from tests.torture.bundles import TwoVersions
from tests.torture.event_writers import EventWriters
from tests.torture.figures import Figures
from tests.torture.service_process import ServiceProcess

ROUNDS, EVENTS_PER_ROUND = 20, 500
SHORT_ROUNDS, SHORT_EVENTS_PER_ROUND = 3, 60


def server_of(data: Path, *, patience_s: float = 10.0) -> psutil.Process:
    """The Redis that the service runs for this data folder, by its own word; it may be just being started again."""
    until = time.monotonic() + patience_s
    while True:
        try:
            with Redis(unix_socket_path=str(socket_path(data.resolve())), socket_timeout=2) as redis:
                return psutil.Process(redis.info("server")["process_id"])
        except RedisError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


async def torture(service: ServiceProcess, *, rounds: int, events: int) -> EventWriters:
    writers, draw = EventWriters(service.port), random.Random(0)
    writing = asyncio.create_task(writers.run())
    for n in range(rounds):
        await writers.reach(writers.count + events)
        await asyncio.sleep(draw.random() * 0.1)  # anywhere within a call
        victims = ("service", "redis", "both")[n % 3]
        if victims != "service":
            (await asyncio.to_thread(server_of, service.data)).kill()
        if victims != "redis":
            service.signal(signal.SIGKILL)
            await asyncio.to_thread(service.ended)
            service.start()
    await writers.reach(writers.count + events)
    writers.stopping = True
    await writing
    return writers


def test_no_acknowledged_event_is_lost(
    two_versions: Callable[[str], TwoVersions], tmp_path: Path, full: bool, figures: Figures
) -> None:
    versions = two_versions("sequence")
    with ServiceProcess(
        versions.store.root, tmp_path / "data", pinned=full, prepared=(versions.first,), log_level="warning"
    ) as service:
        rounds, events = (ROUNDS, EVENTS_PER_ROUND) if full else (SHORT_ROUNDS, SHORT_EVENTS_PER_ROUND)
        writers = asyncio.run(torture(service, rounds=rounds, events=events))
        lost, twice = writers.audit(service.ready().http)
    assert writers.unanswered_calls >= rounds // 2, "no call was under way when something died: nothing was proved"
    figures.tell("kill -9, 20 rounds: acknowledged events", writers.count)
    figures.tell("kill -9, 20 rounds: acknowledged events lost", len(lost))
    figures.tell("kill -9, 20 rounds: duplicates", len(twice))
    assert not lost, lost[:10]
    assert not twice, twice[:10]
