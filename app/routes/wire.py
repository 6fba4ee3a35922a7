"""How a route reads its body, writes its answer, and says both in the OpenAPI description."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel
from pydantic_core import to_json
from starlette.responses import Response

from app.answers import ProblemOut
from app.errors import ClientGone, Problem

ModelT = TypeVar("ModelT", bound=BaseModel)
SCHEMAS = "#/components/schemas/{model}"
_ANY = {
    400: "not JSON",
    401: "no known key",
    413: "too large",
    408: "its body came too slowly",
    415: "not JSON by its type",
    429: "too many requests: of this key, or of all together",
    422: "invalid",
}
_PROBLEM_CONTENT = {"application/problem+json": {"schema": {"$ref": SCHEMAS.format(model=ProblemOut.__name__)}}}


async def read(request: Request, model: type[ModelT]) -> ModelT:
    """The body as `model`. Parsed and checked in one pass by pydantic: depth, big integers and surrogates end there."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise Problem("unsupported-media-type", "send the body with Content-Type: application/json")
    return model.model_validate_json(await request.body())


def answer(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(to_json(body), status, headers=headers, media_type="application/json")


def problems(*also: int, body: bool = False) -> dict[int | str, dict[str, Any]]:
    """`responses=` of a route: the statuses that it may answer besides its success."""
    statuses = {*also, 401, 422, 429, *((400, 408, 413, 415) if body else ())}
    return {status: {"description": _ANY.get(status, "problem"), "content": _PROBLEM_CONTENT} for status in statuses}


def takes(model: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra=` of a route that calls `read`; `components` brings the schema itself."""
    schema = {"$ref": SCHEMAS.format(model=model.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


@asynccontextmanager
async def dropped_when_gone(request: Request) -> AsyncIterator[None]:
    """Cancels what the block waits for when the client closes its connection: a handler is not told by itself.

    The body must have been read.
    """
    task = asyncio.current_task()
    assert task is not None
    gone = False

    async def watch() -> None:
        nonlocal gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone = True
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if not gone:
            raise
        task.uncancel()
        raise ClientGone from None
    finally:
        watcher.cancel()
