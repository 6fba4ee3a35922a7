"""From records to overlays, with the real inference thread; Redis is not needed for that."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from app.batching import Batcher
from app.item_log import ItemLog, ItemsUnavailable, News
from app.item_records import ItemRecord
from app.item_records import Sequence as Number
from app.item_updates import ItemUpdates, visibility
from app.metrics import Metrics
from app.routing import Loaded
from model_store.bundle import Bundle
from model_store.item_placer import ItemPlacer
from model_store.manifest import Manifest

Story = Callable[[ItemUpdates, list[Loaded]], Awaitable[None]]


class Reader:
    """A stand-in placer: a text that holds `bad` breaks its batch, one that holds `nan` has no place."""

    config = SimpleNamespace(item_text="{title}")

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        self.asked.append(list(texts))
        if any("bad" in text for text in texts):
            raise RuntimeError("a poisoned text")
        return torch.stack([torch.full((8,), float("nan") if "nan" in text else float(len(text))) for text in texts])


def reading(beta: Bundle, reader: Reader) -> Bundle:
    return dataclasses.replace(beta, placer=cast("ItemPlacer", reader))


def put(item_id: str, number: int, title: str = "T") -> ItemRecord:
    return ItemRecord(item_id, Number(10**13, number), title)


class Log:
    """What `follow` reads: one answer after the other, then silence."""

    def __init__(self, *answers: News | Exception) -> None:
        self.answers = list(answers)

    async def whole(self) -> News:
        return await self.news()

    async def news(self) -> News:
        if not self.answers:
            await asyncio.Event().wait()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def play(bundle: Bundle, story: Story, log: Log | None = None) -> None:
    async def run() -> None:
        batcher = Batcher(Metrics())
        batcher.start()
        loaded: list[Loaded] = []
        updates = ItemUpdates(cast("ItemLog", log or Log(News({}, Number(0, 0), whole=True))), batcher, lambda: loaded)
        tasks = [asyncio.create_task(work) for work in (updates.follow(), updates.apply())]
        try:
            async with asyncio.timeout(20):
                await story(updates, loaded)
        finally:
            for task in tasks:
                task.cancel()
            await batcher.close()

    asyncio.run(run())


def test_one_poisoned_text_holds_up_nobody(beta: Bundle) -> None:
    bundle = reading(beta, Reader())

    async def story(updates: ItemUpdates, loaded: list[Loaded]) -> None:
        loaded.append(Loaded(bundle))
        records = [put("a", 1, "one"), put("b", 2, "bad"), put("c", 3, "nan"), put("d", 4, "four")]
        updates.learn(records)
        for record in records:
            await updates.shown(record, loaded, 10)
        serving = loaded[0].serving
        assert [visibility(serving, record) for record in records] == [
            "recommendable", "not_yet", "not_yet", "recommendable",
        ]  # fmt: skip
        assert updates.encode_failures == {bundle.version: 2}

    play(bundle, story)


def test_a_version_is_prepared_with_all_that_is_known(beta: Bundle) -> None:
    reader = Reader()
    bundle = reading(beta, reader)
    news = News({f"n{n}": put(f"n{n}", n) for n in range(150)}, Number(10**13, 200), whole=True)

    async def story(updates: ItemUpdates, loaded: list[Loaded]) -> None:
        overlay = await updates.prepare(bundle)
        assert len(overlay.items) == 150
        assert [item.row for item in overlay.items.values()] == list(range(60, 210)), "in the order of the changes"
        assert max(map(len, reader.asked)) <= 64

    play(bundle, story, Log(news))


def test_redis_away_at_the_start_delays_no_version_for_long(beta: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.item_updates.FIRST_READ_S", 0.1)
    bundle = reading(beta, Reader())
    log = Log(*[ItemsUnavailable("away")] * 2, News({"n": put("n", 1)}, Number(10**13, 1), whole=True))

    async def story(updates: ItemUpdates, loaded: list[Loaded]) -> None:
        overlay = await updates.prepare(bundle)
        assert overlay.changes_nothing
        loaded.append(Loaded(bundle))
        while loaded[0].serving.row("n") is None:
            await asyncio.sleep(0.01)

    play(bundle, story, log)


def test_what_is_gone_from_redis_is_undone_but_not_what_came_after(beta: Bundle) -> None:
    bundle = reading(beta, Reader())
    first = News(
        {"n": put("n", 1), "beta-3": ItemRecord("beta-3", Number(5, 0), removed=True)}, Number(9, 0), whole=True
    )
    first = dataclasses.replace(first, head=Number(10**13, 1))
    empty = News({}, Number(10**13, 5), whole=True)

    async def story(updates: ItemUpdates, loaded: list[Loaded]) -> None:
        loaded.append(Loaded(bundle))
        updates._take_in(first)
        late = put("late", 9)
        updates.learn([late])
        await updates.shown(late, loaded, 10)
        assert (loaded[0].serving.row("n"), loaded[0].serving.row("beta-3")) == (61, None)
        updates._take_in(empty)
        while loaded[0].serving.row("n") is not None:
            await asyncio.sleep(0.01)
        assert loaded[0].serving.row("beta-3") == 3
        assert loaded[0].serving.row("late") is not None, "its writer knows it; the hash was read before"

    play(bundle, story)


def test_an_older_record_never_replaces_a_newer(beta: Bundle) -> None:
    bundle = reading(beta, Reader())

    async def story(updates: ItemUpdates, loaded: list[Loaded]) -> None:
        loaded.append(Loaded(bundle))
        updates.learn([put("n", 2, "new")])
        updates.learn([put("n", 1, "old")])
        assert await updates.shown(put("n", 2, "new"), loaded, 10) == {bundle.version: "recommendable"}
        assert loaded[0].serving.overlay.items["n"].record.title == "new"

    play(bundle, story)


def test_a_bundle_with_a_newer_catalogue_is_believed(beta: Bundle) -> None:
    manifest: Any = beta.manifest.model_copy(update={"catalogue_at": "2990-01-01T00:00:00Z"})
    bundle = dataclasses.replace(reading(beta, Reader()), manifest=cast(Manifest, manifest))

    async def story(updates: ItemUpdates, loaded: list[Loaded]) -> None:
        loaded.append(Loaded(bundle))
        records = [put("beta-5", 1, "old"), put("n", 2), ItemRecord("beta-6", Number(10**13, 3), removed=True)]
        updates.learn(records)
        for record in records:
            await updates.shown(record, loaded, 10)
        serving = loaded[0].serving
        assert (serving.row("beta-5"), serving.row("n"), serving.row("beta-6")) == (5, 61, None)
        assert visibility(serving, records[0]) == "recommendable"

    play(bundle, story)
