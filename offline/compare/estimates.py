"""What a unit will cost: as much as the same work has cost before, here or elsewhere, else the budget."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TypeVar

import numpy as np

from offline.claims.probe_runs import read_runs
from offline.compare.arm import Arm
from offline.compare.arms import BY_NAME
from offline.compare.scores import read_meta
from offline.compare.settings import Settings
from offline.compare.starting_values import typical_minutes
from offline.compare.timing import TimedRows

Minutes = dict[tuple[str, str], float]
K = TypeVar("K")
RANK_MINUTES = 15.0  # until one was measured
AROUND = 2.0  # minutes that stages before the one with the budget may add


@dataclass(frozen=True, slots=True)
class Estimates:
    """Mean minutes of what is there. trained, scored: by (arm, protocol). By arm: order, of shuffled histories; probe,
    of one training of the probe; ranked, of all test events one by one. events: of training, which minutes measured on
    other data are scaled by.
    """

    settings: Settings
    events: int
    trained: Minutes
    scored: Minutes
    order: dict[str, float]
    probe: dict[str, float]
    ranked: dict[str, float]

    @classmethod
    def of(cls, settings: Settings, *, events: int) -> Estimates:
        trained: dict[tuple[str, str], list[float]] = defaultdict(list)
        scored: dict[tuple[str, str], list[float]] = defaultdict(list)
        for file in sorted((settings.report / "scores").glob("*.npz")):
            meta = read_meta(file)
            if meta is None:
                continue
            scored[meta.arm, meta.protocol].append(meta.score_seconds / 60)
            if meta.train_seconds is not None:
                trained[meta.arm, meta.protocol].append(meta.train_seconds / 60)
        return cls(
            settings,
            events,
            _means(trained),
            _means(scored),
            _order(settings.report),
            _probe(settings.report),
            _ranked(settings.report),
        )

    def train(self, arm: Arm, protocol: str) -> float:
        """What it took before; where there is a budget, not above it, whatever was measured under a longer one."""
        if arm.train_minutes is not None:
            return _known(self.trained, arm, protocol, otherwise=arm.train_minutes)
        typical = typical_minutes(arm.family, self.settings.shared, events=self.events)
        otherwise = self.settings.minutes if typical is None else min(typical, self.settings.minutes)
        return min(_known(self.trained, arm, protocol, otherwise=otherwise), self.settings.minutes + AROUND)

    def rank(self, arm: Arm) -> float:
        """Of all test events, by a ranker."""
        return self.ranked.get(arm.name, RANK_MINUTES)

    def score(self, arm: Arm, protocol: str) -> float:
        """The other protocols ask about a third of the headline's events, or fewer."""
        share = 1.0 if protocol == self.settings.headline else 1 / 3
        return _known(self.scored, arm, protocol, otherwise=share * arm.score_minutes)


def _known(known: Minutes, arm: Arm, protocol: str, *, otherwise: float) -> float:
    """Of the same protocol, else of another one (sizes are alike), else of the family's other arms that are trained,
    else as given."""
    if (arm.name, protocol) in known:
        return known[arm.name, protocol]
    trained = {name for name, other in BY_NAME.items() if other.family == arm.family and other.train_minutes is None}
    for names in ({arm.name}, trained):
        elsewhere = [minutes for (name, _), minutes in known.items() if name in names]
        if elsewhere and arm.train_minutes is None:
            return mean(elsewhere)
    return otherwise


def _means(found: Mapping[K, list[float]]) -> dict[K, float]:
    return {key: mean(values) for key, values in found.items()}


def _ranked(report: Path) -> dict[str, float]:
    """As long as requests took, one by one."""
    events: dict[str, int] = {}
    found: dict[str, list[float]] = defaultdict(list)
    for file in sorted((report / "scores").glob("*.npz")):
        meta = read_meta(file)
        if meta is not None:
            events[meta.arm] = meta.events
            if meta.costs is not None:
                found[meta.arm].append(meta.events * meta.costs.request_ms_p50 / 60_000)
    for machine in TimedRows.read(report).machines.values():
        for arm, row in machine.rows.items():
            if arm in events:
                found[arm].append(events[arm] * row.costs.request_ms_p50 / 60_000)
    return _means(found)


def _order(report: Path) -> dict[str, float]:
    found: dict[str, list[float]] = defaultdict(list)
    for file in sorted((report / "order").glob("*.npz")):
        with np.load(file, allow_pickle=False) as saved:
            found[file.name.partition(".")[0]].append(float(saved["seconds"]) / 60)
    return _means(found)


def _probe(report: Path) -> dict[str, float]:
    found: dict[str, list[float]] = defaultdict(list)
    for run in read_runs(report / "probe"):
        # Looking takes about as long as training.
        found[run.arm].append(2 * run.cpu_seconds[-1] / 60)
    return _means(found)
