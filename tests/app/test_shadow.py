"""What is copied to a shadow, and what never is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from app.batching import Batcher
from app.metrics import Metrics
from app.routing import Loaded
from app.shadow import Shadow, ShadowRecommendation
from app.work import Found, Recommendation, Urgency
from model_store.bundle import Bundle
from model_store.retrieval import Want

if TYPE_CHECKING:
    from tests.app.conftest import Pair

LOADED = Loaded(cast(Bundle, SimpleNamespace(version="v")))


def play(story: Callable[[Shadow, Batcher], Awaitable[None]], share: float = 1.0) -> Metrics:
    metrics = Metrics()

    async def run() -> None:
        batcher = Batcher(metrics)
        batcher.start()
        shadow = Shadow(metrics, batcher, share=share)
        try:
            await story(shadow, batcher)
        finally:
            await shadow.close()
            await batcher.close()

    asyncio.run(run())
    assert LOADED.in_flight == 0
    return metrics


def copies(metrics: Metrics, outcome: str) -> float:
    return metrics.registry.get_sample_value("naiseki_shadow_copies_total", {"outcome": outcome}) or 0.0


def agreed(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("naiseki_shadow_agreement_sum", {"version": "v"})


async def settled() -> None:
    while LOADED.in_flight:
        await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    ("items", "agreement"), [(["a", "b", "c", "d"], 1.0), (["d", "x", "y", "z"], 0.25), ([], 0.0), (None, None)]
)
def test_agreement_is_the_share_of_the_live_items(items: Sequence[str] | None, agreement: float | None) -> None:
    async def story(shadow: Shadow, _: Batcher) -> None:
        async def copy() -> Sequence[str] | None:
            assert LOADED.in_flight == 1, "it must not be unloaded now"
            return items

        shadow.offer(LOADED, ["a", "b", "c", "d"], copy)
        await settled()

    metrics = play(story)
    assert agreed(metrics) == agreement
    assert copies(metrics, "no_history" if items is None else "compared") == 1


def test_one_copy_at_a_time() -> None:
    async def story(shadow: Shadow, _: Batcher) -> None:
        gate = asyncio.Event()

        async def copy() -> list[str]:
            await gate.wait()
            return ["a"]

        for _number in range(5):
            shadow.offer(LOADED, ["a"], copy)
            await asyncio.sleep(0)
        gate.set()
        await settled()
        shadow.offer(LOADED, ["a"], copy)
        await settled()

    metrics = play(story)
    assert (copies(metrics, "compared"), copies(metrics, "dropped")) == (2, 4)


def test_a_share_of_nothing_copies_nothing() -> None:
    async def story(shadow: Shadow, _: Batcher) -> None:
        async def copy() -> list[str]:
            raise AssertionError

        for _number in range(50):
            shadow.offer(LOADED, ["a"], copy)

    metrics = play(story, share=0.0)
    assert copies(metrics, "dropped") == copies(metrics, "failed") == 0


def test_whatever_a_shadow_raises_stays_with_it() -> None:
    async def story(shadow: Shadow, _: Batcher) -> None:
        async def copy() -> list[str]:
            raise RuntimeError("a version on trial")

        shadow.offer(LOADED, ["a"], copy)
        await settled()

    assert copies(play(story), "failed") == 1


def test_nothing_is_copied_while_somebody_waits_and_a_copy_gives_way(pair: Pair) -> None:
    bundle = pair.store.open(pair.beta)

    async def story(shadow: Shadow, batcher: Batcher) -> None:
        order: list[str] = []

        async def submit(name: str, kind: type[Recommendation]) -> list[str]:
            await batcher.submit(kind.of(bundle, [1, 2, 3], Want(5)))
            order.append(name)
            return ["a"]

        # Of one turn of the loop: all of them wait when the thread looks.
        waiting = [asyncio.create_task(submit("shadow", ShadowRecommendation))]
        waiting += [asyncio.create_task(submit("live", Recommendation)) for _ in range(3)]
        await asyncio.sleep(0)
        assert batcher.waiting_tokens > 0
        shadow.offer(LOADED, ["a"], lambda: submit("copy", ShadowRecommendation))
        await asyncio.gather(*waiting)
        assert order == ["live", "live", "live", "shadow"]

    assert copies(play(story), "dropped") == 1
    assert ShadowRecommendation.urgency == max(Urgency)


def test_a_live_request_waits_for_one_copy_at_most(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Live requests one after the other, each with a copy, and a shadow that is far slower than they are."""
    bundle = pair.store.open(pair.beta)
    run = Recommendation.run.__func__  # type: ignore[attr-defined]
    begun: list[int] = []

    def slowly(cls: type[ShadowRecommendation], bundle: Bundle, batch: Sequence[Recommendation]) -> list[Found]:
        begun.append(len(batch))
        time.sleep(0.05)
        found: list[Found] = run(cls, bundle, batch)
        return found

    monkeypatch.setattr(ShadowRecommendation, "run", classmethod(slowly))
    waited_for: list[int] = []

    async def story(shadow: Shadow, batcher: Batcher) -> None:
        async def copy() -> list[str]:
            await batcher.submit(ShadowRecommendation.of(bundle, [1, 2], Want(5)))
            return ["a"]

        for _ in range(12):
            shadow.offer(LOADED, ["a"], copy)
            await asyncio.sleep(0.002)
            before = len(begun)
            await batcher.submit(Recommendation.of(bundle, [1, 2, 3], Want(5)))
            waited_for.append(len(begun) - before)
        await settled()

    assert copies(play(story), "compared") >= 2
    assert set(begun) == {1}
    assert max(waited_for) <= 1
