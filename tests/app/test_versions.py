"""Wanted against serving, with real bundles in a real store."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from app.batching import Batcher
from app.errors import Problem
from app.loading import Loader
from app.metrics import Metrics
from app.targets import Keeping
from app.versions import Versions
from model_store.store import ModelStore

if TYPE_CHECKING:
    from tests.app.conftest import Pair

KEEPING = Keeping()
pytestmark = pytest.mark.usefixtures("in_process")


@dataclass
class Scene:
    store: ModelStore
    versions: Versions
    loads: list[str]
    metrics: Metrics

    async def until(self, condition: Callable[[], Any], seconds: float = 30.0) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.005)

    def serves(self, live: str, previous: str | None = None) -> Callable[[], bool]:
        def now() -> bool:
            routing = self.versions.serving
            if routing is None or routing.live.version != live:
                return False
            return (routing.previous.version if routing.previous else None) == previous

        return now

    def state(self, version: str) -> str:
        return self.versions.states.of(version).state


def play(store: ModelStore, story: Callable[[Scene], Awaitable[None]], *, keeping: Keeping = KEEPING) -> Metrics:
    metrics = Metrics()

    async def run() -> None:
        batcher = Batcher(metrics)
        batcher.start()
        loader = Loader(store.root / "cache", batcher, metrics, device="cpu", load_seconds=60)
        loads: list[str] = []
        prepare = loader._prepare

        def counted(folder: Path, urgent: bool) -> Path:
            loads.append(folder.name)
            return prepare(folder, urgent)

        loader._prepare = counted  # type: ignore[method-assign]
        versions = Versions(store, loader, batcher, metrics, poll_seconds=0.02, keeping=keeping)
        follower = asyncio.create_task(versions.follow())
        try:
            await story(Scene(store, versions, loads, metrics))
        finally:
            follower.cancel()
            await versions.close()
            await batcher.close()

    asyncio.run(run())
    return metrics


def degraded(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("naiseki_degraded")


def damage(store: ModelStore, version: str) -> None:
    file = store.folder(version) / "encoder" / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def test_live_first_then_previous_so_that_rollback_is_instant(pair: Pair) -> None:
    async def story(scene: Scene) -> None:
        await scene.until(scene.serves(pair.beta, pair.alpha))
        assert scene.loads == [pair.beta, pair.alpha]
        assert pair.store.labels().last_good == pair.beta
        pair.store.rollback(by="test")
        await scene.until(scene.serves(pair.alpha, pair.beta))
        assert scene.versions.current().generation == 3
        assert len(scene.loads) == 2, "nothing was loaded again"

    play(pair.store, story)


def test_nothing_is_labelled_yet(tmp_path: Path, published: Callable[..., str]) -> None:
    store = ModelStore(tmp_path / "store")

    async def story(scene: Scene) -> None:
        await asyncio.sleep(0.05)
        with pytest.raises(Problem, match="no version has the label live"):
            scene.versions.current()
        store.activate(published(store, "late"), by="test")
        await scene.until(lambda: scene.versions.serving is not None)

    play(store, story)


def test_the_version_before_the_previous_one_is_unloaded(pair: Pair, published: Callable[..., str]) -> None:
    async def story(scene: Scene) -> None:
        await scene.until(scene.serves(pair.beta, pair.alpha))
        gamma = published(pair.store, "gamma", seed=2)
        held = scene.versions.current()
        with held.held():
            pair.store.activate(gamma, by="test")
            await scene.until(scene.serves(gamma, pair.beta))
            await asyncio.sleep(0.1)
            assert scene.state(pair.alpha) == "DRAINING", "a request still holds it"
            assert held.find(pair.alpha) is not None
        await scene.until(lambda: scene.state(pair.alpha) == "UNLOADED")

    metrics = play(pair.store, story)
    labels = {"version": pair.alpha, "family": "alpha", "items": "60", "dim": "8"}
    assert metrics.registry.get_sample_value("naiseki_version_info", labels) is None


def test_without_previous(pair: Pair) -> None:
    async def story(scene: Scene) -> None:
        await scene.until(scene.serves(pair.beta))
        pair.store.rollback(by="test")
        await scene.until(scene.serves(pair.alpha))
        await scene.until(lambda: scene.state(pair.beta) == "UNLOADED")

    play(pair.store, story, keeping=Keeping(previous=False))


def test_a_failed_version_leaves_the_old_one_and_is_tried_again_only_when_asked(
    pair: Pair, published: Callable[..., str]
) -> None:
    async def story(scene: Scene) -> None:
        await scene.until(scene.serves(pair.beta, pair.alpha))
        bad = published(pair.store, "bad", seed=3)
        good_bytes = (pair.store.folder(bad) / "encoder" / "weights.safetensors").read_bytes()
        damage(pair.store, bad)
        pair.store.activate(bad, by="test")
        await scene.until(lambda: scene.state(bad) == "FAILED")
        failed = scene.versions.states.of(bad)
        assert "weights.safetensors" in (failed.reason or "")
        await scene.until(lambda: scene.versions.current().degraded == f"{bad} failed: {failed.reason}")
        assert degraded(scene.metrics) == 1, "another version than the wanted one answers"
        await asyncio.sleep(0.2)
        assert scene.serves(pair.beta, pair.alpha)()
        assert scene.loads.count(bad) == 1
        assert pair.store.labels().last_good == pair.beta
        assert (scene.versions.current().generation, scene.versions.wanted.generation) == (2, 3)
        (pair.store.folder(bad) / "encoder" / "weights.safetensors").write_bytes(good_bytes)
        pair.store.activate(bad, by="test")  # the same wish once more: a new generation
        await scene.until(scene.serves(bad, pair.beta))
        assert scene.versions.current().degraded is None

    metrics = play(pair.store, story)
    assert degraded(metrics) == 0
    assert metrics.registry.get_sample_value("naiseki_swaps_total", {"outcome": "failed"}) == 1


def test_at_start_the_last_good_one_answers_for_a_broken_live_one(pair: Pair) -> None:
    pair.store.mark_good(pair.alpha)
    damage(pair.store, pair.beta)

    async def story(scene: Scene) -> None:
        await scene.until(scene.serves(pair.alpha))
        reason = scene.versions.current().degraded or ""
        assert pair.beta in reason
        assert "weights.safetensors" in reason
        await asyncio.sleep(0.1)
        assert scene.loads == [pair.beta, pair.alpha]
        assert pair.store.labels().last_good == pair.alpha
        pair.store.activate(pair.alpha, by="test")
        await scene.until(lambda: scene.versions.current().degraded is None)

    metrics = play(pair.store, story)
    assert degraded(metrics) == 0


def test_at_start_with_nothing_that_loads_the_reason_is_told(pair: Pair) -> None:
    damage(pair.store, pair.alpha)
    damage(pair.store, pair.beta)

    async def story(scene: Scene) -> None:
        await scene.until(lambda: scene.state(pair.alpha) == scene.state(pair.beta) == "FAILED")
        with pytest.raises(Problem, match=r"FAILED: .*weights"):
            scene.versions.current()

    play(pair.store, story)


def test_a_rollback_does_not_wait_for_a_load(pair: Pair, published: Callable[..., str]) -> None:
    async def story(scene: Scene) -> None:
        await scene.until(scene.serves(pair.beta, pair.alpha))
        gate, prepare = threading.Event(), scene.versions._loader._prepare

        def slow(folder: Path, urgent: bool) -> Path:
            assert gate.wait(30)
            return prepare(folder, urgent)

        scene.versions._loader._prepare = slow  # type: ignore[method-assign]
        gamma = published(pair.store, "gamma", seed=2)
        pair.store.activate(gamma, by="test")
        await scene.until(lambda: scene.state(gamma) == "LOADING")
        pair.store.activate(pair.alpha, by="test")
        # The labels call gamma previous now, which is not in memory: beta stays the way back until it is.
        await scene.until(scene.serves(pair.alpha, pair.beta))
        gate.set()
        await scene.until(scene.serves(pair.alpha, gamma))

    play(pair.store, story)


def test_damaged_labels_change_nothing_and_are_logged_once(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    def errors() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]

    async def story(scene: Scene) -> None:
        await scene.until(scene.serves(pair.beta, pair.alpha))
        file = pair.store.root / "labels.json"
        good = file.read_bytes()
        file.write_text("{")
        await asyncio.sleep(0.3)  # a dozen polls
        assert scene.serves(pair.beta, pair.alpha)()
        assert len(errors()) == 1
        assert "labels.json is damaged" in errors()[0]
        file.unlink()
        await scene.until(lambda: len(errors()) == 2)
        assert errors()[1].endswith(f"no version has the label live in {pair.store.root}")
        assert scene.serves(pair.beta, pair.alpha)()
        file.write_bytes(good)
        pair.store.rollback(by="test")
        await scene.until(scene.serves(pair.alpha, pair.beta))
        assert len(errors()) == 2

    play(pair.store, story)


def test_damaged_labels_at_start_are_told(pair: Pair) -> None:
    (pair.store.root / "labels.json").write_text("{")

    async def story(scene: Scene) -> None:
        await scene.until(lambda: "labels.json is damaged" in scene.versions.why_not_ready())
        with pytest.raises(Problem, match=r"labels\.json is damaged"):
            scene.versions.current()

    play(pair.store, story)
