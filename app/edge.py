"""The outermost layer of every request: body limit, headers, the log line, and the last catch."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.client_limits import too_slow
from app.errors import Problem, problem_of
from app.metrics import Metrics

SECURITY = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "interest-cohort=(), camera=(), microphone=(), geolocation=()",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}
_UNLESS_SAID = [(name.encode(), value.encode()) for name, value in (SECURITY | {"cache-control": "no-store"}).items()]
_TRACE = "naiseki.trace"
POLLED = ("/livez", "/readyz")  # asked every few seconds for ever: their answers are logged as debug
_access = logging.getLogger("app.access")


class Trace:
    """What is known of one request by the time it is answered: its id, and the version that answered."""

    __slots__ = ("request_id", "started", "version")

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.request_id = f"r-{secrets.token_hex(8)}"
        self.version: str | None = None

    @staticmethod
    def of(scope: Any) -> Trace:
        trace = scope[_TRACE]
        assert isinstance(trace, Trace)
        return trace


@dataclass(frozen=True, slots=True)
class EdgeLimits:
    """client_seconds: from a request's head to the end of its body."""

    body_bytes: int
    url_bytes: int
    client_seconds: float


class Edge:
    """Pure ASGI (`BaseHTTPMiddleware` hides a client's disconnect, and costs a task per request)."""

    def __init__(self, app: ASGIApp, metrics: Metrics, limits: EdgeLimits) -> None:
        self._app, self._metrics, self._limits = app, metrics, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        trace = scope[_TRACE] = Trace()
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = self._head(list(message["headers"]), trace)
            await send(message)

        try:
            self._refuse_by_its_head(scope)
            await self._app(scope, self._limited(receive), sending)
        except Exception as error:  # the last catch: no stack trace ever reaches a client
            problem = problem_of(error)
            if problem.status >= 500:
                logging.getLogger(__name__).exception("unhandled", extra={"request_id": trace.request_id})
            if status == 0:
                await problem.response(trace.request_id)(scope, receive, sending)
        finally:
            self._account(scope, trace, status)

    def _refuse_by_its_head(self, scope: Scope) -> None:
        if len(scope["raw_path"]) + len(scope["query_string"]) > self._limits.url_bytes:
            raise Problem("too-large", f"a URL holds at most {self._limits.url_bytes} bytes (NAISEKI_URL_BYTES)")
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isascii() or not length.isdigit() or len(length) > 18 or int(length) > self._limits.body_bytes:
            raise too_large(self._limits.body_bytes)

    def _limited(self, receive: Receive) -> Receive:
        left, until = self._limits.body_bytes, time.monotonic() + self._limits.client_seconds
        whole = False

        async def receiving() -> Message:
            nonlocal left, whole
            if whole:  # whoever asks now waits for the client to leave
                return await receive()
            try:
                async with asyncio.timeout(until - time.monotonic()):
                    message = await receive()
            except TimeoutError:
                self._metrics.rejects.labels("slow").inc()
                raise too_slow(self._limits.client_seconds) from None
            left -= len(message.get("body", b""))
            if left < 0:
                raise too_large(self._limits.body_bytes)
            whole = not message.get("more_body", False)
            return message

        return receiving

    def _head(self, raw: list[tuple[bytes, bytes]], trace: Trace) -> list[tuple[bytes, bytes]]:
        said = {name for name, _ in raw}
        raw += [(name, value) for name, value in _UNLESS_SAID if name not in said]
        headers = MutableHeaders(raw=raw)
        headers["x-request-id"] = trace.request_id
        total = f"total;dur={(time.perf_counter() - trace.started) * 1000:.2f}"
        stages = headers.get("server-timing")
        headers["server-timing"] = f"{stages}, {total}" if stages else total
        return raw

    def _account(self, scope: Scope, trace: Trace, status: int) -> None:
        route = getattr(scope.get("route"), "path", "other")  # the template: a path may hold a user's id
        seconds = time.perf_counter() - trace.started
        self._metrics.request_seconds.labels(route).observe(seconds)
        self._metrics.requests.labels(route, str(status)).inc()
        level = logging.DEBUG if route in POLLED else logging.INFO
        if _access.isEnabledFor(level):
            _access.log(
                level,
                "%s %s %d",
                scope["method"],
                route,
                status,
                extra={"request_id": trace.request_id, "version": trace.version, "ms": round(seconds * 1000, 2)},
            )


def too_large(most: int) -> Problem:
    return Problem("too-large", f"a body holds at most {most} bytes (NAISEKI_BODY_BYTES)", {"Connection": "close"})
