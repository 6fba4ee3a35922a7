"""One real server process, set up as the embedded one is, that tests may pause, stop and start."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.file_lock import FileLock
from app.valkey_server import Answer, ask, server_program, start_server


class RedisServer:
    """Its data lie in `folder`, so that a server that starts again finds what was written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "s"
        self.url = f"unix://{self.socket}"

    def start(self) -> None:
        life = FileLock(self.folder / "life")
        assert life.take()
        self.process = start_server(server_program(), self.folder, self.socket, life=life.descriptor())
        life.release()
        deadline = time.monotonic() + 10
        while asyncio.run(ask(self.socket)) is not Answer.READY:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def redis_server() -> Iterator[RedisServer]:
    """A running server in a folder of its own, whose path is short enough for a socket."""
    server = RedisServer(Path(tempfile.mkdtemp(prefix="naiseki-test-")))
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.folder)
