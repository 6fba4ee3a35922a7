"""Wanted against serving, with real bundles in a real store."""

from __future__ import annotations

import asyncio
import re
import subprocess
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from app.batching import Batcher
from app.errors import Problem
from app.item_records import START, ItemRecord
from app.kept import keep
from app.loading import Loader, LoadFailed
from app.metrics import Metrics
from app.overlay import Change, Overlay
from app.targets import Keeping
from app.versions import Versions
from model_store.bundle import Bundle
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


def test_at_start_previous_answers_where_the_last_good_one_is_broken_too(
    pair: Pair, published: Callable[..., str]
) -> None:
    gamma = published(pair.store, "gamma", seed=2)
    pair.store.activate(gamma, by="test")
    pair.store.label("previous", pair.alpha, by="test")
    pair.store.mark_good(pair.beta)
    damage(pair.store, gamma)
    damage(pair.store, pair.beta)

    async def story(scene: Scene) -> None:
        await scene.until(scene.serves(pair.alpha))
        assert scene.loads == [gamma, pair.beta, pair.alpha]
        assert gamma in (scene.versions.current().degraded or "")
        assert pair.store.labels().last_good == pair.beta, "what is not wanted is not called good"

    assert degraded(play(pair.store, story)) == 1


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


def test_told_labels_are_served_before_the_store_is_looked_at(pair: Pair) -> None:
    async def story(scene: Scene) -> None:
        await scene.until(scene.serves(pair.beta, pair.alpha))
        labels = pair.store.rollback(by="test")
        scene.versions.hint(labels)
        assert scene.serves(pair.alpha, pair.beta)(), "nothing was awaited"
        scene.versions.hint(pair.store.labels().model_copy(update={"generation": 1, "live": pair.beta}))
        assert scene.serves(pair.alpha, pair.beta)(), "older labels change nothing"

    metrics = play(pair.store, story)
    resident = metrics.registry.get_sample_value("naiseki_follow_seconds_sum", {"resident": "true"})
    assert resident is not None
    assert resident < 0.01, "a rollback to the resident version"
    published = metrics.registry.get_sample_value("naiseki_publish_seconds_count")
    assert published == 3  # live, then with previous, then the rollback
    assert (metrics.registry.get_sample_value("naiseki_publish_seconds_sum") or 1) < 0.003


def test_a_load_that_live_would_wait_for_or_that_nobody_wants_is_ended(
    pair: Pair, published: Callable[..., str]
) -> None:
    """The child is a real process that would take a minute."""

    async def story(scene: Scene) -> None:
        await scene.until(scene.serves(pair.beta, pair.alpha))
        loader = scene.versions._loader
        prepare = loader._prepare
        gamma, delta = published(pair.store, "gamma", seed=2), published(pair.store, "delta", seed=3)

        def endless(folder: Path, urgent: bool) -> Path:
            if folder.name != gamma:
                return prepare(folder, urgent)
            loader._child = subprocess.Popen(["sleep", "60"], text=True)
            status = loader._child.wait()
            raise LoadFailed(f"status {status}")

        loader._prepare = endless  # type: ignore[method-assign]
        pair.store.activate(gamma, by="test")
        await scene.until(lambda: loader._child is not None)
        pair.store.activate(delta, by="test")
        await scene.until(lambda: scene.versions.current().live.version == delta, 20)
        # The labels call gamma previous now: it is tried again when nobody waits, and it has not failed.
        assert scene.state(gamma) in ("UNLOADED", "STAGED", "LOADING")
        pair.store.label("previous", pair.beta, by="test")
        await scene.until(scene.serves(delta, pair.beta))
        await scene.until(lambda: scene.state(gamma) == "UNLOADED")

    play(pair.store, story)


def test_a_version_without_room_is_refused_with_the_figures(pair: Pair, published: Callable[..., str]) -> None:
    async def story(scene: Scene) -> None:
        await scene.until(scene.serves(pair.beta, pair.alpha))
        scene.versions._loader._memory_margin = 1e9
        gamma = published(pair.store, "gamma", seed=2)
        pair.store.activate(gamma, by="test")
        await scene.until(lambda: scene.state(gamma) == "FAILED")
        reason = scene.versions.states.of(gamma).reason or ""
        assert re.fullmatch(r"no memory: it needs about [\d.]+ GiB .* and [\d.]+ GiB is free \(.*\)", reason)
        assert scene.serves(pair.beta, pair.alpha)()
        scene.versions._loader._memory_margin = 1.1
        keep(scene.versions, gamma, most=0)
        await scene.until(scene.serves(gamma, pair.beta))

    play(pair.store, story)


def test_items_are_prepared_before_a_version_answers(pair: Pair) -> None:
    seen: list[tuple[str, bool]] = []
    vector_D = np.ones(8, dtype=np.float32)

    async def story(scene: Scene) -> None:
        async def prepare_items(bundle: Bundle) -> Overlay:
            answers = scene.versions.serving is not None and scene.versions.serving.find(bundle.version) is not None
            seen.append((bundle.version, answers))
            return Overlay().changed(bundle.catalog, [Change("new", ItemRecord("new", START, "New"), vector_D)])

        scene.versions._loads._prepare_items = prepare_items
        await scene.until(scene.serves(pair.beta, pair.alpha))
        assert [one.serving.row("new") for one in scene.versions.in_memory()] == [60, 60]

    play(pair.store, story)
    assert seen == [(pair.beta, False), (pair.alpha, False)]
