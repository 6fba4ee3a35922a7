"""uvicorn with our settings, and our way to stop."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from types import FrameType

import uvicorn
from fastapi import FastAPI

from app.client_limits import ClientLimits, limited, make_room
from app.collector import set_aside_start_up
from app.main import create_app
from app.service import Service
from app.settings import Settings

SWITCH_SECONDS = 0.001  # the inference thread hands the interpreter to the event loop after this long, not after 5 ms
_log = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """uvicorn closes its listener at once on SIGTERM; here readiness goes off first, and clients have time to see it.

    SIGTERM: /readyz says 503, grace, then no new connection, what is in flight is finished, exit with 0.
    Ctrl-C: the same without the grace; a second one ends without finishing.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI, grace_seconds: float) -> None:
        super().__init__(config)
        self._app, self._grace_seconds = app, grace_seconds

    async def startup(self, *args: object, **kwargs: object) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(*args, **kwargs)  # type: ignore[arg-type]

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's
        service = getattr(self._app.state, "service", None)
        if isinstance(service, Service) and not service.draining and not self.should_exit:
            service.draining = True
            grace = self._grace_seconds if sig == signal.SIGTERM else 0.0
            _log.info("stopping: readiness is off, the listener closes in %.1f s", grace)
            self._loop.call_soon_threadsafe(self._loop.call_later, grace, self._stop)
        elif sig == signal.SIGINT and self.should_exit:
            self.force_exit = True
        else:
            self._stop()

    def _stop(self) -> None:
        self.should_exit = True


def server_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
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
    return 0 if server.started else 1
