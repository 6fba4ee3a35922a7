"""Loading by the real child process, while the service answers."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from app.batching import Batcher
from app.loading import NICENESS, THREADS_ARE_NICE, Loader, LoadFailed, Phase
from app.metrics import Metrics
from app.settings import Settings
from app.work import Recommendation
from model_store.bundle import Bundle
from model_store.catalog import ItemCatalog
from model_store.preparing import prepare
from tests.ports import free_port

if TYPE_CHECKING:
    from tests.app.conftest import Pair, Running

STALL_SECONDS = 0.05
ROOT = Path(__file__).parents[2]


class OpenedFiles:
    """Paths that this process opens from Python while it is on. An audit hook cannot be taken away again."""

    def __init__(self) -> None:
        self.on, self.paths = False, list[str]()
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.on and event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            self.paths.append(os.fsdecode(arguments[0]))


def weights(version: Path) -> set[str]:
    return {str(file) for file in version.rglob("*") if file.suffix in (".safetensors", ".faiss", ".parquet")}


@pytest.mark.slow
@pytest.mark.alone
def test_a_load_opens_no_weights_of_the_store_and_stalls_nobody(
    pair: Pair,
    published: Callable[..., str],
    serve: Callable[[Settings], AbstractContextManager[Running]],
    childless: Callable[[], AbstractContextManager[None]],
) -> None:
    """A machine that is busy with something else can stall any process; a load that stalls does so every time."""
    opened = OpenedFiles()
    settings = Settings(store=pair.store.root, data=pair.store.root / "data", redis_url="none", poll_seconds=0.05)
    stalls = []
    with ExitStack() as stack:
        with childless():
            server = stack.enter_context(serve(settings)).ready()
            while server.service.versions.current().previous is None:
                time.sleep(0.02)
        for attempt in range(3):
            version = published(pair.store, "big", items=20_000, dim=64, seed=attempt)
            opened.on = True
            stalls.append(_longest_stall(server, pair, version))
            opened.on = False
            assert not set(opened.paths) & weights(pair.store.folder(version))
            assert any("prepared" in path for path in opened.paths), "the copy was opened, so the hook does hear"
            if stalls[-1] < STALL_SECONDS:
                break
    assert min(stalls) < STALL_SECONDS, stalls


def _longest_stall(server: Running, pair: Pair, version: str) -> float:
    """Of the event loop, from the move of the label until the version answers."""
    loop = server.service.batcher._loop

    async def lag() -> float:
        longest, before = 0.0, time.perf_counter()
        while server.service.versions.current().live.version != version:
            await asyncio.sleep(0.002)
            now = time.perf_counter()
            longest, before = max(longest, now - before - 0.002), now
        return longest

    longest = asyncio.run_coroutine_threadsafe(lag(), loop)
    pair.store.activate(version, by="test")
    while not longest.done():
        assert server.http.post("/v1/recommend", json={"history": ["beta-1"]}).status_code == 200
        time.sleep(0.02)
    return longest.result()


@pytest.mark.slow
@pytest.mark.alone
def test_the_first_language_model_stalls_nobody(real_pair: Pair, tmp_path: Path) -> None:
    """A process that has served SASRec alone, and imports transformers while it answers."""
    stalls: list[float] = []
    while len(stalls) < 3 and min(stalls, default=1.0) >= STALL_SECONDS:
        real_pair.store.activate(real_pair.alpha, by="test")
        data = tmp_path / f"data-{len(stalls)}"
        stalls.append(_longest_stall_of_a_process(real_pair, data))
    assert min(stalls) < STALL_SECONDS, stalls


def _longest_stall_of_a_process(pair: Pair, data: Path) -> float:
    """From before beta's label moves until a second after it answers."""
    port = free_port()
    settings = {"STORE": str(pair.store.root), "DATA": str(data), "PORT": str(port), "REDIS_URL": "none"}
    given = {f"NAISEKI_{name}": value for name, value in settings.items()}
    measured = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "app" / "measured_service.py")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **given},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert measured.stdout is not None
        before = json.loads(measured.stdout.readline())
        assert (before["version"], before["transformers"]) == (pair.alpha, False)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:
            pair.store.activate(pair.beta, by="test")
            answered_by = set()
            while pair.beta not in answered_by:
                answer = http.post("/v1/recommend", json={"history": ["alpha-1", "smollm2-1"]})
                assert answer.status_code == 200
                answered_by.add(answer.json()["version"])
                time.sleep(0.01)
        after = json.loads(measured.stdout.readline())
        assert measured.wait(30) == 0
    finally:
        measured.kill()
        measured.communicate()
    assert answered_by == {pair.alpha, pair.beta}
    assert (after["version"], after["transformers"]) == (pair.beta, True)
    return float(after["longest"])


def load(folder: Path, cache: Path, *, seconds: float = 120.0, urgent: bool = False) -> tuple[list[Phase], float]:
    """The phases, and the seconds that the longest history is then believed to take."""
    phases: list[Phase] = []
    metrics = Metrics()

    async def run() -> float:
        batcher = Batcher(metrics)
        loader = Loader(cache, batcher, metrics, device="cpu", load_seconds=seconds)
        try:
            bundle = await loader.load(folder, phases.append, urgent=urgent)
        finally:
            loader.close()
        return batcher.pace(bundle.version, Recommendation).seconds(bundle.manifest.max_history)

    return phases, asyncio.run(run())


@pytest.mark.usefixtures("in_process")
def test_the_phases_of_a_load_and_what_warming_learns(pair: Pair, tmp_path: Path) -> None:
    phases, believed = load(pair.store.folder(pair.beta), tmp_path / "cache")
    assert phases == ["LOADING", "VALIDATING", "WARMING"]
    assert 0 < believed < 5


def test_a_checked_copy_needs_no_child(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pair.store.folder(pair.beta)
    prepare(folder, tmp_path / "cache")
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a child was started"))
    phases, _ = load(folder, tmp_path / "cache")
    assert phases == ["LOADING", "VALIDATING", "WARMING"]


def test_a_request_derives_nothing_of_the_catalogue(pair: Pair, tmp_path: Path) -> None:
    metrics, folder = Metrics(), pair.store.folder(pair.beta)
    prepare(folder, tmp_path / "cache")

    async def derived() -> set[str]:
        loader = Loader(tmp_path / "cache", Batcher(metrics), metrics, device="cpu", load_seconds=60)
        try:
            return set(vars((await loader.load(folder, lambda _: None)).catalog))
        finally:
            loader.close()

    lazy = {name for name, value in vars(ItemCatalog).items() if isinstance(value, cached_property)}
    assert len(lazy) > 3
    assert lazy <= asyncio.run(derived())


@pytest.mark.parametrize("urgent", [True, False])
def test_a_child_is_nice_while_something_is_served(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, urgent: bool
) -> None:
    """`sys.executable` stands in for itself and tells how nice it is."""
    tell = tmp_path / "python"
    tell.write_text('#!/bin/sh\necho "{\\"reason\\": \\"niceness $(nice)\\"}"\nexit 1\n')
    tell.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tell))
    expected = os.nice(0) if urgent else min(19, os.nice(0) + NICENESS)
    with pytest.raises(LoadFailed, match=f"niceness {expected}$"):
        load(pair.store.folder(pair.beta), tmp_path / "cache", urgent=urgent)


@pytest.mark.skipif(not THREADS_ARE_NICE, reason="a thread has no niceness of its own here")
@pytest.mark.parametrize("urgent", [True, False])
def test_so_are_golden_queries_and_trial_batches(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, urgent: bool
) -> None:
    folder, searched = pair.store.folder(pair.beta), []
    prepare(folder, tmp_path / "cache")
    search = Bundle.search

    def told(self: Bundle, *arguments: Any) -> Any:
        searched.append(os.getpriority(os.PRIO_PROCESS, 0))
        return search(self, *arguments)

    monkeypatch.setattr(Bundle, "search", told)
    load(folder, tmp_path / "cache", urgent=urgent)
    assert len(searched) > 3
    assert set(searched) == {os.nice(0) if urgent else min(19, os.nice(0) + NICENESS)}


def test_the_child_says_why_it_refuses(pair: Pair, tmp_path: Path) -> None:
    folder = pair.store.folder(pair.beta)
    (folder / "items.parquet").unlink()
    with pytest.raises(LoadFailed, match=r"items\.parquet"):
        load(folder, tmp_path / "cache")


def test_a_child_that_takes_too_long_is_ended(pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="NAISEKI_LOAD_SECONDS"):
        load(pair.store.folder(pair.beta), tmp_path / "cache", seconds=0.05)


def test_a_child_that_starts_while_the_service_ends_is_ended(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell = tmp_path / "python"
    tell.write_text("#!/bin/sh\nexec sleep 60\n")
    tell.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tell))
    metrics = Metrics()
    loader = Loader(tmp_path / "cache", Batcher(metrics), metrics, device="cpu", load_seconds=30)

    def closed_meanwhile(*_: object) -> None:
        loader.close()

    monkeypatch.setattr("app.loading.find_prepared", closed_meanwhile)
    with pytest.raises(LoadFailed, match="status -9"):
        loader._prepare(pair.store.folder(pair.beta), True)


def test_a_cache_that_cannot_be_written(pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(LoadFailed, match="cache"):
        load(pair.store.folder(pair.beta), tmp_path / "cache")
