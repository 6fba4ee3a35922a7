"""The app: its parts, its routes, and what they say of themselves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import torch
from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter
from pydantic.json_schema import models_json_schema
from starlette.responses import Response

from app import keys
from app.answers import ProblemOut
from app.batching import Batcher
from app.edge import Edge, EdgeLimits, Trace
from app.embedded_valkey import EmbeddedValkey, ValkeyRefused
from app.errors import TABLE, problem_of
from app.feedback import Feedback
from app.label_hints import LabelHints
from app.loading import Loader
from app.metrics import Metrics
from app.recommender import Recommender
from app.routes import compare, console, events, health, items, labels, models, recommend
from app.routes.wire import SCHEMAS
from app.schemas import BatchRequest, EventsRequest, LabelRequest, LookupRequest, RecommendRequest, SimilarRequest
from app.service import Service
from app.settings import Settings
from app.shadow import Shadow
from app.targets import Keeping
from app.user_history import HistoriesRefused, UserHistories
from app.versions import Versions
from model_store.store import ModelStore

API_VERSION = "0.1.0"
ABOUT = "What should this user see next: recommendations, events, the catalogue, and the versions that answer."
_log = logging.getLogger(__name__)
BODIES = (RecommendRequest, BatchRequest, EventsRequest, LookupRequest, SimilarRequest, LabelRequest)


def create_app(settings: Settings) -> FastAPI:
    """Opens nothing yet: that happens when the app starts, and is undone when it ends."""
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            app.openapi()  # takes a fifth of a second: not while somebody waits
            try:
                app.state.service = await _open(settings, metrics, stack)
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
    app.add_middleware(Edge, metrics=metrics, limits=limits)
    for routes in (recommend, events, items, models, labels, compare, health, console):
        app.include_router(routes.router)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


async def _open(settings: Settings, metrics: Metrics, stack: AsyncExitStack) -> Service:
    store = ModelStore(settings.store)
    url = await _redis(settings, stack)
    histories = None if url is None else await _histories(url, settings, metrics, stack=stack)
    batcher = Batcher(
        metrics,
        threads=settings.threads,
        max_batch_tokens=settings.max_batch_tokens,
        max_batch_seconds=settings.max_batch_ms / 1000,
        queue_tokens=settings.queue_tokens,
    )
    batcher.start()
    stack.push_async_callback(batcher.close)
    loader = Loader(
        settings.data / "prepared",
        batcher,
        metrics,
        device=_device(settings.device),
        load_seconds=settings.load_seconds,
        memory_margin=settings.memory_margin,
    )
    versions = Versions(
        store,
        loader,
        batcher,
        metrics,
        poll_seconds=settings.poll_seconds,
        keeping=Keeping(settings.keep_previous, settings.swap == "resource-preserving"),
    )
    stack.push_async_callback(versions.close)
    stack.callback(asyncio.create_task(versions.follow(), name="follow-labels").cancel)
    shadow = Shadow(metrics, batcher, share=settings.shadow_share)
    stack.push_async_callback(shadow.close)
    recommender = Recommender(store, histories, batcher, metrics, shadow=shadow)
    hints = feedback = None
    if url is not None:
        hints = LabelHints(url, heard=versions.hint)
        hints.start()
        stack.push_async_callback(hints.close)
        feedback = _feedback(url, settings, metrics, stack=stack)
    return Service(settings, store, metrics, batcher, versions, recommender, histories, hints, feedback)


async def _redis(settings: Settings, stack: AsyncExitStack) -> str | None:
    """Its address; None where the service runs without histories. Starts or joins our own where none is given."""
    if settings.without_histories:
        return None
    if settings.redis_url is not None:
        return settings.redis_url
    embedded = EmbeddedValkey(Path(settings.data))
    url = await embedded.start()
    stack.push_async_callback(embedded.stop)
    return url


def _feedback(url: str, settings: Settings, metrics: Metrics, *, stack: AsyncExitStack) -> Feedback:
    feedback = Feedback(url, metrics, window_s=settings.click_window)
    feedback.start()
    stack.push_async_callback(feedback.close)
    return feedback


async def _histories(url: str, settings: Settings, metrics: Metrics, *, stack: AsyncExitStack) -> UserHistories:
    histories = await UserHistories.open(url, kept=settings.history_kept)
    stack.push_async_callback(histories.close)
    metrics.watch("redis_breaker_open", "1 while Redis is left alone", lambda: histories.breaker_open)
    metrics.watch(
        "redis_evicting", "1 while Redis may drop keys: no event is accepted", lambda: histories.evicting is not None
    )
    metrics.count("redis_errors", "Calls to Redis that failed", "kind", lambda: histories.errors)
    return histories


def _device(wanted: str) -> str:
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


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
