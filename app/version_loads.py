"""Versions on their way into memory, one at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

from app.loading import Loader, LoadFailed
from app.memory import held_bytes
from app.metrics import Metrics
from app.overlay import Overlay
from app.routing import Loaded
from app.serving import Serving
from app.version_states import VersionStates
from model_store.bundle import Bundle
from model_store.errors import StoreError
from model_store.store import ModelStore

PrepareItems = Callable[[Bundle], Awaitable[Overlay]]
_log = logging.getLogger(__name__)


class _Abandoned(Exception):
    """The labels have moved on while a version was prepared."""


class VersionLoads:
    """make_room: awaited before a version takes memory. arrived: told of each, on the event loop; None = it failed,
    or nobody wants it any more. prepare_items: awaited for a bundle before it counts as loaded.
    """

    def __init__(
        self,
        store: ModelStore,
        loader: Loader,
        metrics: Metrics,
        states: VersionStates,
        *,
        make_room: Callable[[str], Awaitable[None]],
        arrived: Callable[[str, Loaded | None], None],
        prepare_items: PrepareItems | None,
    ) -> None:
        self._store, self._loader, self._metrics, self._states = store, loader, metrics, states
        self._make_room, self._arrived, self._prepare_items = make_room, arrived, prepare_items
        self._task: asyncio.Task[None] | None = None
        self._version: str | None = None
        self._abandoned = False

    def follow(self, missing: str | None, *, needed: Sequence[str], generation: int, urgent: bool) -> None:
        """Starts the load of `missing` unless one is under way. Ends one that is not among `needed` any more, and one
        for which the live version, the first of `needed`, would have to wait.

        generation: of the labels under which a failure counts. urgent: nothing is served yet.
        """
        waited_for = missing is not None and missing == needed[0] != self._version
        unwanted = self._version is not None and (self._version not in needed or waited_for)
        if self._task is not None and (self._abandoned or unwanted):
            self._abandoned = True
            self._loader.abandon()  # each time: there may have been no child to end yet
        if self._task is None and missing is not None:
            self._version, self._abandoned = missing, False
            self._task = asyncio.create_task(self._bring(missing, generation, urgent=urgent))

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _bring(self, version: str, generation: int, *, urgent: bool) -> None:
        loaded = None
        try:
            serving = await self._load(version, urgent=urgent)
            loaded = Loaded(serving.bundle, memory_bytes=held_bytes(serving.bundle), serving=serving)
            self._states.enter(version, "READY")
            self._metrics.swaps.labels("loaded").inc()
        except Exception as error:  # a failure that is not recorded as one would be tried again for ever
            if self._abandoned:
                self._states.enter(version, "UNLOADED")
                self._metrics.swaps.labels("abandoned").inc()
            else:
                self._fail(version, error, generation=generation)
        self._task = self._version = None
        self._arrived(version, loaded)

    async def _load(self, version: str, *, urgent: bool) -> Serving:
        self._states.enter(version, "STAGED")
        folder = await asyncio.to_thread(self._locate, version)
        enter = partial(self._states.enter, version)
        bundle = await self._loader.load(folder, enter, urgent=urgent, make_room=partial(self._before_opening, version))
        if self._prepare_items is None:
            return Serving.of(bundle)
        # Nothing is awaited from here until `arrived`: what changes after this reaches the version there.
        return Serving(bundle, await self._prepare_items(bundle))

    async def _before_opening(self, version: str) -> None:
        if self._abandoned:
            raise _Abandoned
        await self._make_room(version)

    def _locate(self, version: str) -> Path:
        self._store.manifest(version)  # refuses a folder that was renamed
        return self._store.folder(version)

    def _fail(self, version: str, error: Exception, *, generation: int) -> None:
        expected = isinstance(error, LoadFailed | StoreError | OSError)
        _log.error("version failed: %s", error, extra={"version": version}, exc_info=not expected)
        self._metrics.swaps.labels("failed").inc()
        self._states.enter(version, "FAILED", reason=str(error) or type(error).__name__, generation=generation)
