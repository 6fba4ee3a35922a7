"""Rankings of whatever gives every item a score: the rows that are no bundles, under the same ties and metrics."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from model_store.encoders.history import HistoryBatch
from offline.metrics import EventScores, Floats
from offline.sequences import Queries

CHUNK = 256


class Scorer(Protocol):
    """Scores the whole catalogue for each history; higher is better."""

    def __call__(self, histories: HistoryBatch) -> Floats:
        """float64 [B, N]; the caller may write into it."""


def evaluate_scores(scorer: Scorer, queries: Queries, *, seen_removed: bool, k: int = 20) -> EventScores:
    """Full ranking by score, ties by item row (the lower wins)."""
    tops = [np.empty((0, k), dtype=np.int32)]
    for start in range(0, len(queries), CHUNK):
        histories = queries.histories.select(range(start, min(start + CHUNK, len(queries))))
        scores_BN = scorer(histories)
        if seen_removed:
            owners = np.repeat(np.arange(len(histories)), histories.lengths.numpy())
            scores_BN[owners, histories.rows.numpy()] = -np.inf
        tops.append(np.stack([top_rows(scores_N, k) for scores_N in scores_BN]))
    return EventScores.of(queries.users, queries.targets, top_rows=np.concatenate(tops), seen_removed=seen_removed)


def top_rows(scores_N: Floats, k: int) -> npt.NDArray[np.int32]:
    """int32[k]: rows by score descending, then row ascending; -inf never appears, -1 pads."""
    if len(scores_N) > k:
        # Everything that ties with the k-th best stays in, so that the row decides and not the partition.
        candidates = np.flatnonzero(scores_N >= np.partition(scores_N, -k)[-k])
    else:
        candidates = np.arange(len(scores_N))
    candidates = candidates[scores_N[candidates] > -np.inf]
    order = np.lexsort((candidates, -scores_N[candidates]))[:k]
    top = np.full(k, -1, dtype=np.int32)
    top[: len(order)] = candidates[order]
    return top
