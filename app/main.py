"""The app: its parts, its routes, and what they say of themselves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import torch
from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter
from pydantic.json_schema import models_json_schema
from starlette.responses import Response

from app.answers import ProblemOut
from app.batching import Batcher
from app.edge import Edge, Trace
from app.embedded_valkey import EmbeddedValkey, ValkeyRefused
from app.errors import TABLE, problem_of
from app.item_changes import ItemChanges
from app.item_log import ItemLog
from app.item_updates import ItemUpdates
from app.label_hints import LabelHints
from app.loading import Loader
from app.metrics import Metrics
from app.overlay import Overlay
from app.recommender import Recommender
from app.routes import console, events, health, item_changes, items, labels, models, recommend
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
                app.state.service = await _open(settings, metrics, stack)
            except (HistoriesRefused, ValkeyRefused) as refused:
                _log.error("the service cannot start: %s", refused)  # with its cure, in front of uvicorn's traceback
                raise
            yield

    app = FastAPI(
        title="Naiseki", version=API_VERSION, docs_url=None, redoc_url=None, redirect_slashes=False, lifespan=lifespan
    )
    app.state.settings = settings
    for kind in TABLE:
        if kind is not Exception:  # that one is the edge's, which logs it
            app.add_exception_handler(kind, _problem)
    app.add_middleware(Edge, metrics=metrics, body_bytes=settings.body_bytes)
    for routes in (recommend, events, items, item_changes, models, labels, health, console):
        app.include_router(routes.router)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


async def _open(settings: Settings, metrics: Metrics, stack: AsyncExitStack) -> Service:
    store = ModelStore(settings.store)
    url = await _redis(settings, stack)
    histories = await _histories(url, settings, metrics=metrics, stack=stack)
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
    item_log = None if url is None else ItemLog(url, most=settings.items_added)
    updates = None if item_log is None else ItemUpdates(item_log, batcher, lambda: versions.in_memory())
    versions = Versions(
        store,
        loader,
        batcher,
        metrics,
        poll_seconds=settings.poll_seconds,
        keeping=Keeping(settings.keep_previous, settings.swap == "resource-preserving"),
        prepare_items=updates.prepare if updates else None,
    )
    stack.push_async_callback(versions.close)
    stack.callback(asyncio.create_task(versions.follow(), name="follow-labels").cancel)
    shadow = Shadow(metrics, batcher, share=settings.shadow_share)
    stack.push_async_callback(shadow.close)
    recommender = Recommender(store, histories, batcher, metrics, shadow=shadow)
    hints = LabelHints(url, heard=versions.hint) if url is not None else None
    if hints is not None:
        hints.start()
        stack.push_async_callback(hints.close)
    changes = None
    if item_log is not None and updates is not None:
        _follow_items(item_log, updates, metrics, versions=versions, stack=stack)
        changes = ItemChanges(item_log, updates)
    return Service(settings, store, metrics, batcher, versions, recommender, histories, hints, changes)


def _follow_items(
    item_log: ItemLog, updates: ItemUpdates, metrics: Metrics, *, versions: Versions, stack: AsyncExitStack
) -> None:
    stack.push_async_callback(item_log.close)
    for name, work in (("follow-items", updates.follow()), ("apply-items", updates.apply())):
        stack.callback(asyncio.create_task(work, name=name).cancel)

    def sizes(size: Callable[[Overlay], int]) -> Callable[[], dict[str, int]]:
        return lambda: {one.version: size(one.serving.overlay) for one in versions.in_memory()}

    metrics.measure("overlay_items", "Items added or changed since", "version", sizes(lambda one: len(one.items)))
    metrics.measure("overlay_hidden", "Items of the bundle not shown", "version", sizes(lambda one: len(one.hidden)))
    metrics.count("item_encode_failures", "Texts that gave no vector", "version", lambda: updates.encode_failures)
    metrics.count("item_log_errors", "Calls to Redis for items that failed", "kind", lambda: item_log.errors)
    metrics.watch("item_records_skipped", "Fields of naiseki:items that are no records", lambda: item_log.garbage)


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


async def _histories(
    url: str | None, settings: Settings, *, metrics: Metrics, stack: AsyncExitStack
) -> UserHistories | None:
    if url is None:
        return None
    histories = await UserHistories.open(url, kept=settings.history_kept)
    stack.push_async_callback(histories.close)
    metrics.watch("redis_breaker_open", "1 while Redis is left alone", lambda: histories.breaker_open)
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
