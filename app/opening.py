"""The parts of a service, opened one after the other, each with what undoes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import torch

from app.batching import Batcher
from app.embedded_valkey import EmbeddedValkey
from app.feedback import Feedback
from app.hang_watch import HangWatch
from app.item_changes import ItemChanges
from app.item_log import ItemLog
from app.item_updates import ItemUpdates
from app.label_hints import LabelHints
from app.loading import Loader
from app.metrics import Metrics
from app.overlay import Overlay
from app.recommender import Recommender
from app.service import Service
from app.settings import Settings
from app.shadow import Shadow
from app.targets import Keeping
from app.user_history import UserHistories
from app.versions import Versions
from model_store.store import ModelStore


async def open_service(settings: Settings, metrics: Metrics, stack: AsyncExitStack) -> Service:
    """stack: undoes it, the last part first. HistoriesRefused, ValkeyRefused."""
    store = ModelStore(settings.store)
    url = await _redis(settings, stack)
    histories = None if url is None else await _histories(url, settings, metrics, stack=stack)
    batcher = Batcher(
        metrics,
        threads=settings.threads,
        max_batch_tokens=settings.max_batch_tokens,
        max_batch_seconds=settings.max_batch_ms / 1000,
        queue_tokens=settings.queue_tokens,
        hang_seconds=settings.hang_seconds,
    )
    batcher.start()
    stack.push_async_callback(batcher.close)
    stack.callback(asyncio.create_task(HangWatch(batcher).follow(), name="watch-for-hangs").cancel)
    loader = Loader(
        settings.data / "prepared",
        batcher,
        metrics,
        device=_device(settings.device),
        load_seconds=settings.load_seconds,
        memory_margin=settings.memory_margin,
    )
    item_log = None
    if url is not None and histories is not None:
        item_log = ItemLog(url, most=settings.items_added, evicting=lambda: histories.evicting)
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
    hints = feedback = None
    if url is not None:
        hints = LabelHints(url, heard=versions.hint)
        metrics.watch("label_hints_open", "1 while other replicas can be heard", hints.listening.is_set)
        hints.start()
        stack.push_async_callback(hints.close)
        feedback = _feedback(url, settings, metrics, stack=stack)
    changes = None
    if item_log is not None and updates is not None:
        _follow_items(item_log, updates, metrics, versions=versions, stack=stack)
        changes = ItemChanges(item_log, updates)
    return Service(settings, store, metrics, batcher, versions, recommender, histories, hints, feedback, changes)


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
