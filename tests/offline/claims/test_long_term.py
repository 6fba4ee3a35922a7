from __future__ import annotations

import numpy as np

from model_store.encoders.history import HistoryBatch
from offline.claims.contrasts import Arms
from offline.claims.event_features import equal_masses, long_term_index
from offline.claims.long_term import long_term
from offline.claims.worlds import CLUSTER, CLUSTERS, Ranked
from offline.evaluation.metrics import Floats
from offline.evaluation.score_matrix import evaluate_scores
from offline.splits.sequences import Split

CLUSTER_OF = np.arange(CLUSTERS * CLUSTER) // CLUSTER


def _ranked(split: Split, *, read: int | None, seed: int) -> Ranked:
    """Recommends items of the clusters that it finds among the last `read` items (None: all), more of the more frequent
    one; five runs that disagree about the rest."""
    runs = []
    for run in range(5):
        rng = np.random.default_rng([seed, run])

        def score(histories: HistoryBatch, rng: np.random.Generator = rng) -> Floats:
            rows = [histories.history(b).numpy()[-(read or 10**6) :] for b in range(len(histories))]
            shares = np.stack([np.bincount(CLUSTER_OF[r], minlength=CLUSTERS) / len(r) for r in rows])
            return shares[:, CLUSTER_OF] + 0.01 * rng.random((len(histories), len(CLUSTER_OF)))

        runs.append(evaluate_scores(score, split.test, seen_removed=True).ranks)
    return Ranked(np.stack(runs), split.test.users)


def _measured(split: Split, *, pooled: int | None, last: int) -> tuple[float, float]:
    ranked = {"llm2vec": _ranked(split, read=pooled, seed=0), "llm2vec-last": _ranked(split, read=last, seed=1)}
    arms = Arms.of(ranked, minutes={}, draws=1_000, seed=0)
    estimate = long_term(arms, split.dataset, split.test).estimate
    assert estimate is not None
    return estimate.low, estimate.high


def test_the_index_is_high_where_the_target_returns_to_what_was_long_ago(long_interest: Split) -> None:
    index = long_term_index(long_interest.dataset, long_interest.test)
    returns = long_interest.test.users % 2 == 0
    assert index[returns].min() > 0.3
    assert index[~returns].max() < -0.3


def test_pooling_the_whole_history_is_found_to_serve_the_long_term(long_interest: Split) -> None:
    low, _ = _measured(long_interest, pooled=None, last=1)
    assert low > 0


def test_two_that_read_the_same_are_not_told_apart(long_interest: Split) -> None:
    low, high = _measured(long_interest, pooled=1, last=1)
    assert low < 0 < high


def test_groups_of_equal_mass_keep_equal_values_together() -> None:
    groups = equal_masses(np.array([5, 1, 1, 1, 1, 2, 3, 9, 9]), 3)
    assert len(set(groups[[1, 2, 3, 4]])) == 1
    assert groups[1] < groups[6] < groups[7] == groups[8]
    assert np.bincount(equal_masses(np.arange(30.0), 3)).tolist() == [10, 10, 10]
    assert len(equal_masses(np.array([]), 3)) == 0
