"""Items put and removed by an operator: stored for every version, and shown by those in memory within a second."""

from __future__ import annotations

from collections.abc import Sequence

from app.answers import ChangedItemAnswer, RemovedItemAnswer
from app.encoding_items import can_show
from app.errors import Problem
from app.item_log import ItemLog
from app.item_records import ItemRecord, written
from app.item_updates import ItemUpdates
from app.routing import Loaded
from app.schemas import ItemRequest

WAIT_S = 2.0  # for the versions in memory; a change that they take in later is `not_yet`


class ItemChanges:
    """A change is acknowledged once Redis has it; what is refused has changed nothing here."""

    def __init__(self, log: ItemLog, updates: ItemUpdates) -> None:
        self._log, self._updates = log, updates

    async def put(self, item_id: str, ask: ItemRequest, loaded: Sequence[Loaded]) -> ChangedItemAnswer:
        """Problem `not-possible` when no version in memory can ever show the item. ItemsUnavailable, TooManyItems."""
        if not any(can_show(one.bundle, item_id) for one in loaded):
            raise Problem("not-possible", "no version here can place a new item by its text: train one with this item")
        content = written(title=ask.title, text=ask.text, categories=ask.categories)
        sequence = await self._log.write(item_id, content)
        record = ItemRecord(item_id, sequence, ask.title, ask.text, ask.categories)
        self._updates.learn([record])
        return ChangedItemAnswer(item_id, await self._updates.shown(record, loaded, WAIT_S))

    async def remove(self, item_id: str, loaded: Sequence[Loaded]) -> RemovedItemAnswer:
        """Problem `unknown-item` when nothing shows it. It stays away, from later versions too, until it is put."""
        known = self._updates.record(item_id)
        if not (any(one.serving.row(item_id) is not None for one in loaded) or (known and not known.removed)):
            raise Problem("unknown-item", f"no version served here has an item {item_id!r}")
        record = ItemRecord(item_id, await self._log.write(item_id, written(removed=True)), removed=True)
        self._updates.learn([record])
        await self._updates.shown(record, loaded, WAIT_S)
        return RemovedItemAnswer(item_id, [one.version for one in loaded if one.serving.row(item_id) is None])
