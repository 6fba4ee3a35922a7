"""The app: its parts, its routes, and what they say of themselves."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter
from pydantic.json_schema import models_json_schema
from starlette.responses import Response

from app import keys
from app.answers import ProblemOut
from app.edge import Edge, EdgeLimits, Trace
from app.embedded_valkey import ValkeyRefused
from app.errors import TABLE, problem_of
from app.metrics import Metrics
from app.opening import open_service
from app.routes import compare, console, events, health, item_changes, items, labels, models, recommend
from app.routes.wire import SCHEMAS
from app.schemas import (
    BatchRequest,
    BulkItemsRequest,
    EventsRequest,
    ItemRequest,
    LabelRequest,
    LookupRequest,
    RecommendRequest,
    SearchRequest,
    SimilarRequest,
)
from app.settings import Settings
from app.shedding import Shedding
from app.user_history import HistoriesRefused

API_VERSION = "0.1.0"
ABOUT = "What should this user see next: recommendations, events, the catalogue, and the versions that answer."
_log = logging.getLogger(__name__)
BODIES = (
    RecommendRequest,
    BatchRequest,
    EventsRequest,
    LookupRequest,
    SimilarRequest,
    SearchRequest,
    ItemRequest,
    BulkItemsRequest,
    LabelRequest,
)


def create_app(settings: Settings) -> FastAPI:
    """Opens nothing yet: that happens when the app starts, and is undone when it ends."""
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            app.openapi()  # takes a fifth of a second: not while somebody waits
            try:
                app.state.service = await open_service(settings, metrics, stack)
            except (HistoriesRefused, ValkeyRefused) as refused:
                _log.error("the service cannot start: %s", refused)  # with its cure, in front of uvicorn's traceback
                raise
            yield

    app = FastAPI(
        title="Naiseki", version=API_VERSION, docs_url=None, redoc_url=None, redirect_slashes=False, lifespan=lifespan
    )
    app.state.settings, app.state.metrics = settings, metrics
    app.state.door = keys.Door.of_settings(settings, metrics)
    for kind in TABLE:
        if kind is not Exception:  # that one is the edge's, which logs it
            app.add_exception_handler(kind, _problem)
    limits = EdgeLimits(settings.body_bytes, settings.url_bytes, settings.client_seconds)
    app.add_middleware(Shedding)
    app.add_middleware(Edge, metrics=metrics, limits=limits)
    for routes in (recommend, events, items, item_changes, models, labels, compare, health, console):
        app.include_router(routes.router)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


async def _problem(request: Request, error: Exception) -> Response:
    return problem_of(error).response(Trace.of(request.scope).request_id)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The description, with the bodies that routes read by themselves, made once."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, description=ABOUT, routes=app.routes)
        _, bodies = models_json_schema([(model, "validation") for model in BODIES], ref_template=SCHEMAS)
        problem = TypeAdapter(ProblemOut).json_schema(ref_template=SCHEMAS)
        schema["components"]["schemas"] |= {**bodies["$defs"], ProblemOut.__name__: problem}
        app.openapi_schema = schema
    return app.openapi_schema
