"""What the labels want, what this process serves, and the way from one to the other."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from functools import partial

from app.batching import Batcher
from app.draining import Drains
from app.errors import not_ready
from app.loading import Loader
from app.metrics import Metrics
from app.routing import Loaded, Routing
from app.swapping import swapped_out
from app.targets import Keeping, Targets
from app.version_loads import PrepareItems, VersionLoads
from app.version_states import VersionState, VersionStates
from model_store.audit import LABELS
from model_store.errors import ReadOnlyStore, StoreError
from model_store.labels import Labels
from model_store.store import ModelStore

_log = logging.getLogger(__name__)


class Versions:
    """Follows the labels of the store. Lives on the event loop; `serving` is read there, once by each request.

    prepare_items: awaited for a bundle before it is published.
    """

    def __init__(
        self,
        store: ModelStore,
        loader: Loader,
        batcher: Batcher,
        metrics: Metrics,
        *,
        poll_seconds: float = 1.0,
        keeping: Keeping = Keeping(),  # noqa: B008 - immutable
        prepare_items: PrepareItems | None = None,
    ) -> None:
        self._store, self._loader, self._metrics = store, loader, metrics
        self._poll_seconds, self.keeping = poll_seconds, keeping
        self._look, self._changed = asyncio.Event(), asyncio.Event()
        self._fresh: dict[str, Loaded] = {}  # loaded, not published yet
        self.states = VersionStates(metrics)
        self._drains = Drains(loader, batcher, metrics, self.states, ended=self._tell)
        self._loads = VersionLoads(
            store,
            loader,
            metrics,
            self.states,
            make_room=self._make_room,
            arrived=self._arrived,
            prepare_items=prepare_items,
        )
        self.serving: Routing | None = None
        self.wanted = Labels()
        self.asked: list[str] = []  # versions that an operator keeps
        self._told = 0
        self._wished: tuple[float, bool] | None = None  # when another live version was first wanted; was it in memory
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

    def in_memory(self) -> list[Loaded]:
        """Every whole version that serves or is about to."""
        serving = self.serving.loaded() if self.serving and not self.serving.swapping else ()
        return [*self._fresh.values(), *serving]

    def targets(self) -> Targets:
        """What should be served and loaded, as things are."""
        memory = {one.version: one for one in self.in_memory()}
        return Targets(self.wanted, self.serving, memory, tuple(self.asked), self.failed, self.keeping)

    def failed(self, version: str | None) -> VersionState | None:
        """Its state when it failed under these labels: then it is not tried again."""
        return self.states.failed(version, self.wanted.generation)

    def hint(self, labels: Labels | None = None) -> None:
        """Look now: somebody has written labels, or a load has ended. labels: what was written, to save the look."""
        if labels is not None and labels.generation > self.wanted.generation:
            self._told += 1
            self._follow(labels)
        self._look.set()

    async def change(self) -> None:
        """Returns when something has changed: a label, what is served, where a version stands."""
        await self._changed.wait()

    async def follow(self) -> None:
        """Runs until cancelled. Labels are polled while a version loads, so that a rollback need not wait for it."""
        while True:
            self._look.clear()
            try:
                told = self._told
                labels = await asyncio.to_thread(self._store.labels)
                if told == self._told:  # else what was read may be older than what is known
                    self._follow(labels)
                await self._mark_good()
                self._note(None if self.wanted.live else f"no version has the label live in {self._store.root}")
            except Exception as error:  # whatever is wrong with the store must not end what follows it
                self._note(str(error) or type(error).__name__, stack=not isinstance(error, StoreError))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._look.wait(), self._poll_seconds)

    def advance(self) -> None:
        """Serves the best that there is, frees what nothing needs, and starts the next load. Waits for nothing."""
        best = self.targets().routing()
        if best is not None and best != self.serving:
            self._publish(best)
        targets = self.targets()
        needed = targets.needed()
        for version in set(self._fresh) - set(needed):  # loaded for labels that have changed since
            self._drains.start(self._fresh.pop(version))
        self._loads.follow(targets.missing(), needed=needed, generation=self.wanted.generation, urgent=not self.serving)
        for label in LABELS:
            self._metrics.label_failed.labels(label).set(targets.trouble(label) is not None)
        self._tell()

    async def close(self) -> None:
        self._loads.cancel()
        for task in self._drains.tasks:
            task.cancel()
        await asyncio.to_thread(self._loader.close)

    def _follow(self, labels: Labels) -> None:
        if labels.live != self.wanted.live:
            self._wished = (time.perf_counter(), labels.live in self.targets().memory)
        self.wanted = labels
        self._metrics.generation.labels("wanted").set(labels.generation)
        self.advance()

    def _note(self, trouble: str | None, *, stack: bool = False) -> None:
        """Once, not with every poll."""
        if trouble == self._trouble:
            return
        self._trouble = trouble
        if trouble is None:
            _log.info("the labels are followed again")
        else:
            _log.error("the labels cannot be followed; what serves goes on: %s", trouble, exc_info=stack)

    async def _mark_good(self) -> None:
        labels, serving = self.wanted, self.serving
        if serving is not None and not serving.swapping and serving.live.version == labels.live != labels.last_good:
            with contextlib.suppress(ReadOnlyStore):
                await asyncio.to_thread(self._store.mark_good, labels.live)

    def _arrived(self, version: str, loaded: Loaded | None) -> None:
        if loaded is not None:
            self._fresh[version] = loaded
        elif version in self.asked and self.failed(version):
            self.asked.remove(version)  # an operator will ask again
        self.advance()
        self.hint()

    async def _make_room(self, version: str) -> None:
        """A whole copy is on the disk: only now is it worth to give something up for it."""
        if self.keeping.one:
            if self.serving is not None and not self.serving.swapping:
                self._publish(swapped_out(self.serving, version))
            await self._drains.wait()

    def _publish(self, routing: Routing) -> None:
        with self._metrics.publish_seconds.time():
            old, self.serving = self.serving, routing
            for loaded in routing.loaded():
                self._fresh.pop(loaded.version, None)
                self._describe(loaded)
            for loaded in old.loaded() if old and not old.swapping else ():
                if loaded not in routing.loaded():
                    self._drains.start(loaded)
            self._metrics.generation.labels("serving").set(routing.generation)
            self._metrics.degraded.set(routing.degraded is not None)
        if self._wished is not None and routing.live.version == self.wanted.live and not routing.swapping:
            since, resident = self._wished
            self._metrics.follow_seconds.labels(str(resident).lower()).observe(time.perf_counter() - since)
            self._wished = None
        if old is None or old.live is not routing.live:
            # Writing a line gives the interpreter away for a moment: after the step, not within it.
            extra = {"version": routing.live.version}
            asyncio.get_running_loop().call_soon(partial(_log.info, "serving %s", routing.live.version, extra=extra))

    def _describe(self, loaded: Loaded) -> None:
        manifest = loaded.bundle.manifest
        self._metrics.version_info.labels(loaded.version, manifest.family, manifest.items, manifest.dim).set(1)
        self._metrics.version_bytes.labels(loaded.version).set(loaded.memory_bytes)

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
