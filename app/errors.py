"""One table from exceptions to RFC 9457 problems, read by walking the exception's classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from app.item_log import ItemsUnavailable, TooManyItems
from app.user_history import HistoriesUnavailable
from model_store.errors import StoreError, UnknownVersion

MEDIA_TYPE = "application/problem+json"
_REASONS_SHOWN = 20

STATUS = {
    "malformed": 400,
    "key-missing": 401,
    "key-not-admin": 403,
    "unknown-version": 404,
    "unknown-item": 404,
    "unknown-route": 404,
    "method-not-allowed": 405,
    "not-possible": 409,
    "too-large": 413,
    "unsupported-media-type": 415,
    "invalid": 422,
    "no-usable-history": 422,
    "too-slow": 408,
    "rate-limited": 429,
    "overloaded": 429,
    "client-gone": 499,
    "internal": 500,
    "not-ready": 503,
    "deadline": 504,
}


@dataclass(eq=False)
class Problem(Exception):
    """An answer that is not the one asked for. name: a key of STATUS. detail: for a person. members: further JSON."""

    name: str
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)
    members: Mapping[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> int:
        return STATUS[self.name]

    def body(self) -> dict[str, Any]:
        return {
            "type": f"/problems/{self.name}",
            "title": self.name.replace("-", " "),
            "status": self.status,
            "detail": self.detail,
            **self.members,
        }

    def response(self, request_id: str) -> Response:
        content = to_json({**self.body(), "request_id": request_id})
        return Response(content, self.status, headers=dict(self.headers), media_type=MEDIA_TYPE)


class ClientGone(Exception):
    """Nobody waits for this answer any more."""


def not_ready(detail: str, *, retry_after_s: float = 1.0) -> Problem:
    return Problem("not-ready", detail, {"Retry-After": str(math.ceil(retry_after_s))})


def overloaded(wait_s: float) -> Problem:
    """wait_s: how long what waits now will take."""
    wait = str(min(60, max(1, math.ceil(wait_s))))
    return Problem("overloaded", f"too much is waiting; try again in {wait} s", {"Retry-After": wait})


def deadline_passed() -> Problem:
    return Problem("deadline", "not answered within timeout_ms")


def _reason(pointer: str, reason: str) -> dict[str, str]:
    return {"pointer": pointer, "reason": reason}


def _pointer(location: Sequence[int | str]) -> str:
    """RFC 6901."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in location)


def of_validation(found: Sequence[Mapping[str, Any]], *, skipped: int = 0) -> Problem:
    """Pydantic's findings: 400 when it is not JSON at all, else 422 with a pointer for each.

    skipped: how many parts of a location say where the value stood (FastAPI: "query", "path") and not which it is.
    """
    if any(one["type"] == "json_invalid" for one in found):
        return Problem("malformed", f"the body is not JSON: {found[0]['msg']}")
    reasons = [_reason(_pointer(one["loc"][skipped:]), one["msg"]) for one in found[:_REASONS_SHOWN]]
    detail = "; ".join(f"{one['pointer'] or 'the body'}: {one['reason']}" for one in reasons[:3])
    return Problem("invalid", detail, members={"errors": reasons})


def _of_http(error: HTTPException) -> Problem:
    if error.status_code == HTTPStatus.NOT_FOUND:
        return Problem("unknown-route", "there is nothing at this path")
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return Problem("method-not-allowed", "this path does not take this method", dict(error.headers or {}))
    return Problem("malformed", str(error.detail))


TABLE: Mapping[type[Exception], Callable[[Any], Problem]] = {
    Problem: lambda problem: problem,
    ClientGone: lambda _: Problem("client-gone", "the client closed the connection"),
    ClientDisconnect: lambda _: Problem("client-gone", "the client closed the connection within its request"),
    HTTPException: _of_http,
    RequestValidationError: lambda error: of_validation(error.errors(), skipped=1),
    ValidationError: lambda error: of_validation(error.errors(include_url=False, include_input=False)),
    UnknownVersion: lambda error: Problem("unknown-version", str(error)),
    StoreError: lambda error: Problem("not-possible", str(error)),
    ItemsUnavailable: lambda _: not_ready("changes of items cannot be stored; nothing was acknowledged"),
    TooManyItems: lambda error: Problem("not-possible", str(error)),
    HistoriesUnavailable: lambda _: not_ready("the histories cannot be reached"),
    Exception: lambda _: Problem("internal", "an error on our side; the log has it under this request_id"),
}


def problem_of(error: Exception) -> Problem:
    """The first class of the exception that the table knows decides."""
    kind = next(kind for kind in type(error).__mro__ if kind in TABLE)
    return TABLE[kind](error)
