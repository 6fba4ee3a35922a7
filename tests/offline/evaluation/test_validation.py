from __future__ import annotations

from pathlib import Path

import torch

from model_store.encoders.sequence import SequenceConfig
from offline.datasets import Interactions
from offline.evaluation.full_ranking import evaluate
from offline.evaluation.validation import Validation
from offline.families.sasrec import Recipe
from offline.splits.protocols import split
from offline.training.loop import FitPlan
from tests.offline.conftest import OpenBundle


def test_a_model_that_diverged_is_not_the_best_one(small_world: Interactions) -> None:
    """Nothing is above NaN: counted alone, every target would stand first."""
    validation = Validation(split(small_world, "last-10").dataset.validation, exclude_seen=True)
    encoder = SequenceConfig(items=40, dim=8, blocks=1, heads=1, max_history=9, jump=4).build()
    healthy = validation.ndcg10(encoder, encoder.item_vectors_ND)
    assert 0 < healthy < 1
    assert validation.ndcg10(encoder, torch.full((40, 8), float("nan"))) == 0


def test_it_agrees_with_the_evaluation_of_the_bundle(
    small_world: Interactions, tmp_path: Path, open_bundle: OpenBundle
) -> None:
    data = split(small_world, "last-10").dataset
    recipe = Recipe(dim=8, max_history=12, fit=FitPlan(epochs=2, evaluate_every=1))
    parts = recipe.train(data, tmp_path, {}).parts
    bundle = open_bundle(parts)
    for seen_removed in (True, False):
        quick = Validation(data.validation, exclude_seen=seen_removed).ndcg10(parts.encoder, parts.item_vectors_ND)
        whole = evaluate(bundle, data.validation, seen_removed=seen_removed).values("ndcg@10").mean()
        torch.testing.assert_close(quick, float(whole), atol=1e-6, rtol=0)
