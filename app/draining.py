"""The end of a bundle in memory: when the last request that may name it is done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from app.batching import Batcher
from app.loading import Loader
from app.metrics import Metrics
from app.routing import Loaded
from app.version_states import VersionStates

_LOOK_SECONDS = 0.05


class Drains:
    """Versions on their way out. Lives on the event loop; `ended` is called there after each."""

    def __init__(
        self, loader: Loader, batcher: Batcher, metrics: Metrics, states: VersionStates, *, ended: Callable[[], None]
    ) -> None:
        self._loader, self._batcher, self._metrics, self._states = loader, batcher, metrics, states
        self._ended = ended
        self.tasks: set[asyncio.Task[None]] = set()

    def start(self, loaded: Loaded) -> None:
        """No request that comes from now on may find it. Nothing is freed where somebody would wait for it."""
        self._states.enter(loaded.version, "DRAINING")
        task = asyncio.create_task(self._unload(loaded.version, [loaded]))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def wait(self) -> None:
        """Until everything that drains now is gone."""
        await asyncio.gather(*self.tasks)

    async def _unload(self, version: str, box: list[Loaded]) -> None:
        while box[0].in_flight:
            await asyncio.sleep(_LOOK_SECONDS)
        await self._loader.release(box)
        if self._states.of(version).state == "DRAINING":  # not loaded again meanwhile
            self._states.enter(version, "UNLOADED")
            self._batcher.forget(version)
            self._metrics.forget(version)
        self._ended()
