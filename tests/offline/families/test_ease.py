from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from pydantic import ValidationError

from model_store.bundle import Bundle
from model_store.catalog import ItemCatalog
from model_store.staging import BundleParts
from offline.datasets import Interactions
from offline.ease import ease_weights
from offline.evaluation.baselines import RecencyEase
from offline.evaluation.full_ranking import evaluate
from offline.evaluation.score_matrix import evaluate_scores
from offline.evaluation.validation import Validation
from offline.families.ease import LAMS, TAUS, Recipe
from offline.finishing.weight_search import choose_weights, part_scores
from offline.splits.protocols import split

OpenBundle = Callable[[BundleParts], Bundle]


@pytest.mark.parametrize(
    ("tau", "hit_rate", "ndcg"), [(None, 0.1368, 0.0703), (10.0, 0.1856, 0.0997)], ids=["plain", "recency"]
)
def test_the_bundle_ranks_as_the_dense_matrix(
    ml_100k: Interactions, tmp_path: Path, open_bundle: OpenBundle, tau: float | None, hit_rate: float, ndcg: float
) -> None:
    data = split(ml_100k, "leave-one-out")
    bundle = open_bundle(Recipe(lam=200, tau=tau).train(data.dataset, tmp_path, {}).parts)
    assert bundle.manifest.warnings == []
    scores = evaluate(bundle, data.test, seen_removed=True)
    dense = RecencyEase(ease_weights(data.dataset.train, len(ml_100k.items), lam=200), tau=tau)
    expected = evaluate_scores(dense, data.test, seen_removed=True)
    # float32 factors may swap two neighbours whose scores differ by less than one part in a million.
    assert (scores.top_rows != expected.top_rows).sum() <= 4
    assert (scores.ranks == expected.ranks).all()
    assert round(scores.values("hr@10").mean(), 4) == hit_rate
    assert round(scores.values("ndcg@10").mean(), 4) == ndcg


def test_ridge_and_decay_are_the_best_on_validation(ml_100k: Interactions, tmp_path: Path) -> None:
    data = split(ml_100k, "last-10").dataset
    validation = Validation.of(data)
    recipe = Recipe(lam="validation", tau="validation")
    trained = recipe.train(data, tmp_path, {})
    figures: Any = trained.log["ndcg@10_by_lam_and_tau"]
    assert len(figures) == len(LAMS) * len(TAUS)
    chosen = f"lam {trained.log['lam']:g}, tau {trained.log['tau']}"
    assert figures[chosen] == max(figures.values())
    assert figures[chosen] > figures["lam 200, tau 10.0"] + 0.005
    served = validation.ndcg10(trained.parts.encoder, trained.parts.item_vectors_ND)
    assert served == pytest.approx(figures[chosen], abs=2e-4)
    again = recipe.refitted(trained.log)
    assert (again.lam, again.tau) == (trained.log["lam"], trained.log["tau"])
    assert Recipe(lam="validation", tau=None).refitted({"lam": 3.0, "tau": None}) == Recipe(lam=3, tau=None)


def test_beside_another_version_ridge_and_decay_are_the_best_of_the_sum(
    small_world: Interactions, tmp_path: Path, open_bundle: OpenBundle
) -> None:
    data = split(small_world, "leave-one-out").dataset
    # A partner that knows what EASE with a short memory knows, so that the sum wants another one than EASE alone.
    partner = open_bundle(Recipe(lam=50, tau=1.0).train(data, tmp_path, {}).parts)
    alone = Recipe(lam=100, tau="validation").train(data, tmp_path, {})
    recipe = Recipe(lam=100, tau="validation", beside="run:partner")
    assert recipe.parent_references() == {"beside": "run:partner"}
    trained = recipe.train(data, tmp_path, {"beside": partner})
    figures: Any = trained.log["ndcg@10_by_lam_and_tau"]
    validation = Validation.of(data)
    theirs_QN = part_scores(partner, validation)
    sums = {}
    for tau in TAUS:
        scores_QN = RecencyEase(ease_weights(data.train, len(data.catalog), lam=100), tau=tau)(validation.histories)
        parts = [theirs_QN, torch.from_numpy(scores_QN).float()]
        fusion = choose_weights(parts, validation, steps=20, trained_N=torch.from_numpy(data.trained_items))
        sums[f"lam 100, tau {tau}"] = round(max(fusion.ndcg10.values()), 4)
    assert figures == sums
    assert figures[f"lam 100, tau {trained.log['tau']}"] == max(sums.values())
    assert figures != alone.log["ndcg@10_by_lam_and_tau"]
    # What ships is made as it was found best to, and chooses nothing, beside nobody.
    chosen: Any = trained.log["tau"]
    assert recipe.refitted(trained.log) == Recipe(lam=100, tau=chosen)


def test_who_it_is_chosen_beside_has_the_same_items(
    small_world: Interactions, tmp_path: Path, open_bundle: OpenBundle
) -> None:
    data = split(small_world, "leave-one-out").dataset
    partner = open_bundle(Recipe(lam=50).train(data, tmp_path, {}).parts)
    others = replace(data, catalog=ItemCatalog(data.catalog.frame.with_columns(pl.col("item_id") + " of others")))
    with pytest.raises(ValueError, match="scores other items than these"):
        Recipe(lam="validation", beside="v").train(others, tmp_path, {"beside": partner})
    with pytest.raises(ValidationError, match=r'both are given: set lam or tau = "validation"'):
        Recipe(lam=50, tau=1.0, beside="v")


def test_a_lower_rank_is_smaller_and_still_a_bundle(
    small_world: Interactions, tmp_path: Path, open_bundle: OpenBundle
) -> None:
    data = split(small_world, "leave-one-out")
    exact, truncated = (Recipe(lam=5, rank=rank).train(data.dataset, tmp_path, {}) for rank in (None, 12))
    assert exact.log == {"rank": 40, "kept_of_B": 1.0}
    assert truncated.log["rank"] == 12
    hit_rates = [
        evaluate(open_bundle(trained.parts), data.test, seen_removed=False).values("hr@10").mean()
        for trained in (exact, truncated)
    ]
    assert abs(hit_rates[0] - hit_rates[1]) < 0.2


def test_recipes_refuse_what_makes_no_sense() -> None:
    for wrong in ({"lam": 0}, {"tau": -1}, {"rank": 0}, {"lambda": 3}):
        with pytest.raises(ValidationError):
            Recipe.model_validate(wrong)
