from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from model_store.bundle import Bundle
from model_store.staging import BundleParts
from offline.datasets import Interactions
from offline.evaluation.shuffled import order_drop, shuffle_histories
from offline.families import e4srec, ease, sasrec
from offline.finishing.golden_histories import golden_histories
from offline.splits.protocols import split
from offline.training.loop import FitPlan


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


def test_of_a_residual_only_the_language_model_reads_shuffled_histories(
    small_world: Interactions, tmp_path: Path, open_bundle: Callable[[BundleParts], Bundle], tiny_base: Path
) -> None:
    data = split(small_world, "last-10")
    plan = FitPlan(epochs=8, evaluate_every=4, batch=16, learning_rate=1e-2)
    start = open_bundle(sasrec.Recipe(dim=8, max_history=16, fit=plan).train(data.dataset, tmp_path, {}).parts)
    recipe = e4srec.Recipe.model_validate(
        {
            "items_from": "v",
            "prompt": "a b",
            "max_history": 16,
            "residual": True,
            "lm": {"base": str(tiny_base), "keep_layers": 2},
        }
    )
    # Untrained it is the SASRec it starts from: the language model adds nothing, so it has nothing to lose.
    encoder = recipe._encoder(data.dataset, recipe.lm.open(), start).eval()
    items = torch.from_numpy(start.index.vectors_ND)
    golden = golden_histories(data.dataset.train)
    residual = open_bundle(BundleParts("e4srec", data.dataset.catalog, encoder, items, golden))
    drops = [
        order_drop(bundle, data.test, what="all", seen_removed=False, shuffles=2).drop for bundle in (start, residual)
    ]
    assert drops[0] > 0.05
    assert drops[1] == pytest.approx(0.0, abs=1e-3)
