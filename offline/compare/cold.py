"""New items: every draw of `cold-items` together, among the new items alone and against the whole catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from offline.compare.arms import BY_NAME
from offline.compare.measured import Measured
from offline.evaluation.bootstrap import Contrast, compare
from offline.evaluation.metrics import Floats, gains
from offline.evaluation.resampling import WHOLE, resample

NEAREST = "tfidf-knn"
REGRESSION = "-regression"


@dataclass(frozen=True, slots=True)
class ColdRow:
    """recall: among the new items alone, in the first ten; low, high: its 95 % interval over users and items.
    against_nearest: its difference to the TF-IDF row with the interval, None for that row itself."""

    arm: str
    variant: str
    llm: bool
    draws: int
    recall: float
    low: float
    high: float
    full_recall: float
    mrr: float
    full_mrr: float
    against_nearest: tuple[float, float, float] | None

    @property
    def beats_nearest(self) -> bool:
        return self.against_nearest is not None and self.against_nearest[1] > 0


@dataclass(frozen=True)
class ColdEvents:
    """The events of all draws in one row: users of different draws are the same people, items of one draw are no
    other's."""

    measured: Measured
    draws: int

    @cached_property
    def protocols(self) -> list[str]:
        return [protocol for protocol, arms in self.measured.cold.items() if arms]

    @cached_property
    def arms(self) -> list[str]:
        """Those that every draw has, measured among the new items."""
        named = [{n for n, s in self.measured.cold[p].items() if s.among_SE is not None} for p in self.protocols]
        common = set.intersection(*named) if named else set()
        return [name for name in BY_NAME if name in common]

    @cached_property
    def users(self) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        return np.concatenate([self.measured.splits[p].test.users for p in self.protocols])

    @cached_property
    def items(self) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        return np.concatenate([self.measured.splits[p].test.targets for p in self.protocols])

    def among(self, arm: str, metric: str) -> Floats:
        """float64 [1, E]: each draw has one seed."""
        ranks = [self.measured.cold[p][arm].among_SE for p in self.protocols]
        return np.concatenate([gains(r, metric).mean(axis=0) for r in ranks if r is not None])[None, :]

    def full(self, arm: str, metric: str) -> Floats:
        parts = [gains(self.measured.cold[p][arm].ranks_SE, metric).mean(axis=0) for p in self.protocols]
        return np.concatenate(parts)[None, :]

    def contrasts(self, values: dict[str, Floats], pairs: list[tuple[str, str]]) -> list[Contrast]:
        return compare(values, self.users, contrasts=pairs, items=self.items, draws=self.draws)


def cold_rows_of(measured: Measured, *, draws: int) -> list[ColdRow]:
    """Empty where no draw was measured."""
    events = ColdEvents(measured, draws)
    if not events.arms or len(events.users) == 0:
        return []
    recall = {name: events.among(name, "hr@10") for name in events.arms}
    alone = resample(recall, events.users, items=events.items, draws=draws)
    others = [(name, NEAREST) for name in recall if name != NEAREST] if NEAREST in recall else []
    against = {c.family: (c.difference, c.difference_low, c.difference_high) for c in events.contrasts(recall, others)}
    return [
        ColdRow(
            arm=name,
            variant=BY_NAME[name].variant,
            llm=BY_NAME[name].llm,
            draws=len(events.protocols),
            recall=found.value,
            low=found.low,
            high=found.high,
            full_recall=float(events.full(name, "hr@10").mean()),
            mrr=float(events.among(name, "mrr@10").mean()),
            full_mrr=float(events.full(name, "mrr@10").mean()),
            against_nearest=against.get(name),
        )
        for name, groups in alone.items()
        for found in [groups[WHOLE].estimate()]
    ]


def beats_nearest_texts(arm: str, rows: list[ColdRow]) -> bool | None:
    """By itself, or with the regression from item text; None where neither was measured."""
    found = [row.beats_nearest for row in rows if row.arm in (arm, arm + REGRESSION)]
    return any(found) if found else None
