"""Which loaded bundle answers whom."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from model_store.bundle import Bundle

Label = Literal["live", "previous"]


@dataclass(slots=True, eq=False)
class Loaded:
    """A bundle in memory, and how many requests hold it (counted on the event loop)."""

    bundle: Bundle
    in_flight: int = 0

    @property
    def version(self) -> str:
        return self.bundle.version


@dataclass(frozen=True, slots=True)
class Served:
    """The bundle that answers one request, and the label that it answers under."""

    bundle: Bundle
    label: Label

    @property
    def version(self) -> str:
        return self.bundle.version


@dataclass(frozen=True, slots=True)
class Routing:
    """What this process serves, whole: replaced by one reference store, never changed.

    generation: of the labels that it fulfils. degraded: why another version than the wanted one answers, or None.
    """

    generation: int
    live: Loaded
    previous: Loaded | None = None
    degraded: str | None = None

    def find(self, version: str | None) -> Served | None:
        """By default what is live."""
        if version is None or version == self.live.version:
            return Served(self.live.bundle, "live")
        if self.previous is not None and version == self.previous.version:
            return Served(self.previous.bundle, "previous")
        return None

    def loaded(self) -> tuple[Loaded, ...]:
        return (self.live,) if self.previous is None else (self.live, self.previous)

    @contextlib.contextmanager
    def held(self) -> Iterator[Routing]:
        """While a request holds its routing, nothing that it can name is unloaded."""
        loaded = self.loaded()
        for one in loaded:
            one.in_flight += 1
        try:
            yield self
        finally:
            for one in loaded:
                one.in_flight -= 1
