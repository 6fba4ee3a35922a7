"""Where each version stands in this process, and why."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal

from app.loading import Phase
from app.metrics import Metrics

State = Literal["STAGED", "READY", "DRAINING", "UNLOADED", "FAILED"] | Phase
STATES: tuple[State, ...] = ("STAGED", "LOADING", "VALIDATING", "WARMING", "READY", "DRAINING", "UNLOADED", "FAILED")
ON_THE_WAY: tuple[State, ...] = ("LOADING", "VALIDATING", "WARMING")


@dataclass(frozen=True, slots=True)
class VersionState:
    """reason, generation: why it is FAILED, and under which labels. since: seconds since 1970.

    started: when the load began that led here, monotonic; None where there was none.
    entered: as `since`, monotonic.
    """

    state: State
    reason: str | None = None
    generation: int = -1
    since: float = field(default_factory=time.time)
    started: float | None = None
    entered: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        return f"{self.state}: {self.reason}" if self.reason else self.state

    def load_seconds(self) -> float | None:
        """Of the load that is under way, or that ended here (READY, FAILED)."""
        if self.started is None:
            return None
        return (time.monotonic() if self.state in ON_THE_WAY else self.entered) - self.started

    def phase_seconds(self) -> float:
        return time.monotonic() - self.entered


class VersionStates:
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._known: dict[str, VersionState] = {}

    def of(self, version: str) -> VersionState:
        """STAGED for one that nobody has asked this process for."""
        return self._known.get(version) or VersionState("STAGED")

    def enter(self, version: str, state: State, *, reason: str | None = None, generation: int = -1) -> None:
        before = self._known.get(version)
        started = before.started if before and before.state in ON_THE_WAY else None
        if state == "LOADING":
            started = time.monotonic()
        self._known[version] = VersionState(state, reason, generation, started=started)
        for name in STATES:
            self._metrics.version_state.labels(version, name).set(name == state)

    def failed(self, version: str | None, generation: int) -> VersionState | None:
        """Its state when it failed under the labels of this generation."""
        known = self._known.get(version) if version else None
        return known if known and known.state == "FAILED" and known.generation == generation else None

    def __repr__(self) -> str:
        return repr(self._known)
