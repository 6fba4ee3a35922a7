"""A request's whole story."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from app.answers import Fallback, FallbackReason, ItemOut, RecommendAnswer, Timings
from app.batching import Batcher
from app.errors import Problem, not_ready
from app.light import Light
from app.metrics import Metrics
from app.request_ids import request_id
from app.routing import Routing, Served
from app.schemas import RecommendRequest
from app.serving import Serving
from app.shadow import Shadow, ShadowRecommendation
from app.turns import FEW_ITEMS, Turns
from app.user_history import HistoriesUnavailable, UserHistories
from app.work import Found, Recommendation, Work
from model_store.encoders.history import window_start
from model_store.errors import UnknownVersion
from model_store.retrieval import Candidates, Rows, Want
from model_store.store import ModelStore


@dataclass(frozen=True, slots=True)
class _History:
    """rows: what the encoder reads, oldest first. seen: what `exclude_seen` leaves out. reason: why rows is empty."""

    rows: list[int]
    seen: list[int]
    unknown: list[str]
    reason: FallbackReason | None


class Recommender:
    """Answers recommendation requests on the event loop; what computes is handed to the batcher."""

    def __init__(
        self,
        store: ModelStore,
        histories: UserHistories | None,
        batcher: Batcher,
        metrics: Metrics,
        *,
        shadow: Shadow,
    ) -> None:
        self._store, self._histories, self._batcher, self._metrics = store, histories, batcher, metrics
        self._shadow, self._turns = shadow, Turns()

    async def recommend(self, ask: RecommendRequest, routing: Routing) -> RecommendAnswer:
        """One bundle from the first step to the last. Problem when the request cannot be answered."""
        started, deadline = time.perf_counter(), time.monotonic() + ask.timeout_ms / 1000
        served = routing.route(ask.user_id, ask.version) or await self._not_loaded(ask.version)
        bundle = served.bundle
        history = await self._history(ask, served.serving)
        if served.swapping:
            history = replace(history, reason="swapping")
        want, unknown = _want(ask, served.serving, history)
        fallback: Fallback | None = None
        reason = history.reason
        if reason is not None:
            if ask.strict and reason == "swapping":
                raise not_ready("a version is being swapped", retry_after_s=5)
            if ask.strict:
                raise Problem("no-usable-history", f"there is no history to go by: {reason}")
            fallback = "popular"
            found, timings = served.serving.popular([want])[0], Timings(total=_ms(time.perf_counter() - started))
        else:
            work = self._affordable(served.serving, history.rows, want, deadline=deadline)
            done = await self._batcher.submit(work, deadline=deadline)
            if isinstance(work, Light):
                fallback, reason = "light", "overloaded"
            found, seconds = done.result.candidates, done.result.seconds
            self._observe(served, done.queue_seconds, seconds.encode, seconds.search, seconds.rank)
            stages = (done.queue_seconds, seconds.encode, seconds.search, seconds.rank, time.perf_counter() - started)
            timings = Timings(*map(_ms, stages))
        if reason is not None:
            self._metrics.fallbacks.labels(reason).inc()
        self._metrics.stages(served.version, served.label).impressions.inc()
        items = await self._items(served.serving, found)
        if routing.shadow is not None and served.label == "live" and reason is None:
            copy = partial(self._as_shadow, ask, routing.shadow.serving)
            self._shadow.offer(routing.shadow, [item.item_id for item in items], copy)
        return RecommendAnswer(
            request_id=request_id(served.version, served.label),
            version=served.version,
            label=served.label,
            family=bundle.manifest.family,
            items=items,
            unknown_items=unknown,
            fallback=fallback,
            fallback_reason=reason,
            exhausted=found.exhausted,
            timings_ms=timings,
        )

    def certain_refusal(self, ask: RecommendRequest, routing: Routing) -> Problem | None:
        """The refusal that `recommend` would come to, where that is certain before its work is made; else None."""
        served = routing.route(ask.user_id, ask.version)
        if served is None or served.swapping or not ask.history or Light.possible(served.bundle, rerank=ask.rerank):
            return None
        items = len(served.serving.history(ask.history).readable)
        if not items:
            return None  # answered without the model
        manifest = served.bundle.manifest
        tokens = items - window_start(items, max_history=manifest.max_history, jump=manifest.jump)  # at the least
        deadline = time.monotonic() + ask.timeout_ms / 1000
        refusal = self._batcher.refusal_of(served.version, Recommendation, tokens, deadline=deadline)
        if refusal is None or refusal.name != "overloaded":
            return None
        self._metrics.rejects.labels(refusal.name).inc()
        return refusal

    async def _items(self, serving: Serving, found: Candidates) -> list[ItemOut]:
        if len(found.rows) <= FEW_ITEMS:
            return items_out(serving, found)
        async with self._turns.one():
            return items_out(serving, found)

    async def _as_shadow(self, ask: RecommendRequest, serving: Serving) -> list[str] | None:
        """The item ids that the shadow's bundle answers; None where it knows nothing of this history."""
        history = await self._history(ask, serving)
        if history.reason is not None:
            return None
        want, _ = _want(ask, serving, history)
        done = await self._batcher.submit(ShadowRecommendation.of(serving.bundle, history.rows, want, serving=serving))
        return serving.ids(done.result.candidates.rows)

    def _affordable(self, serving: Serving, rows: list[int], want: Want, *, deadline: float) -> Work[Found]:
        """The whole answer; where it could not be in time, a light one, if the bundle has one that could."""
        whole = Recommendation.of(serving.bundle, rows, want, serving=serving)
        refusal = self._batcher.refusal(whole, deadline=deadline)
        if refusal is None or refusal.name != "overloaded":
            return whole
        light = Light.of(serving, rows, want)
        return whole if light is None or self._batcher.refusal(light, deadline=deadline) else light

    async def _not_loaded(self, version: str | None) -> Served:
        assert version is not None, "a routing always has a live version"
        try:
            await asyncio.to_thread(self._store.folder, version)
        except UnknownVersion as error:
            raise Problem("unknown-version", str(error)) from None
        raise Problem("not-possible", f"{version} is in the store, but this process has not loaded it")

    async def _history(self, ask: RecommendRequest, serving: Serving) -> _History:
        """The body's history where there is one, else the stored one; the stored one excludes either way."""
        stored: list[str] = []
        unavailable = False
        if ask.user_id is not None and (ask.history is None or ask.exclude_seen):
            try:
                stored = await self._stored(ask.user_id)
            except HistoriesUnavailable:
                unavailable = True
        given = serving.history(stored if ask.history is None else ask.history)
        rows, unknown = given.readable, given.unknown
        seen = given.seen if ask.history is None else given.seen + serving.history(stored).seen
        reason: FallbackReason | None = None
        if not rows and (unknown or given.seen):  # an item that was added since is known, and cannot be read yet
            reason = "unknown_items"
        elif not rows:
            of_user = ask.user_id is not None and ask.history is None
            reason = ("history_unavailable" if unavailable else "new_user") if of_user else "empty_history"
        return _History(rows, seen if ask.exclude_seen else [], unknown, reason)

    async def _stored(self, user_id: str) -> list[str]:
        if self._histories is None:
            raise HistoriesUnavailable("this service runs without histories")
        return await self._histories.read(user_id)

    def _observe(self, served: Served, queue: float, encode: float, search: float, rank: float) -> None:
        stages = self._metrics.stages(served.version, served.label)
        stages.queue.observe(queue)
        stages.encode.observe(encode)
        stages.search.observe(search)
        stages.rank.observe(rank)


def _want(ask: RecommendRequest, serving: Serving, history: _History) -> tuple[Want, list[str]]:
    """The filters in rows, and every id of the request that this version does not know, each once."""
    excluded, unknown_excluded = serving.rows(ask.exclude_ids)
    allowed, unknown_allowed = serving.rows(ask.allow_ids) if ask.allow_ids is not None else (None, [])
    want = Want(
        ask.k,
        rerank=ask.rerank,
        excluded_rows=_rows(history.seen + excluded),
        allowed_rows=None if allowed is None else _rows(allowed),
        categories=ask.categories,
    )
    return want, list(dict.fromkeys(history.unknown + unknown_excluded + unknown_allowed))


def items_out(serving: Serving, found: Candidates) -> list[ItemOut]:
    titles = serving.titles(found.rows)
    return [
        ItemOut(item_id, float(f"{score:.7g}"), rank, title)
        for rank, (item_id, score, title) in enumerate(
            zip(serving.ids(found.rows), found.scores.tolist(), titles, strict=True), start=1
        )
    ]


def _rows(rows: Sequence[int]) -> Rows:
    return np.unique(np.array(rows, dtype=np.int64))


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
