"""What is left to do: what the page asks for, less the score files, trials and versions that are there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from offline.claims.training_ease import ARMS as PROBED
from offline.compare import ordering, probing, trials
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
from offline.splits.protocols import PROTOCOLS, Protocol


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
    found.refusals.update(unavailable)
    events = len(found.split(settings.headline).dataset.train.rows)
    return _Planner(settings, found, Estimates.of(settings, events=events)).plan(arms, protocols, unavailable)


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
        unavailable |= dict.fromkeys(self._settings.without, "left out (--without)")
        done += self._order(arms) + self._probe(arms)
        return Plan(self._settings, arms, tuple(protocols), tuple(self._units.values()), done, unavailable)

    def _order(self, arms: tuple[Arm, ...]) -> int:
        """Shuffled histories, which one claim is about; returns how many are there."""
        done = 0
        for arm in arms if "order" not in self._settings.without else ():
            if arm.name not in ordering.ORDERED:
                continue
            for seed in seeds_of(arm, self._settings.headline, self._settings):
                if self._settled(arm) and ordering.order_file(arm, seed, self._found).exists():
                    done += 1
                    continue
                minutes = self._estimates.order.get(arm.name, ordering.MINUTES if arm.llm else ordering.MINUTES / 10)
                needs = self._train(arm, self._settings.headline, seed)
                self._add(Unit("order", arm.name, self._settings.headline, seed, minutes, needs))
        return done

    def _probe(self, arms: tuple[Arm, ...]) -> int:
        """Trainings on nine tenths of the users, which three claims are about; returns how many are there."""
        done, names = 0, {arm.name for arm in arms}
        there = names.intersection(PROBED)
        for name, rate, seed in probing.probe_runs() if there and "probe" not in self._settings.without else ():
            if rate is not None and name not in there:
                continue
            arm = BY_NAME[name]
            if self._settled(arm) and probing.probe_file(name, rate, seed, self._found).exists():
                done += 1
                continue
            needs = self._tune(arm.family) | self._tune("sasrec")
            first = Unit("probe", probing.BASELINE, self._settings.headline, seed, 0.0).name
            needs |= {first} if rate is not None and first in self._units else set()
            minutes = self._estimates.probe.get(name, probing.MINUTES)
            self._add(Unit("probe", name, self._settings.headline, seed, minutes, needs, rate=rate))
        return done

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
        if arm.parts > 1:
            minutes = self._estimates.rank(arm) / arm.parts
            ranks = (Unit("rank", arm.name, protocol, seed, minutes, needs, part=part) for part in range(arm.parts))
            needs |= frozenset(name for unit in ranks for name in self._add(unit))
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
