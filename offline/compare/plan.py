"""What is left to do: units of work with what they need, how long they take, and how long all of it takes."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

from offline.compare import trials
from offline.compare.arms import BY_NAME, Arm, Where, chosen
from offline.compare.estimates import Estimates
from offline.compare.found_versions import FoundVersions, seeds_of
from offline.compare.recipes import fingerprint, refusal
from offline.compare.scores import read_meta, score_file
from offline.compare.settings import LONGEST_UNIT, Settings
from offline.datasets import DataRefused
from offline.run_config import RunRefused
from offline.splits import Protocol

Kind = Literal["tune", "train", "score"]


@dataclass(frozen=True, slots=True)
class Unit:
    """One piece of work. trial: of a `tune` unit. minutes: what it will take. needs: names of units that come first."""

    kind: Kind
    arm: str
    protocol: Protocol
    seed: int
    minutes: float
    needs: frozenset[str] = frozenset()
    trial: int = 0

    @property
    def name(self) -> str:
        which = f"trial {self.trial}" if self.kind == "tune" else f"{self.protocol} seed {self.seed}"
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

    @property
    def minutes(self) -> float:
        """Of all units, one after the other."""
        return sum(unit.minutes for unit in self.units)

    @cached_property
    def hours(self) -> float:
        """Wall clock, `jobs` units at a time, longest chain first."""
        waiting, finished, clock = list(self.units), set[str](), 0.0
        running: list[tuple[float, str]] = []
        while waiting or running:
            ready = sorted(
                (unit for unit in waiting if unit.needs <= finished), key=lambda unit: -self.chains[unit.name]
            )
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
                f"{LONGEST_UNIT:.0f}: lower --minutes-per-run"
            )
        if self.hours > self.settings.hours:
            raise RunRefused(
                f"this would take {self.hours:.1f} hours with {self.settings.jobs} jobs, above --hours "
                f"{self.settings.hours:g}; lower --minutes-per-run ({self.settings.minutes:g}), --seeds "
                f"({self.settings.seeds}) or --trials ({self.settings.trials}), or name fewer --families or --arms"
            )


def protocols_of(settings: Settings) -> dict[Protocol, Where]:
    """Every protocol that is measured, and which arms: the headline for all."""
    found: dict[Protocol, Where] = {settings.headline: "warm"}
    for protocol in get_args(Protocol):
        if protocol == "temporal" or protocol.startswith("cold-items"):
            found[protocol] = "temporal" if protocol == "temporal" else "cold"
    return found


def make_plan(settings: Settings, found: FoundVersions) -> Plan:
    """Compares what the page asks for with the score files, trials and versions that are there."""
    arms, unavailable = _available(chosen(settings.families, settings.arms), settings)
    protocols = protocols_of(settings)
    for protocol in list(protocols):
        try:
            found.split(protocol)
        except DataRefused as refused:
            unavailable[protocol] = str(refused)
            del protocols[protocol]
    if settings.headline not in protocols:
        raise RunRefused(f"{settings.dataset}: {unavailable[settings.headline]}")
    found.refresh()
    return _Planner(settings, found, Estimates.of(settings)).plan(arms, protocols, unavailable)


def _available(arms: Iterable[Arm], settings: Settings) -> tuple[tuple[Arm, ...], dict[str, str]]:
    """An arm without one of its parents is none either."""
    reasons: dict[str, str] = {}
    kept: list[Arm] = []
    for arm in arms:
        reason = refusal(arm, settings)
        missing = [name for name in arm.parent_arms() if refusal(BY_NAME[name], settings)]
        if reason is None and missing:
            reason = f"needs {', '.join(missing)}"
        if reason is None and settings.seeds < 2 and any("@" in str(value) for value in arm.parents.values()):
            reason = "needs two seeds: raise --seeds"
        if reason is None:
            kept.append(arm)
        else:
            reasons[arm.name] = reason
    return tuple(kept), reasons


class _Planner:
    def __init__(self, settings: Settings, found: FoundVersions, estimates: Estimates) -> None:
        self._settings, self._found, self._estimates = settings, found, estimates
        self._units: dict[str, Unit] = {}

    def plan(self, arms: tuple[Arm, ...], protocols: Mapping[Protocol, Where], unavailable: dict[str, str]) -> Plan:
        done = 0
        for arm in arms:
            for protocol, where in protocols.items():
                if where not in arm.where:
                    continue
                for seed in seeds_of(arm, protocol, self._settings):
                    if self._is_scored(arm, protocol, seed):
                        done += 1
                    else:
                        self._score(arm, protocol, seed)
        return Plan(self._settings, arms, tuple(protocols), tuple(self._units.values()), done, unavailable)

    def _is_scored(self, arm: Arm, protocol: Protocol, seed: int) -> bool:
        if not self._settled(arm):
            return False
        meta = read_meta(score_file(self._settings.report / "scores", arm.name, protocol, seed=seed))
        return meta is not None and meta.is_of(
            fingerprint(arm, self._settings, seed=seed, tuned=self._found.tuned),
            split_fingerprint=self._found.split(protocol).dataset.split_fingerprint,
            minutes=self._settings.minutes,
        )

    def _settled(self, arm: Arm) -> bool:
        """Whether its trials, and those of its parents, have been made."""
        own = not arm.is_bundle or arm.family in self._found.tuned
        return own and all(self._settled(BY_NAME[name]) for name in arm.parent_arms())

    def _score(self, arm: Arm, protocol: Protocol, seed: int) -> None:
        needs = self._train(arm, protocol, seed) if arm.is_bundle else frozenset()
        self._add(Unit("score", arm.name, protocol, seed, self._estimates.score(arm, protocol), needs))

    def _train(self, arm: Arm, protocol: Protocol, seed: int) -> frozenset[str]:
        """What must be done before this version is there; nothing when it is."""
        seed = seed if arm.drawn else 0
        if self._settled(arm) and self._found.find(arm, protocol, seed) is not None:
            return frozenset()
        needs = self._tune(arm.family) | self._train_parents(arm, protocol, seed)
        return self._add(Unit("train", arm.name, protocol, seed, self._estimates.train(arm, protocol), needs))

    def _train_parents(self, arm: Arm, protocol: Protocol, seed: int) -> frozenset[str]:
        needs: frozenset[str] = frozenset()
        for value in arm.parents.values():
            for name in (value,) if isinstance(value, str) else value:
                parent, parent_seed = self._found.parent_seed(name, protocol, seed)
                needs |= self._train(parent, protocol, parent_seed)
        return needs

    def _tune(self, family: str) -> frozenset[str]:
        if family in self._found.tuned:
            return frozenset()
        arm, made = trials.main_arm(family), trials.done(family, self._settings)
        needs = self._train_parents(arm, self._settings.headline, 0)
        minutes = 0.1 if arm.train_minutes is not None else min(trials.TRIAL_MINUTES, self._settings.minutes) + 0.3
        names: frozenset[str] = frozenset()
        for number in range(len(trials.drawn(family, self._settings))):
            if number not in made:
                names |= self._add(Unit("tune", arm.name, self._settings.headline, 0, minutes, needs, trial=number))
        return names

    def _add(self, unit: Unit) -> frozenset[str]:
        self._units.setdefault(unit.name, unit)
        return frozenset([unit.name])
