"""What the labels want, what this process serves, and the way from one to the other."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import replace
from functools import partial
from pathlib import Path

from app.batching import Batcher
from app.errors import not_ready
from app.loading import Loader, LoadFailed
from app.metrics import Metrics
from app.routing import Loaded, Routing
from app.version_states import VersionState, VersionStates
from model_store.errors import ReadOnlyStore, StoreError
from model_store.labels import Labels
from model_store.store import ModelStore

_log = logging.getLogger(__name__)


class Versions:
    """Follows the labels of the store. Lives on the event loop; `serving` is read there, once by each request."""

    def __init__(
        self,
        store: ModelStore,
        loader: Loader,
        batcher: Batcher,
        metrics: Metrics,
        *,
        poll_seconds: float = 1.0,
        keep_previous: bool = True,
    ) -> None:
        self._store, self._loader, self._batcher, self._metrics = store, loader, batcher, metrics
        self._poll_seconds, self._keep_previous = poll_seconds, keep_previous
        self._look = asyncio.Event()
        self._fresh: dict[str, Loaded] = {}  # loaded, not published yet
        self._load: asyncio.Task[None] | None = None
        self._drains: set[asyncio.Task[None]] = set()
        self.serving: Routing | None = None
        self.wanted = Labels()
        self.states = VersionStates(metrics)
        self._trouble: str | None = None  # why the labels cannot be followed

    def current(self) -> Routing:
        """What serves now; Problem `not-ready` when nothing does."""
        if self.serving is None:
            raise not_ready(self.why_not_ready(), retry_after_s=2)
        return self.serving

    def why_not_ready(self) -> str:
        if self.wanted.live is None:
            return self._trouble or "no version has the label live"
        return f"{self.wanted.live} is {self.states.of(self.wanted.live)}"

    def hint(self) -> None:
        """Look now: somebody has written labels, or a load has ended."""
        self._look.set()

    async def follow(self) -> None:
        """Runs until cancelled. Labels are polled while a version loads, so that a rollback need not wait for it."""
        while True:
            self._look.clear()
            try:
                self.wanted = await asyncio.to_thread(self._store.labels)
                self._metrics.generation.labels("wanted").set(self.wanted.generation)
                await self._reconcile(self.wanted)
                self._note(None if self.wanted.live else f"no version has the label live in {self._store.root}")
            except Exception as error:  # whatever is wrong with the store must not end what follows it
                self._note(str(error) or type(error).__name__, stack=not isinstance(error, StoreError))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._look.wait(), self._poll_seconds)

    def _note(self, trouble: str | None, *, stack: bool = False) -> None:
        """Once, not with every poll."""
        if trouble == self._trouble:
            return
        self._trouble = trouble
        if trouble is None:
            _log.info("the labels are followed again")
        else:
            _log.error("the labels cannot be followed; what serves goes on: %s", trouble, exc_info=stack)

    async def close(self) -> None:
        for task in (*self._drains, *((self._load,) if self._load else ())):
            task.cancel()
        await asyncio.to_thread(self._loader.close)

    def failed(self, version: str | None) -> VersionState | None:
        """Its state when it failed under these labels: then it is not tried again."""
        return self.states.failed(version, self.wanted.generation)

    async def _reconcile(self, labels: Labels) -> None:
        target = self._target(labels)
        if target is not None and target != self.serving:
            self._publish(target)
        if self.serving is not None and self.serving.live.version == labels.live != labels.last_good:
            with contextlib.suppress(ReadOnlyStore):
                await asyncio.to_thread(self._store.mark_good, labels.live)
        if self._load is None:
            missing = next((v for v in self._needed(labels) if not self._in_memory(v) and not self.failed(v)), None)
            self._drop_unneeded(labels)
            if missing is not None:
                self._load = asyncio.create_task(self._bring(missing))

    def _target(self, labels: Labels) -> Routing | None:
        """The best that can be served of what is in memory; the present routing when that is it."""
        serving, live = self.serving, self._in_memory(labels.live)
        if live is not None:
            # Until the wanted previous is loaded, the one that answered last is a better way back than none.
            previous = self._in_memory(labels.previous)
            if previous is None and labels.previous is not None and serving is not None:
                previous = next((one for one in serving.loaded() if one is not live), None)
            keep = self._keep_previous and previous is not live
            return Routing(labels.generation, live, previous if keep else None)
        failed = self.failed(labels.live)
        if failed is None:
            return serving
        degraded = f"{labels.live} failed: {failed.reason}"
        if serving is not None:
            return replace(serving, degraded=degraded)
        loaded = self._in_memory(labels.last_good) or self._in_memory(labels.previous)
        return Routing(labels.generation, loaded, degraded=degraded) if loaded else None

    def _needed(self, labels: Labels) -> list[str]:
        """What should be in memory, most urgent first."""
        needed = [labels.live]
        if self.serving is None:
            needed += [labels.last_good, labels.previous] if self.failed(labels.live) else []
        elif self._keep_previous and not self.serving.degraded:
            needed.append(labels.previous)
        return [version for version in needed if version is not None]

    def _in_memory(self, version: str | None) -> Loaded | None:
        if version is None:
            return None
        serving = self.serving.loaded() if self.serving else ()
        return next((one for one in serving if one.version == version), self._fresh.get(version))

    async def _bring(self, version: str) -> None:
        generation = self.wanted.generation
        try:
            self.states.enter(version, "STAGED")
            folder = await asyncio.to_thread(self._locate, version)
            enter = partial(self.states.enter, version)
            urgent = self.serving is None
            self._fresh[version] = Loaded(await self._loader.load(folder, enter, urgent=urgent))
            self.states.enter(version, "READY")
            self._metrics.swaps.labels("loaded").inc()
        except Exception as error:  # a failure that is not recorded as one would be tried again for ever
            expected = isinstance(error, LoadFailed | StoreError | OSError)
            _log.error("version failed: %s", error, extra={"version": version}, exc_info=not expected)
            self._metrics.swaps.labels("failed").inc()
            self.states.enter(version, "FAILED", reason=str(error) or type(error).__name__, generation=generation)
        finally:
            self._load = None
            self.hint()

    def _locate(self, version: str) -> Path:
        self._store.manifest(version)  # refuses a folder that was renamed
        return self._store.folder(version)

    def _publish(self, routing: Routing) -> None:
        old, self.serving = self.serving, routing
        for loaded in routing.loaded():
            self._fresh.pop(loaded.version, None)
            manifest = loaded.bundle.manifest
            self._metrics.version_info.labels(loaded.version, manifest.family, manifest.items, manifest.dim).set(1)
        for loaded in old.loaded() if old else ():
            if loaded not in routing.loaded():
                self._drain(loaded)
        self._metrics.generation.labels("serving").set(routing.generation)
        self._metrics.degraded.set(routing.degraded is not None)
        _log.info("serving %s", routing.live.version, extra={"version": routing.live.version})

    def _drop_unneeded(self, labels: Labels) -> None:
        """What was loaded for labels that have changed since."""
        for version in set(self._fresh) - set(self._needed(labels)):
            self._drain(self._fresh.pop(version))

    def _drain(self, loaded: Loaded) -> None:
        self.states.enter(loaded.version, "DRAINING")
        task = asyncio.create_task(self._unload(loaded.version, [loaded]))
        self._drains.add(task)
        task.add_done_callback(self._drains.discard)

    async def _unload(self, version: str, box: list[Loaded]) -> None:
        while box[0].in_flight:
            await asyncio.sleep(0.05)
        await self._loader.release(box)
        if self.states.of(version).state == "DRAINING":  # not loaded again meanwhile
            self.states.enter(version, "UNLOADED")
            self._batcher.forget(version)
            self._metrics.forget(version)
