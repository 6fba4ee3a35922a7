from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from model_store.encoders.history import HistoryBatch
from offline.datasets import Interactions
from offline.evaluation.baselines import Markov, RecencyEase, cheap_rows
from offline.evaluation.score_matrix import evaluate_scores
from offline.splits.protocols import Protocol, catalog_of, split
from offline.splits.sequences import Queries, SequenceDataset

# Known from an evaluator that was written independently: HR@10 / NDCG@10, seen items removed.
KNOWN: dict[Protocol, dict[str, tuple[float, float]]] = {
    "leave-one-out": {
        "popularity": (0.0859, 0.0449),
        "markov": (0.1442, 0.0766),
        "ease": (0.1368, 0.0703),
        "ease-recency": (0.1856, 0.0997),
    },
    "last-10": {
        "popularity": (0.0806, 0.0393),
        "markov": (0.1531, 0.0821),
        "ease": (0.1681, 0.0866),
        "ease-recency": (0.2245, 0.1201),
    },
}


@pytest.mark.parametrize("protocol", ["leave-one-out", "last-10"])
def test_the_deterministic_rows_of_ml_100k_are_reproduced(ml_100k: Interactions, protocol: Protocol) -> None:
    data = split(ml_100k, protocol)
    found = {}
    for name, scorer in cheap_rows(data.dataset, lam=200.0, tau=10.0).items():
        scores = evaluate_scores(scorer, data.test, seen_removed=True)
        found[name] = (round(scores.values("hr@10").mean(), 4), round(scores.values("ndcg@10").mean(), 4))
    assert found == KNOWN[protocol]


def dataset_of(train: list[list[int]], items: int) -> SequenceDataset:
    frame = pl.DataFrame({"item_id": [str(row) for row in range(items)], "title": None, "text": None})
    frame = frame.with_columns(categories=pl.lit([], pl.List(pl.String)), year=pl.lit(None, pl.Int64))
    empty = Queries(HistoryBatch.of([]), np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int32))
    catalog = catalog_of(frame, [np.array(rows, dtype=np.int32) for rows in train])
    return SequenceDataset("tiny", "f", "s", "-", catalog, frame, HistoryBatch.of(train), empty, exclude_seen=True)


def test_markov_counts_bigrams_within_users_then_popularity() -> None:
    # 0 -> 1 twice, 0 -> 2 once; 3 is the most popular and follows nothing that is asked about. The step from the end
    # of one user to the start of the next is no bigram, not even over a user without events.
    markov = Markov(dataset_of([[0, 1], [0, 1], [3, 3, 3, 0, 2], [], [4]], items=6))
    order = np.argsort(-markov(HistoryBatch.of([[5, 0], [1], []])), axis=1, kind="stable").tolist()
    assert order[0] == [1, 2, 0, 3, 4, 5]
    assert order[1] == order[2] == [0, 3, 1, 2, 4, 5]


def test_recency_counts_from_the_end_and_repeats_add_up() -> None:
    weights = np.arange(9.0).reshape(3, 3)
    scores = RecencyEase(weights, tau=2.0)(HistoryBatch.of([[0, 2, 0], [1]]))
    aged = np.exp(-np.arange(3) / 2)
    np.testing.assert_allclose(scores[0], (aged[0] + aged[2]) * weights[0] + aged[1] * weights[2])
    np.testing.assert_allclose(scores[1], weights[1])
