"""The cheap rows that stand in every table: popularity, Markov, EASE and recency-weighted EASE."""

from __future__ import annotations

import numpy as np
import scipy.sparse

from model_store.encoders.history import HistoryBatch
from offline.ease import ease_weights
from offline.evaluation.metrics import Floats
from offline.evaluation.score_matrix import Scorer
from offline.splits.sequences import SequenceDataset

CHEAP_ROWS = ("popularity", "markov", "ease", "ease-recency")


class Popularity:
    """The same list for everybody: events in training."""

    def __init__(self, dataset: SequenceDataset) -> None:
        self._counts_N = dataset.catalog.popularity.astype(np.float64)

    def __call__(self, histories: HistoryBatch) -> Floats:
        return np.tile(self._counts_N, (len(histories), 1))


class Markov:
    """Counts of training bigrams that begin with the last item, then popularity, then row."""

    def __init__(self, dataset: SequenceDataset) -> None:
        train, items = dataset.train, len(dataset.catalog)
        rows = train.rows.numpy()
        within = np.ones(max(len(rows) - 1, 0), dtype=bool)
        ends = train.offsets.numpy()[1:-1]
        within[ends[(ends > 0) & (ends < len(rows))] - 1] = False
        pairs = (rows[:-1][within], rows[1:][within])
        self._bigrams = scipy.sparse.csr_array(
            scipy.sparse.coo_array((np.ones(int(within.sum())), pairs), shape=(items, items))
        )
        self._counts_N = dataset.catalog.popularity.astype(np.float64)

    def __call__(self, histories: HistoryBatch) -> Floats:
        last_B = histories.rows.numpy()[histories.offsets.numpy()[1:] - 1]
        # Whole numbers far below 2^53: one float orders by bigram first and by popularity among equals.
        scores_BN: Floats = self._bigrams[last_B].toarray() * (self._counts_N.max(initial=0.0) + 1.0)
        scores_BN += self._counts_N
        scores_BN[histories.lengths.numpy() == 0] = self._counts_N
        return scores_BN


class RecencyEase:
    """s = sum_j exp(-(n - j) / tau) B[h_j]; tau None weighs the whole history alike (plain EASE)."""

    def __init__(self, weights_NN: Floats, *, tau: float | None) -> None:
        self._weights_NN, self._tau = weights_NN, tau

    def __call__(self, histories: HistoryBatch) -> Floats:
        scores_BN: Floats = recency_matrix(histories, len(self._weights_NN), tau=self._tau) @ self._weights_NN
        return scores_BN


def recency_matrix(histories: HistoryBatch, items: int, *, tau: float | None) -> scipy.sparse.csr_array:
    """float64 [B, N]: exp(-(n - j) / tau) at the j-th of a history's n items (1 where tau is None)."""
    lengths = histories.lengths.numpy()
    ages = np.repeat(histories.offsets.numpy()[1:], lengths) - 1 - np.arange(len(histories.rows))
    weights = np.ones(len(ages)) if tau is None else np.exp(-ages / tau)
    return scipy.sparse.csr_array(
        (weights, histories.rows.numpy(), histories.offsets.numpy()), shape=(len(histories), items)
    )


def cheap_rows(dataset: SequenceDataset, *, lam: float = 200.0, tau: float = 10.0) -> dict[str, Scorer]:
    """Name of the row -> its scorer."""
    weights_NN = ease_weights(dataset.train, len(dataset.catalog), lam=lam)
    scorers: list[Scorer] = [
        Popularity(dataset),
        Markov(dataset),
        RecencyEase(weights_NN, tau=None),
        RecencyEase(weights_NN, tau=tau),
    ]
    return dict(zip(CHEAP_ROWS, scorers, strict=True))
