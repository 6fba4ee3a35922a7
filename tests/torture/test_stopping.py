"""SIGTERM under load: whoever heeds readiness, and whoever waits for an answer, gets every answer."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable
from pathlib import Path

from tests.torture.bundles import TwoVersions
from tests.torture.figures import Figures
from tests.torture.http_connection import Answer, Connections, request_bytes
from tests.torture.load import OpenLoad, failed, peak
from tests.torture.service_process import ServiceProcess
from tests.torture.test_swaps import SHARE_OF_PEAK, SHORT_RATE, body

ROUNDS = 20
GRACE_SECONDS, LOOK_SECONDS = 1.0, 0.3
LONG_CALLS, BEFORE_CLOSING_SECONDS = 4, 0.15


async def stop_under_load(service: ServiceProcess, versions: TwoVersions, *, full: bool) -> list[Answer]:
    """Requests that got no answer, or another than 200.

    One client is a load balancer: it looks at /readyz now and then, and sends nothing once that is off. Others have
    just sent long calls when the listener closes.
    """
    request = body(versions)
    rate = SHARE_OF_PEAK * await peak(service.port, request, seconds=2) if full else SHORT_RATE
    long = {"requests": [{"history": versions.history(n), "k": 1000} for n in range(100)]}
    async with Connections(service.port) as others:
        warm = await asyncio.gather(*(others.ask(request(n)) for n in range(LONG_CALLS)))  # connections that are open
        async with OpenLoad(service.port, request, rate) as load:
            await asyncio.sleep(1.0)
            service.signal(signal.SIGTERM)
            closing = asyncio.get_running_loop().time() + GRACE_SECONDS
            while (await others.ask(request_bytes("GET", "/readyz"))).status == 200:
                await asyncio.sleep(LOOK_SECONDS)
            await load.ended()
            await asyncio.sleep(closing - BEFORE_CLOSING_SECONDS - asyncio.get_running_loop().time())
            call = request_bytes("POST", "/v1/recommend/batch", json.dumps(long).encode())
            late = await asyncio.gather(*(others.ask(call) for _ in range(LONG_CALLS)))
    assert len(load.sent) > SHORT_RATE / 2
    return [one.answer for one in failed(load.sent)] + [one for one in (*warm, *late) if one.status != 200]


def test_nothing_is_lost(
    two_versions: Callable[[str], TwoVersions], tmp_path: Path, full: bool, figures: Figures
) -> None:
    versions = two_versions("sequence")
    lost: list[Answer] = []
    with ServiceProcess(
        versions.store.root, tmp_path / "data", pinned=full, prepared=(versions.first,),
        grace_seconds=GRACE_SECONDS, log_level="warning", redis_url="none", queue_tokens=10**6,
    ) as service:  # fmt: skip
        for n in range(ROUNDS if full else 1):
            if n:
                service.start().ready()
            lost += asyncio.run(stop_under_load(service, versions, full=full))
            assert service.ended() == 0, service.log_text()[-2000:]
    figures.tell("SIGTERM under load, 20 rounds: requests lost", len(lost))
    assert not lost, lost[0]
