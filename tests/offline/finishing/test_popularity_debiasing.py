from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from model_store.bundle import Bundle
from model_store.staging import BundleParts
from offline.datasets import Interactions
from offline.evaluation.full_ranking import evaluate
from offline.families.ease import Recipe as Ease
from offline.families.llamarec import Recipe as LlamaRec
from offline.finishing.finish import finished
from offline.finishing.popularity_debiasing import debiased
from offline.finishing.score_offsets import with_offsets
from offline.splits.protocols import split
from offline.splits.sequences import Split

OpenBundle = Callable[[BundleParts], Bundle]


@pytest.fixture
def data(small_world: Interactions) -> Split:
    return split(small_world, "last-10")


@pytest.fixture
def parts(data: Split, tmp_path: Path) -> BundleParts:
    return Ease(lam=5, tau=1).train(data.dataset, tmp_path, {}).parts


def test_a_planted_bias_is_taken_out(data: Split, parts: BundleParts, open_bundle: OpenBundle) -> None:
    """Scores with popularity added to them: taking it away again is best on validation."""
    popularity = torch.from_numpy(np.log1p(data.dataset.catalog.popularity)).float()
    biased = with_offsets(parts, 0.3 * popularity)
    repaired, log = debiased(biased, data.dataset)
    assert float(log["popularity_strength"]) > 0  # type: ignore[arg-type]
    assert repaired.item_vectors_ND.shape == biased.item_vectors_ND.shape  # the coordinate that was there
    figures = [
        evaluate(open_bundle(each), data.dataset.validation, seen_removed=True).mean("ndcg@10")
        for each in (biased, repaired)
    ]
    assert figures[1] > figures[0]
    by_strength = log["ndcg@10_by_popularity_strength"]
    assert figures[1] == pytest.approx(max(by_strength.values()), abs=1e-4)  # type: ignore[attr-defined]


def test_every_query_s_scores_move_by_the_item_s_offset(
    data: Split, parts: BundleParts, open_bundle: OpenBundle
) -> None:
    offsets = torch.linspace(-1, 1, 40)
    moved = open_bundle(with_offsets(parts, offsets))
    plain = open_bundle(parts)
    histories = data.test.histories.select(range(20))
    scores = [
        bundle.encode(histories).vectors_BD @ torch.from_numpy(bundle.index.vectors_ND).T for bundle in (plain, moved)
    ]
    torch.testing.assert_close(scores[1] - scores[0], offsets.expand(20, 40), rtol=1e-4, atol=1e-4)


def test_the_strength_is_chosen_on_validation(data: Split, parts: BundleParts) -> None:
    shuffled = np.random.default_rng(0).permutation(data.dataset.validation.targets).astype(np.int32)
    other = replace(data.dataset, validation=replace(data.dataset.validation, targets=shuffled))
    assert debiased(parts, other)[1] != debiased(parts, data.dataset)[1]


def test_recipes_ask_for_it(data: Split, parts: BundleParts, tmp_path: Path) -> None:
    plain = Ease(lam=5, tau=1)
    trained = plain.train(data.dataset, tmp_path, {})
    assert finished(trained, plain, data.dataset).parts is trained.parts
    asked = finished(trained, Ease(lam=5, tau=1, popularity_debiasing=True), data.dataset)
    assert "popularity_strength" in asked.log
    assert asked.parts.encoder.dim == trained.parts.encoder.dim + 1
    with pytest.raises(ValidationError, match=r"popularity_debiasing = true.*ranker"):
        LlamaRec(retriever="v", popularity_debiasing=True)
