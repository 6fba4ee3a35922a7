"""Rankings of whatever gives every item a score: the rows that are no bundles, under the same ties and metrics."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from model_store.encoders.history import HistoryBatch
from offline.evaluation.metrics import EventScores, Floats
from offline.splits.sequences import Queries

CHUNK = 256


class Scorer(Protocol):
    """Scores the whole catalogue for each history; higher is better."""

    def __call__(self, histories: HistoryBatch) -> Floats:
        """float64 [B, N]; the caller may write into it."""


def evaluate_scores(
    scorer: Scorer, queries: Queries, *, seen_removed: bool, k: int = 20, allowed_N: npt.NDArray[np.bool_] | None = None
) -> EventScores:
    """Full ranking by score, ties by item row (the lower wins). allowed_N: bool[N], the only items that are ranked."""
    tops = [np.empty((0, k), dtype=np.int32)]
    for start in range(0, len(queries), CHUNK):
        chunk = range(start, min(start + CHUNK, len(queries)))
        scores_BN = scorer(queries.histories.select(chunk))
        if seen_removed:
            seen = queries.seen_items.select(chunk)
            owners = np.repeat(np.arange(len(seen)), seen.lengths.numpy())
            scores_BN[owners, seen.rows.numpy()] = -np.inf
        if allowed_N is not None:
            scores_BN[:, ~allowed_N] = -np.inf
        tops.append(np.stack([top_rows(scores_N, k) for scores_N in scores_BN]))
    return EventScores.of(
        queries.users,
        queries.targets,
        top_rows=np.concatenate(tops),
        seen_removed=seen_removed,
        weights=queries.weights,
    )


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
