"""One HTTP/1.1 connection of a load generator: nothing that a client library adds."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import httptools

HEAD = "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {n}\r\n\r\n"


@dataclass(slots=True)
class Answer:
    """status: 0 when the connection ended without an answer."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


def request_bytes(method: str, path: str, body: bytes = b"") -> bytes:
    return HEAD.format(method=method, path=path, n=len(body)).encode() + body


class Connection(asyncio.Protocol):
    """Keep-alive, one request at a time; the caller sends the next after the answer."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[Answer] | None = None
        self._answer = Answer()
        self._parts: list[bytes] = []
        self.usable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(Answer())

    def on_header(self, name: bytes, value: bytes) -> None:
        self._answer.headers[name.decode().lower()] = value.decode()

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        self._answer.status = self._parser.get_status_code()
        self._answer.body = b"".join(self._parts)
        self.usable = self.usable and self._parser.should_keep_alive()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(self._answer)

    async def ask(self, request: bytes) -> Answer:
        assert self._transport is not None
        self._answer, self._parts = Answer(), []
        self._waiting = asyncio.get_running_loop().create_future()
        if self._transport.is_closing():
            return Answer()
        self._transport.write(request)
        return await self._waiting

    def close(self) -> None:
        self.usable = False
        if self._transport is not None:
            self._transport.abort()


class Connections:
    """As many connections to one port as there are requests under way; ended ones are never used again."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()

    async def ask(self, request: bytes, *, seconds: float = 30.0) -> Answer:
        """Status 0 when nobody listens, the connection ends, or `seconds` are over."""
        while self._idle and not self._idle[-1].usable:
            self._idle.pop()
        if self._idle:
            connection = self._idle.pop()
        else:
            try:
                _, connection = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", self._port)
            except OSError:
                return Answer()
            self._open.add(connection)
        try:
            async with asyncio.timeout(seconds):
                answer = await connection.ask(request)
        except TimeoutError:
            connection.close()
            return Answer()
        if connection.usable:
            self._idle.append(connection)
        else:
            connection.close()
            self._open.discard(connection)
        return answer

    async def close(self) -> None:
        for connection in self._open:
            connection.close()
        await asyncio.sleep(0)  # they are gone in the loop's next turn

    async def __aenter__(self) -> Connections:
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self.close()
