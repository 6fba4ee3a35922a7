"""uvicorn with our settings, and our ways to stop.

Exit statuses: 0, stopped as asked. 1, could not start, could not stop in time, or the interpreter stood still. 2, a
setting was refused. 70, the inference thread was lost: the supervisor should start the process again.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from app.client_limits import ClientLimits, limited, make_room
from app.closing_connections import ClosesWhileDraining, leave_at_the_door
from app.collector import set_aside_start_up
from app.main import create_app
from app.service import Service
from app.settings import Settings

SWITCH_SECONDS = 0.001  # the inference thread hands the interpreter to the event loop after this long, not after 5 ms
LOST_STATUS = 70  # EX_SOFTWARE of sysexits.h
ACCEPT_SECONDS = 0.1  # for connections that the kernel has accepted and we have not
LINGER_SECONDS = 0.25  # between the closing of the listener and that of idle connections: a request may be on its way
FLUSH_SECONDS = 0.3  # for a last answer to leave
HURRY_SECONDS = 3  # for what is in flight, after a second signal or without an inference thread
LAST_SECONDS = 10  # for everything else that ends with the process
# Native code that keeps the interpreter's lock stops every thread, whoever watches. Then only a timer of the C library
# can end the process.
STILL_SECONDS = 30.0
_log = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """uvicorn closes its listener at once on SIGTERM; here readiness goes off first, and clients have time to see it.

    SIGTERM: /readyz says 503, grace, then no new connection, what is in flight is finished, exit with 0: after grace +
    shutdown_seconds + LAST_SECONDS at the latest. Ctrl-C: the same without the grace. A second signal: no grace, and
    HURRY_SECONDS for what is in flight; a third: one second for everything, and then 1.
    status: what the process is to exit with when it is not 0.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI, grace_seconds: float) -> None:
        super().__init__(config)
        self._app, self._grace_seconds = app, grace_seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._signals = 0
        self.status = 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:
            faulthandler.dump_traceback_later(STILL_SECONDS, exit=True)
        service = self._service
        if service is not None and service.batcher.broken is not None:
            service.draining, self.status = True, LOST_STATUS
            self.config.timeout_graceful_shutdown = HURRY_SECONDS
            return True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        faulthandler.cancel_dump_traceback_later()
        _end_within((self.config.timeout_graceful_shutdown or 0) + LAST_SECONDS, self.status or 1)
        for listener in [listener for server in self.servers for listener in server.sockets]:
            leave_at_the_door(listener.fileno())
        await asyncio.sleep(ACCEPT_SECONDS)
        for server in self.servers:
            server.close()
        await asyncio.sleep(LINGER_SECONDS)
        self._later(max(0.0, (self.config.timeout_graceful_shutdown or 0) - FLUSH_SECONDS), self._abandon)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's
        self._signals += 1
        service = self._service
        if self._signals == 1 and service is not None and not self.should_exit:
            service.draining = True
            grace = self._grace_seconds if sig == signal.SIGTERM else 0.0
            _log.info("stopping: readiness is off, the listener closes in %.1f s", grace)
            self._later(grace, self._stop)
            return
        self._stop()
        if self._signals == 2:
            _log.info("stopping at once: what is in flight has %d s", HURRY_SECONDS)
            self._later(HURRY_SECONDS, self._cut)
        elif self._signals > 2:
            self._cut()
            _end_within(1.0, 1)

    @property
    def _service(self) -> Service | None:
        service = getattr(self._app.state, "service", None)
        return service if isinstance(service, Service) else None

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.call_later, seconds, act)

    def _stop(self) -> None:
        self.should_exit = True

    def _cut(self) -> None:
        """Whoever still waits is told; only what then is not finished is broken off."""
        self._abandon()
        self._later(FLUSH_SECONDS, self._force)

    def _abandon(self) -> None:
        if self._service is not None:
            self._service.batcher.abandon("the service is going away")

    def _force(self) -> None:
        self.force_exit = True


def _end_within(seconds: float, status: int) -> None:
    timer = threading.Timer(seconds, os._exit, (status,))
    timer.daemon = True
    timer.start()


def server_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        ClosesWhileDraining(app),
        host=settings.host,
        port=settings.port,
        http=limited(
            ClientLimits(settings.client_seconds, settings.head_bytes, settings.connections), app.state.metrics
        ),
        loop="uvloop",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=settings.shutdown_seconds,
    )


def serve(settings: Settings) -> int:
    app = create_app(settings)
    sys.setswitchinterval(SWITCH_SECONDS)
    set_aside_start_up()
    make_room(settings.connections)
    server = Server(server_config(app, settings), app, settings.grace_seconds)
    server.run()
    if server.status:
        # Without waiting for threads: one of them never ends.
        logging.shutdown()
        os._exit(server.status)
    return 0 if server.started else 1
