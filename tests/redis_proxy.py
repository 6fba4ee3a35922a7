"""A TCP proxy in front of a real Redis, that can delay, pause, cut, refuse, garble, and swallow replies.

It runs on a thread of its own, so tests steer it from anywhere:

    with RedisProxy(server.socket) as proxy:
        histories = await UserHistories.open(proxy.url)
        proxy.pause()
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType


class RedisProxy:
    """Attributes may be set at any time and hold from the next bytes on.

    delay_s: before each piece in either direction. garbage: sent in place of every reply. swallow: replies are read
    and thrown away, so that what was asked is done and nobody hears of it.
    """

    def __init__(self, upstream: Path | tuple[str, int]) -> None:
        """upstream: the server's socket, or its host and port."""
        self._upstream = upstream
        self.delay_s = 0.0
        self.garbage = b""
        self.swallow = False
        self.connects = 0
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port: int = listener.getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever, name="redis-proxy", daemon=True)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def __enter__(self) -> RedisProxy:
        self._thread.start()
        self.accept()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def pause(self) -> None:
        """Nothing passes, and nothing ends: connections are still accepted, as by a host that hangs."""
        self._do(self._flowing.clear)

    def resume(self) -> None:
        """What was held back is delivered."""
        self._do(self._flowing.set)

    def cut(self) -> None:
        """Ends every connection of now; new ones are welcome."""
        self._do(self._cut)

    def refuse(self) -> None:
        """As if nobody listened: present connections end, new ones are refused."""
        asyncio.run_coroutine_threadsafe(self._stop_listening(), self._loop).result(10)

    def accept(self) -> None:
        """Listens (again), on the same port."""
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)

    def _do(self, what: Callable[[], object]) -> None:
        """On the proxy's thread, and done when this returns."""

        async def doing() -> None:
            what()

        asyncio.run_coroutine_threadsafe(doing(), self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)

    async def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self._cut()

    async def _close(self) -> None:
        await self._stop_listening()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _cut(self) -> None:
        for pair in self._pairs:
            for writer in pair:
                writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connects += 1
        try:
            if isinstance(self._upstream, Path):
                answers, asks = await asyncio.open_unix_connection(str(self._upstream))
            else:
                answers, asks = await asyncio.open_connection(*self._upstream)
        except OSError:
            writer.transport.abort()
            return
        pair = (writer, asks)
        self._pairs.add(pair)
        ways = [self._pump(reader, asks, reply=False), self._pump(answers, writer, reply=True)]
        tasks = [self._loop.create_task(way) for way in ways]
        self._tasks.update(tasks)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            self._tasks.difference_update(tasks)
            self._pairs.discard(pair)
            for one in pair:
                one.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, reply: bool) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(1 << 16):
                await self._flowing.wait()
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if reply and self.swallow:
                    continue
                sink.write(self.garbage if reply and self.garbage else data)
                await sink.drain()
