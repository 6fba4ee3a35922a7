"""From ranked lists to HR, NDCG and MRR: one target per event, full ranking."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
CUTS = (1, 5, 10, 20)


@dataclass(frozen=True, slots=True, eq=False)
class EventScores:
    """How Q events came out.

    users: int32[Q], user rows. targets: int32[Q].
    top_rows: int32[Q, depth], best first, -1 where fewer items exist.
    ranks: int32[Q], 1-based; 0 when the target is not among the first `depth` (or was removed as seen).
    weights: float64[Q], what each event weighs in a mean; None weighs all alike.
    """

    users: npt.NDArray[np.int32]
    targets: npt.NDArray[np.int32]
    top_rows: npt.NDArray[np.int32]
    ranks: npt.NDArray[np.int32]
    seen_removed: bool
    weights: Floats | None = None

    @classmethod
    def of(
        cls,
        users: npt.NDArray[np.int32],
        targets: npt.NDArray[np.int32],
        *,
        top_rows: npt.NDArray[np.int32],
        seen_removed: bool,
        weights: Floats | None = None,
    ) -> EventScores:
        hits = top_rows == targets[:, None]
        ranks = np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, 0).astype(np.int32)
        return cls(users, targets, top_rows, ranks, seen_removed, weights)

    @property
    def depth(self) -> int:
        return int(self.top_rows.shape[1])

    def values(self, metric: str) -> Floats:
        """float64[Q], one score per event; metric is hr@K, ndcg@K or mrr@K with K up to `depth`."""
        name, _, cut = metric.partition("@")
        if name not in GAINS or not cut.isdigit() or not 1 <= int(cut) <= self.depth:
            raise ValueError(f"{metric!r} is no metric of lists of {self.depth}: {', '.join(GAINS)} @ 1..{self.depth}")
        return gains(self.ranks, metric)

    def mean(self, metric: str) -> float:
        """The metric's (weighted) mean over events."""
        return float(weighted_mean(self.values(metric), self.weights))


def weighted_mean(values_EX: Floats, weights_E: Floats | None) -> Floats:
    """Over the first axis. The same sum as without weights where there are none, to the last bit."""
    if weights_E is None:
        return np.asarray(values_EX.mean(axis=0))
    return np.asarray(weights_E @ values_EX / weights_E.sum())


# With one relevant item the ideal DCG is 1, so NDCG is its discount, 1 / log2(1 + rank).
GAINS: dict[str, Callable[[npt.NDArray[np.int32]], Floats]] = {
    "hr": lambda ranks: np.ones(ranks.shape),
    "ndcg": lambda ranks: 1 / np.log2(1 + ranks.astype(np.float64)),
    "mrr": lambda ranks: 1 / ranks.astype(np.float64),
}


def gains(ranks: npt.NDArray[np.int32], metric: str) -> Floats:
    """float64, the shape of `ranks` (1-based, 0: not within the depth): hr@K, ndcg@K or mrr@K of each event."""
    name, _, cut = metric.partition("@")
    inside = (ranks >= 1) & (ranks <= int(cut))
    return np.where(inside, GAINS[name](np.maximum(ranks, 1)), 0.0)


def metric_names(depth: int) -> list[str]:
    return [f"{name}@{cut}" for name in GAINS for cut in CUTS if cut <= depth]
