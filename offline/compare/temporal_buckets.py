"""Who is asked under `temporal`, and about what: users and items that training knows, and new ones."""

from __future__ import annotations

from dataclasses import dataclass

from offline.compare.measured import Measured
from offline.evaluation.metrics import gains, weighted_mean
from offline.splits.temporal import buckets

TEMPORAL = "temporal"


@dataclass(frozen=True, slots=True)
class Bucket:
    """name: as `buckets` calls it. share: of the test events. ndcg10: arm -> over these events, as the protocol weighs
    them; empty where there are none."""

    name: str
    share: float
    ndcg10: dict[str, float]


def buckets_of(measured: Measured) -> list[Bucket]:
    """Empty where `temporal` was not measured."""
    if not measured.temporal:
        return []
    found = []
    for name, mask_E in buckets(measured.splits[TEMPORAL]).items():
        ndcg10 = {}
        for arm, scores in measured.temporal.items() if mask_E.any() else ():
            weights_E = None if scores.weights_E is None else scores.weights_E[mask_E]
            ndcg10[arm] = float(weighted_mean(gains(scores.ranks_SE, "ndcg@10").mean(axis=0)[mask_E], weights_E))
        found.append(Bucket(name, float(mask_E.mean()), ndcg10))
    return found
