"""The Redis that the service runs itself when it is given none: one server per data folder, shared by processes.

Three locks in the data folder tell who is alive:
- `valkey.lock`, held by the owner, who starts the server, restarts it when it dies, and stops it last;
- `valkey.users`, shared by all who use it: an owner who leaves while others stay leaves the server to them;
- `valkey.life`, held by the server itself: two servers on one append-only file would destroy it.
A process that finds no living owner becomes the owner, of the server that still runs if there is one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import subprocess
import time
from pathlib import Path
from urllib.parse import quote

from app.ending import end
from app.file_lock import FileLock
from app.valkey_server import Answer, ValkeyRefused, ask, last_words, server_program, socket_path, start_server

__all__ = ["EmbeddedValkey", "ValkeyRefused"]

log = logging.getLogger(__name__)

_POLL_S = 0.2
_STOP_S = 10.0
_STARTS = 3


class EmbeddedValkey:
    """The server of one data folder. Belongs to the event loop that started it.

    program: instead of the one that is found. start_s: how long a start may take (the server reads its whole
    append-only file first).
    """

    def __init__(self, data_folder: Path, *, program: Path | None = None, start_s: float = 60.0) -> None:
        self._data = data_folder.resolve()
        self._folder = self._data / "valkey"
        self._program = program
        self._start_s = start_s
        self._owner = FileLock(self._data / "valkey.lock")
        self._users = FileLock(self._data / "valkey.users")
        self._life = FileLock(self._data / "valkey.life")
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: asyncio.Task[None] | None = None

    @property
    def is_owner(self) -> bool:
        return self._owner.held

    async def start(self) -> str:
        """Starts or joins the server; returns its URL once it answers. Raises ValkeyRefused, which names the cure."""
        program = self._program or server_program()
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            socket = socket_path(self._data)
            await self._join(program, socket)
        except BaseException as error:
            with contextlib.suppress(OSError, ValkeyRefused):  # the folder may be what is wrong
                await self._leave(socket_path(self._data))
            if isinstance(error, OSError):
                raise ValkeyRefused(f"NAISEKI_DATA={self._data} cannot be used: {error}") from error
            raise
        self._watcher = asyncio.create_task(self._watch(program, socket), name="embedded-valkey")
        return f"unix://{quote(str(socket))}"

    async def stop(self) -> None:
        """Leaves; stops the server, with SIGTERM, if nobody else uses it. Safe to call twice."""
        if self._watcher is not None:
            await end(self._watcher)
            self._watcher = None
            await self._leave(socket_path(self._data))

    async def _leave(self, socket: Path) -> None:
        try:
            self._users.release()
            # Twice, because two who leave at once can each find the other one there; and a joiner tries as well:
            # its owner may have died a moment ago.
            for _ in range(2):
                alone = self._owner.take() and self._users.take()
                if alone:
                    await self._stop_server(socket)
                self._users.release()
                self._owner.release()
                if alone:
                    break
        finally:
            self._users.release()
            self._owner.release()
            if self._process is not None:
                # It serves the others now, and is theirs to stop; or whoever comes next adopts it, where leaving failed
                # or was cancelled. Without this Popen would complain that it still runs.
                self._process.returncode = 0
                self._process = None

    async def _join(self, program: Path, socket: Path) -> None:
        """Returns when the server answers, with this process among its users and perhaps its owner."""
        deadline = time.monotonic() + self._start_s
        starts = 0
        while True:
            # `users` is held exclusively only by an owner who is just stopping the server.
            if self._users.take(shared=True):
                self._owner.take()
                answer = await ask(socket)
                if answer is Answer.READY:
                    return
                if answer is Answer.GONE and self._owner.held and self._server_ended() and self._life.take():
                    starts += 1
                    if starts > _STARTS:
                        raise ValkeyRefused(f"{program} ended {_STARTS} times: {last_words(self._folder)}")
                    self._start_server(program, socket)
            if time.monotonic() > deadline:
                raise ValkeyRefused(f"no answer on {socket}, though a server or its owner lives: see {self._folder}")
            await asyncio.sleep(_POLL_S / 4)

    def _server_ended(self) -> bool:
        """Whether no server that this process started is alive. Raises ValkeyRefused if it gave up by itself."""
        if self._process is None:
            return True
        code = self._process.poll()
        if code is None:
            return False
        self._process = None
        if code > 0:
            raise ValkeyRefused(f"the server of {self._folder} gave up: {last_words(self._folder)}")
        return True

    def _start_server(self, program: Path, socket: Path) -> None:
        log.info("starting %s for %s", program, self._folder)
        try:
            self._process = start_server(program, self._folder, socket, life=self._life.descriptor())
        except OSError as error:
            raise ValkeyRefused(f"{program} cannot be run: {error}") from error
        finally:
            self._life.release()

    async def _watch(self, program: Path, socket: Path) -> None:
        """The owner restarts a dead server; a joiner becomes the owner when there is none."""
        wait = _POLL_S
        while True:
            await asyncio.sleep(wait)
            wait = _POLL_S
            try:
                if not self._owner.take() or await ask(socket) is not Answer.GONE:
                    continue
                log.error("the server on %s is gone: restarting it", socket)
                if self._process is not None:
                    # Alive without a socket: somebody removed the file. No acknowledged event is lost by this.
                    self._process.terminate()
                await self._join(program, socket)
            except (ValkeyRefused, OSError) as error:
                wait = 5.0
                log.error("the server cannot be restarted: %s", error)

    async def _stop_server(self, socket: Path) -> None:
        if self._process is not None:
            self._process.terminate()
        else:
            # Started by a process that is dead: its number may be somebody else's by now.
            await ask(socket, b"SHUTDOWN")
        deadline = time.monotonic() + _STOP_S
        while await ask(socket) is not Answer.GONE or not self._life.take():
            if time.monotonic() > deadline:
                log.error("the server on %s does not stop", socket)
                if self._process is not None:
                    self._process.kill()  # what it acknowledged is on the disk
                break
            await asyncio.sleep(_POLL_S / 4)
        self._life.release()
        if self._process is not None:
            self._process.wait()
            self._process = None
