"""What a unit will cost: as much as the same work has cost before, else the budget."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from statistics import mean

from offline.compare.arm import Arm
from offline.compare.scores import read_meta
from offline.compare.settings import Settings

Minutes = dict[tuple[str, str], float]


@dataclass(frozen=True, slots=True)
class Estimates:
    """trained, scored: (arm, protocol) -> mean minutes of the score files that are there."""

    minutes: float
    trained: Minutes
    scored: Minutes

    @classmethod
    def of(cls, settings: Settings) -> Estimates:
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
            settings.minutes, *({key: mean(values) for key, values in found.items()} for found in (trained, scored))
        )

    def train(self, arm: Arm, protocol: str) -> float:
        otherwise = self.minutes if arm.train_minutes is None else arm.train_minutes
        return _known(self.trained, arm, protocol, otherwise=otherwise)

    def score(self, arm: Arm, protocol: str) -> float:
        return _known(self.scored, arm, protocol, otherwise=arm.score_minutes)


def _known(known: Minutes, arm: Arm, protocol: str, *, otherwise: float) -> float:
    """Of the same protocol, else of another one (sizes are alike), else the given figure."""
    if (arm.name, protocol) in known:
        return known[arm.name, protocol]
    elsewhere = [minutes for (name, _), minutes in known.items() if name == arm.name]
    return mean(elsewhere) if elsewhere else otherwise
