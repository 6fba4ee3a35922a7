"""Units of work: what they need, how long they take, and how long all of it takes."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from offline.compare.arm import Arm
from offline.compare.settings import LONGEST_UNIT, Settings
from offline.run_config import RunRefused
from offline.splits.protocols import Protocol

Kind = Literal["tune", "train", "rank", "score", "order", "probe"]

CURES: dict[Kind, str] = {
    "tune": "lower --minutes-per-run",
    "train": "lower --minutes-per-run",
    "probe": "leave the training probe out (--without probe), or set fewer epochs",
    "order": "leave shuffled histories out (--without order)",
    "rank": "leave this arm out: name others with --arms",
    "score": "leave this arm out: name others with --arms",
}


@dataclass(frozen=True, slots=True)
class Unit:
    """One piece of work. minutes: what it will take. needs: names of units that come first. trial: of a `tune`; rate:
    of a `probe`. part: of the events, of a `rank`.
    """

    kind: Kind
    arm: str
    protocol: Protocol
    seed: int
    minutes: float
    needs: frozenset[str] = frozenset()
    trial: int = 0
    rate: float | None = None
    part: int | None = None

    @property
    def name(self) -> str:
        which = f"trial {self.trial}" if self.kind == "tune" else f"{self.protocol} seed {self.seed}"
        if self.rate is not None:
            which += f" rate {self.rate:g}"
        if self.part is not None:
            which += f" part {self.part + 1}"
        return f"{self.kind} {self.arm} {which}"


@dataclass(frozen=True)
class Plan:
    """units: what is left, in no order. done: how many score files are there already. arms: the rows of the page.
    unavailable: arm or protocol -> why not."""

    settings: Settings
    arms: tuple[Arm, ...]
    protocols: tuple[Protocol, ...]
    units: tuple[Unit, ...]
    done: int
    unavailable: dict[str, str]

    @cached_property
    def chains(self) -> dict[str, float]:
        """Unit -> minutes of the longest chain that begins with it."""
        followers: dict[str, list[str]] = {unit.name: [] for unit in self.units}
        for unit in self.units:
            for need in unit.needs:
                followers[need].append(unit.name)
        minutes = {unit.name: unit.minutes for unit in self.units}
        lengths: dict[str, float] = {}

        def length(name: str) -> float:
            if name not in lengths:
                lengths[name] = minutes[name] + max(map(length, followers[name]), default=0.0)
            return lengths[name]

        return {name: length(name) for name in followers}

    def turn(self, unit: Unit) -> tuple[bool, float]:
        """Of what may begin, the least turn does: what was trained is measured at once, because measurements are what
        an interrupted comparison keeps on every machine; then the longest chain.
        """
        return unit.kind not in ("score", "order", "rank"), -self.chains[unit.name]

    @property
    def minutes(self) -> float:
        """Of all units, one after the other."""
        return sum(unit.minutes for unit in self.units)

    @cached_property
    def hours(self) -> float:
        """Wall clock, `jobs` units at a time, in their turns."""
        waiting, finished, clock = list(self.units), set[str](), 0.0
        running: list[tuple[float, str]] = []
        while waiting or running:
            ready = sorted((unit for unit in waiting if unit.needs <= finished), key=self.turn)
            for unit in ready[: self.settings.jobs - len(running)]:
                heapq.heappush(running, (clock + unit.minutes, unit.name))
                waiting.remove(unit)
            clock, name = heapq.heappop(running)
            finished.add(name)
        return clock / 60

    def check(self) -> None:
        """RunRefused when it takes longer than it may, with the figure and what to lower."""
        longest = max(self.units, key=lambda unit: unit.minutes, default=None)
        if longest is not None and longest.minutes > LONGEST_UNIT:
            raise RunRefused(
                f"{longest.name} would take {longest.minutes:.0f} minutes, and no unit of work may take over "
                f"{LONGEST_UNIT:.0f}: {CURES[longest.kind]}"
            )
        if self.hours > self.settings.hours:
            raise RunRefused(
                f"this would take {self.hours:.1f} hours with {self.settings.jobs} jobs, above --hours "
                f"{self.settings.hours:g}; lower --minutes-per-run ({self.settings.minutes:g}), --seeds "
                f"({self.settings.seeds}) or --trials ({self.settings.trials}), or name fewer --families or --arms"
            )
