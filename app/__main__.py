"""python -m app [serve]           serves until SIGTERM or Ctrl-C; settings come from NAISEKI_* variables
python -m app import-events FILE  fills histories from a log of events
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

import uvicorn
from fastapi import FastAPI

from app.logs import log_as_json
from app.main import create_app
from app.service import Service
from app.settings import Settings, SettingsRefused
from model_store.faiss_install import WrongFaissInstall, check_one_faiss

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


def serve(settings: Settings) -> int:
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http="httptools",
        loop="uvloop",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=settings.shutdown_seconds,
    )
    sys.setswitchinterval(SWITCH_SECONDS)
    server = Server(config, app, settings.grace_seconds)
    server.run()
    return 0 if server.started else 1


def main(arguments: Sequence[str]) -> int:
    command, *rest = arguments or ["serve"]
    if command == "import-events":
        from app import import_events  # it brings polars' readers, which serving does not need

        return int(import_events.main(rest) or 0)
    if command != "serve" or rest:
        sys.stderr.write(__doc__ or "")
        return 0 if command in ("-h", "--help") else 2
    try:
        check_one_faiss()
        settings = Settings.read(os.environ)
    except (SettingsRefused, WrongFaissInstall) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    log_as_json(settings.log_level)
    return serve(settings)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
