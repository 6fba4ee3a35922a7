"""The way of an item's change from the log into what each version in memory serves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from app.answers import Visibility
from app.batching import Batcher
from app.encoding_items import TextEncoding, can_show, is_new, own_vector, text_of
from app.errors import Problem
from app.item_log import ItemLog, ItemsUnavailable, News
from app.item_records import ItemRecord
from app.overlay import Change, Overlay
from app.routing import Loaded
from app.serving import Serving
from model_store.bundle import Bundle
from model_store.index_memory import Floats

AT_ONCE = 64  # texts that are handed to the inference thread together
PREPARED_AT_ONCE = 512
PREPARE_S = 120.0  # for so many
RETRY_S = 0.25
FIRST_READ_S = 2.0  # a start waits so long for Redis; then it serves without, and takes the items in when it answers
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """What an overlay lacks: records to take in, and ids of which nothing is known any more."""

    records: list[ItemRecord]
    forgotten: list[str]

    def __bool__(self) -> bool:
        return bool(self.records or self.forgotten)


class ItemUpdates:
    """Follows the log, and keeps the overlay of every version in memory up to it. Lives on the event loop.

    loaded: the versions in memory now. An overlay is made beside the one that serves, and replaces it by one
    reference store, on the event loop.
    """

    def __init__(self, log: ItemLog, batcher: Batcher, loaded: Callable[[], Iterable[Loaded]]) -> None:
        self._item_log, self._batcher, self._loaded = log, batcher, loaded
        self._records: dict[str, ItemRecord] = {}
        self._news = asyncio.Event()
        self._read_once = asyncio.Event()
        self._applied = asyncio.Condition()
        self._trouble = False
        self.encode_failures: Counter[str] = Counter()

    def record(self, item_id: str) -> ItemRecord | None:
        """What is known of it here; None where it was never put or removed."""
        return self._records.get(item_id)

    def learn(self, records: Iterable[ItemRecord]) -> None:
        """Takes in what is newer than what is known."""
        for record in records:
            known = self._records.get(record.item_id)
            if known is None or known.sequence < record.sequence:
                self._records[record.item_id] = record
        self._news.set()

    async def follow(self) -> None:
        """Runs until cancelled."""
        while True:
            try:
                self._take_in(await (self._item_log.news() if self._read_once.is_set() else self._item_log.whole()))
                self._read_once.set()
                if self._trouble:
                    self._trouble = False
                    _log.info("the log of items is followed again")
            except ItemsUnavailable as error:
                if not self._trouble:
                    self._trouble = True
                    _log.error("the log of items cannot be followed; what is known is served on: %s", error)
                await asyncio.sleep(RETRY_S)
            except Exception:  # whatever lies in Redis must not end what follows it
                _log.exception("the log of items could not be followed")
                await asyncio.sleep(1.0)

    async def apply(self) -> None:
        """Runs until cancelled: brings every version in memory up to what is known."""
        while True:
            self._news.clear()
            try:
                behind = [await self._bring_up(loaded) for loaded in list(self._loaded())]
            except Exception:  # as above; the versions go on with the overlays that they have
                _log.exception("an overlay could not be made")
                behind = [True]
            async with self._applied:
                self._applied.notify_all()
            if any(behind):
                await asyncio.sleep(RETRY_S)
                continue
            await self._news.wait()

    async def prepare(self, bundle: Bundle) -> Overlay:
        """The overlay of a bundle that is about to be published: everything that is known when this returns.

        From then on the bundle must be among `loaded`, before the event loop turns again. Texts wait behind requests,
        so an overload could hold up a swap for ever: a step that takes too long ends the waiting.
        """
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._read_once.wait(), FIRST_READ_S)
        overlay = Overlay()
        while plan := self._plan(overlay, PREPARED_AT_ONCE):
            try:
                async with asyncio.timeout(PREPARE_S):
                    grown = await self._grown(bundle, overlay, plan)
            except TimeoutError:
                _log.error("published before its items are encoded; they follow", extra={"version": bundle.version})
                break
            if grown is overlay:
                await asyncio.sleep(RETRY_S)
            overlay = grown
            if len(plan.records) < PREPARED_AT_ONCE:  # the last ones, but for what comes while they are sorted
                await asyncio.to_thread(overlay.derive)
        return overlay

    async def shown(self, record: ItemRecord, loaded: Sequence[Loaded], seconds: float) -> dict[str, Visibility]:
        """Where each version stands with this change, once all have taken it in or the time is over."""

        def done() -> bool:
            return all(one.serving.overlay.has(record) for one in loaded)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._applied:
                await self._applied.wait_for(lambda: done() or self._records.get(record.item_id) != record)
        return {one.version: visibility(one.serving, record) for one in loaded}

    def _take_in(self, news: News) -> None:
        if news.whole:
            # What was written after the hash was read is known from its writer alone, and stays.
            gone = [i for i, known in self._records.items() if i not in news.records and known.sequence <= news.head]
            for item_id in gone:
                del self._records[item_id]
        self.learn(news.records.values())

    def _plan(self, overlay: Overlay, most: int | None = None) -> _Plan:
        missing = [record for record in self._records.values() if not overlay.has(record)]
        missing.sort(key=lambda record: record.sequence)
        return _Plan(missing[:most], [item_id for item_id in overlay.numbers if item_id not in self._records])

    async def _bring_up(self, loaded: Loaded) -> bool:
        """Whether it is still behind."""
        bundle, overlay = loaded.bundle, loaded.serving.overlay
        while plan := self._plan(overlay, AT_ONCE):
            grown = await self._grown(bundle, overlay, plan)
            if grown is overlay:
                return True
            await asyncio.to_thread(grown.derive)  # not while a request waits for it
            loaded.serving, overlay = Serving(bundle, grown), grown
            async with self._applied:
                self._applied.notify_all()
        return False

    async def _grown(self, bundle: Bundle, overlay: Overlay, plan: _Plan) -> Overlay:
        """The overlay after as much of the plan as can be done now; itself when that is nothing."""
        vectors: list[Floats | Problem | None] = []
        for first in range(0, len(plan.records), AT_ONCE):
            some = plan.records[first : first + AT_ONCE]
            vectors += await asyncio.gather(*(self._vector(bundle, record) for record in some))
        changes = [Change(item_id, None) for item_id in plan.forgotten]
        changes += [
            Change(record.item_id, record, vector)
            for record, vector in zip(plan.records, vectors, strict=True)
            if not isinstance(vector, Problem)
        ]
        if not changes:
            return overlay
        return await asyncio.to_thread(overlay.changed, bundle.catalog, changes)

    async def _vector(self, bundle: Bundle, record: ItemRecord) -> Floats | Problem | None:
        """None: it is not shown by this bundle's overlay. Problem: not now, but perhaps later."""
        has_item = bundle.catalog.row(record.item_id) is not None
        if record.removed or record.yields_to(bundle.manifest, has_item=has_item):
            return None
        if not can_show(bundle, record.item_id):
            return None
        own = own_vector(bundle, record.item_id)
        if own is not None:
            return own
        try:
            text = TextEncoding.of(bundle, text_of(bundle, record), new=is_new(bundle, record.item_id))
            return (await self._batcher.submit(text, deadline=math.inf)).result  # however many items wait with it
        except Problem as problem:
            return problem
        except Exception as error:  # whatever a model raises over one text must not hold up the others
            self.encode_failures[bundle.version] += 1
            _log.error("item %r cannot be placed: %s", record.item_id, error, extra={"version": bundle.version})
            return None


def visibility(serving: Serving, record: ItemRecord) -> Visibility:
    """Where a version stands with a record that was put."""
    bundle = serving.bundle
    has_item = bundle.catalog.row(record.item_id) is not None
    if not can_show(bundle, record.item_id):
        return "id_family"
    item = serving.overlay.items.get(record.item_id)
    if item is not None and item.record == record:
        return "recommendable"
    return "recommendable" if record.yields_to(bundle.manifest, has_item=has_item) else "not_yet"
