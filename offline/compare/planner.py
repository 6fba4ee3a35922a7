"""What is left to do: what the page asks for, less the score files, trials and versions that are there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from offline.compare import trials
from offline.compare.arm import Arm, Where
from offline.compare.arms import BY_NAME, chosen
from offline.compare.estimates import Estimates
from offline.compare.found_versions import FoundVersions, seeds_of
from offline.compare.plan import Plan, Unit
from offline.compare.recipes import fingerprint, refusal
from offline.compare.scores import read_meta, score_file
from offline.compare.settings import Settings
from offline.datasets import DataRefused
from offline.run_config import RunRefused
from offline.splits import PROTOCOLS, Protocol


def protocols_of(settings: Settings) -> dict[Protocol, Where]:
    """Every protocol that is measured, and which arms: the headline for all."""
    found: dict[Protocol, Where] = {settings.headline: "warm"}
    for protocol in PROTOCOLS:
        if settings.protocols and protocol not in settings.protocols:
            continue
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
