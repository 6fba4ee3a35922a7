"""What a connection may cost before there is a request: time, bytes, and its being there at all.

uvicorn waits for the end of a request's head as long as it takes, reads one of any length, and waits for ever for a
client that does not read its answer. Bodies are the edge's business.
"""

from __future__ import annotations

import asyncio
import resource
import secrets
from dataclasses import dataclass
from typing import Any, ClassVar

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.errors import Problem, not_ready
from app.metrics import Metrics

_OTHER_FILES = 512  # Redis, the store, a bundle that is being loaded
_LINGER_S = 1.0
_REFUSED_S = 2.0  # for a client that is to be told that there are too many


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """seconds: for a request's head, and for reading an answer. head_bytes: request line and headers. connections:
    beyond so many new ones are answered 503, beyond twice as many not at all."""

    seconds: float
    head_bytes: int
    connections: int


class LimitedProtocol(HttpToolsProtocol):
    """Use `limited`: a class of its own for each app."""

    limits: ClassVar[ClientLimits]
    metrics: ClassVar[Metrics]
    _head_open = False
    _head_bytes = 0
    _refused = False
    _head_timer: asyncio.TimerHandle | None = None
    _answer_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        seconds = self.limits.seconds
        if len(self.connections) > self.limits.connections:
            self.metrics.rejects.labels("connections").inc()
            if len(self.connections) > 2 * self.limits.connections:
                transport.abort()
                return
            self.app = answering(not_ready("too many connections (NAISEKI_CONNECTIONS)"))
            seconds = min(seconds, _REFUSED_S)
        self._head_timer = self.loop.call_later(seconds, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop(self._head_timer, self._answer_timer)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        # Also what is no request, an empty line or the rest of a body that was refused, keeps nothing open for ever.
        if self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
            self._head_timer = self.loop.call_later(self.limits.seconds, self._too_slow)
        if self._head_open:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._head_open and self._head_bytes > self.limits.head_bytes:
            self._refuse(self._too_long())

    def on_message_begin(self) -> None:
        self._head_open, self._head_bytes = True, 0
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.limits.seconds, self._too_slow)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head_open = False
        self._stop(self._head_timer)
        self._head_timer = None
        served = self.app
        length = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if length > self.limits.head_bytes:  # it came in one piece
            self.app = answering(self._too_long())
        super().on_headers_complete()
        self.app = served

    def pause_writing(self) -> None:
        self._answer_timer = self.loop.call_later(self.limits.seconds, self._does_not_read)
        super().pause_writing()

    def resume_writing(self) -> None:
        self._stop(self._answer_timer)
        super().resume_writing()

    def _too_slow(self) -> None:
        if not self._head_open:
            self.transport.close()  # it has asked for nothing
            return
        self.metrics.rejects.labels("slow").inc()
        self._refuse(too_slow(self.limits.seconds))

    def _does_not_read(self) -> None:
        self.metrics.rejects.labels("slow").inc()
        self.transport.abort()  # `close` would wait for it to read

    def _too_long(self) -> Problem:
        detail = f"request line and headers hold at most {self.limits.head_bytes} bytes (NAISEKI_HEAD_BYTES)"
        return Problem("too-large", detail, {"Connection": "close"})

    def _refuse(self, problem: Problem) -> None:
        """Without a request there is nothing to hand to the app."""
        if self.transport.is_closing() or self._refused:
            return
        self._refused = True
        if self.cycle is None or self.cycle.response_complete:
            response = _response(problem)
            lines = [f"HTTP/1.1 {problem.status} {problem.body()['title']}".encode()]
            lines += [name + b": " + value for name, value in response.raw_headers]
            self.transport.write(b"\r\n".join(lines) + b"\r\n\r\n" + bytes(response.body))
        # Closed with bytes unread, the system would tell the client of a reset before it has read why.
        self.transport.write_eof()
        self.loop.call_later(_LINGER_S, self.transport.close)

    @staticmethod
    def _stop(*timers: asyncio.TimerHandle | None) -> None:
        for timer in timers:
            if timer is not None:
                timer.cancel()


def limited(limits: ClientLimits, metrics: Metrics) -> type[LimitedProtocol]:
    """For `uvicorn.Config(http=...)`."""
    return type("AppProtocol", (LimitedProtocol,), {"limits": limits, "metrics": metrics})


def answering(problem: Problem) -> Any:
    """An app that has only this to say, and then hangs up."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        response = _response(problem)
        response.headers["connection"] = "close"
        await response(scope, receive, send)

    said: ASGIApp = app
    return said


def _response(problem: Problem) -> Response:
    """The edge has not seen this request: it needs an id, and the headers that matter for a problem."""
    request_id = f"r-{secrets.token_hex(8)}"
    response = problem.response(request_id)
    response.headers.update(
        {"x-request-id": request_id, "cache-control": "no-store", "x-content-type-options": "nosniff"}
    )
    return response


def too_slow(seconds: float) -> Problem:
    return Problem(
        "too-slow", f"the request did not arrive within {seconds:g} s (NAISEKI_CLIENT_SECONDS)", {"Connection": "close"}
    )


def make_room(connections: int) -> None:
    """Raises this process's limit of open files, as far as it may: shells and service managers start with 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * connections + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
