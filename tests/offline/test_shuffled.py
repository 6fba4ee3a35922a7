from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from model_store.bundle import Bundle
from model_store.staging import BundleParts
from offline.datasets import Interactions
from offline.families import ease
from offline.shuffled import order_drop, shuffle_histories
from offline.splits import split


def test_histories_are_permuted_and_nothing_else(small_world: Interactions) -> None:
    queries = split(small_world, "last-10").test
    whole = shuffle_histories(queries, "all", seed=0)
    kept = shuffle_histories(queries, "all but last", seed=0)
    moved = 0
    for query in range(len(queries)):
        true = queries.histories.history(query)
        for other in (whole, kept):
            assert sorted(other.histories.history(query).tolist()) == sorted(true.tolist())
        assert kept.histories.history(query)[-1] == true[-1]
        moved += int(whole.histories.history(query)[-1] != true[-1])
    assert moved > len(queries) / 2
    assert (whole.targets == queries.targets).all()
    assert not (shuffle_histories(queries, "all", seed=1).histories.rows == whole.histories.rows).all()
    assert (shuffle_histories(queries, "all", seed=0).histories.rows == whole.histories.rows).all()


def test_a_model_that_reads_order_drops_and_one_that_does_not_stays(
    small_world: Interactions, tmp_path: Path, open_bundle: Callable[[BundleParts], Bundle]
) -> None:
    data = split(small_world, "last-10")

    def drop(tau: float | None) -> tuple[float, float, float]:
        recipe = ease.Recipe(lam=5, tau=tau)
        bundle = open_bundle(recipe.train(data.dataset, tmp_path, {}).parts)
        found = order_drop(bundle, data.test, what="all", seen_removed=False)
        assert (found.shuffles, found.metric) == (5, "ndcg@10")
        return found.drop, found.low, found.high

    ordered, low, high = drop(1.0)
    assert 0 < low < ordered < high
    assert drop(None) == pytest.approx((0.0, 0.0, 0.0), abs=1e-12)
    assert np.isfinite(ordered)
