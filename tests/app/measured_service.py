"""A service that times its own event loop: `python measured_service.py`, with NAISEKI_* variables.

Prints one JSON line when it serves its first version, and one when it serves the next, and ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

import uvicorn

from app.collector import set_aside_start_up
from app.main import create_app
from app.server import SWITCH_SECONDS, server_config
from app.service import Service
from app.settings import Settings

AFTER_SECONDS = 1.0  # what was postponed must not come back as a stall


def tell(version: str, longest: float) -> None:
    line = {"version": version, "longest": longest, "transformers": "transformers" in sys.modules}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


async def measure(service: Service) -> None:
    while service.versions.serving is None:
        await asyncio.sleep(0.05)
    first = service.versions.current().live.version
    tell(first, 0.0)
    longest, before, end = 0.0, time.perf_counter(), float("inf")
    while before < end:
        await asyncio.sleep(0.002)
        now = time.perf_counter()
        longest, before = max(longest, now - before - 0.002), now
        if end == float("inf") and service.versions.current().live.version != first:
            end = now + AFTER_SECONDS
    tell(service.versions.current().live.version, longest)


async def main() -> None:
    settings = Settings.read(os.environ)
    app = create_app(settings)
    server = uvicorn.Server(server_config(app, settings))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    await measure(app.state.service)
    server.should_exit = True
    await serving


if __name__ == "__main__":
    sys.setswitchinterval(SWITCH_SECONDS)
    set_aside_start_up()
    asyncio.run(main())
