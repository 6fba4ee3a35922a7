"""Which loaded bundle answers whom."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from app.overlay import Overlay
from app.serving import Serving
from model_store.bundle import Bundle

Label = Literal["live", "previous", "canary", "shadow", "loaded"]


@dataclass(slots=True, eq=False)
class Loaded:
    """A bundle in memory, and how many requests hold it (counted on the event loop).

    serving: the bundle with what has changed in its catalogue since; replaced by one reference store.
    """

    bundle: Bundle
    in_flight: int = 0
    memory_bytes: int = 0
    serving: Serving = None  # type: ignore[assignment]  # without changes, unless it is given

    def __post_init__(self) -> None:
        if self.serving is None:
            self.serving = Serving.of(self.bundle)

    @property
    def version(self) -> str:
        return self.bundle.version


@dataclass(frozen=True, slots=True)
class Served:
    """What answers one request, from its first step to its last, and the label that it answers under.

    swapping: only its catalogue is there, because memory was needed for the next version.
    """

    serving: Serving
    label: Label
    swapping: bool = False

    @property
    def bundle(self) -> Bundle:
        return self.serving.bundle

    @property
    def overlay(self) -> Overlay:
        return self.serving.overlay

    @property
    def version(self) -> str:
        return self.bundle.version


@dataclass(frozen=True, slots=True)
class Routing:
    """What this process serves, whole: replaced by one reference store, never changed.

    generation: of the labels whose live version it serves. degraded: why another version than the wanted one answers,
    or None. traffic, salt: the canary's share of the users, and of their hash. others: kept by an operator, for
    requests that name them. swapping: `live` is a catalogue without a model.
    """

    generation: int
    live: Loaded
    previous: Loaded | None = None
    degraded: str | None = None
    canary: Loaded | None = None
    traffic: float = 0.0
    salt: str = ""
    shadow: Loaded | None = None
    others: tuple[Loaded, ...] = ()
    swapping: bool = False

    def route(self, user_id: str | None, version: str | None) -> Served | None:
        """Whoever names a version gets it, or None; of the others, the canary's users get the canary."""
        canary = self.canary if version is None else None
        if canary is not None and user_id is not None and in_share(self.salt, user_id, self.traffic):
            return Served(canary.serving, "canary")
        return self.find(version)

    def find(self, version: str | None) -> Served | None:
        """By default what is live; a version of two labels answers under the first of them."""
        if version is None or version == self.live.version:
            return Served(self.live.serving, "live", self.swapping)
        labelled: tuple[tuple[Loaded | None, Label], ...] = (
            (self.previous, "previous"),
            (self.canary, "canary"),
            (self.shadow, "shadow"),
            *((one, "loaded") for one in self.others),
        )
        found = (Served(one.serving, label) for one, label in labelled if one is not None and one.version == version)
        return next(found, None)

    def loaded(self) -> tuple[Loaded, ...]:
        """Each once, whatever it carries."""
        named = (self.live, self.previous, self.canary, self.shadow, *self.others)
        return tuple(dict.fromkeys(one for one in named if one is not None))

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


def in_share(salt: str, user_id: str, traffic: float) -> bool:
    """Whether a user is of the share `traffic` (0..1): always the same answer, and a growing share only adds users."""
    drawn = int.from_bytes(hashlib.sha256(f"{salt}:{user_id}".encode()).digest()[:8], "big")
    return drawn < traffic * 2**64
