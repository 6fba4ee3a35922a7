from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from model_store.bundle import Bundle
from model_store.encoders.history import HistoryBatch
from model_store.encoders.language_model import LanguageModelConfig
from model_store.ranker import InterpolatedRanker
from model_store.rankers.pointwise import PointwiseConfig
from offline.datasets import Interactions
from offline.evaluation.full_ranking import evaluate
from offline.families import sasrec
from offline.ranking.reranking import WEIGHTS, RerankingProblem, choose_weight
from offline.splits.protocols import split
from offline.splits.sequences import SequenceDataset
from offline.training.loop import FitPlan


@pytest.fixture(scope="module")
def dataset(small_world: Interactions) -> SequenceDataset:
    return split(small_world, "last-10").dataset


@pytest.fixture
def retriever(dataset: SequenceDataset, tmp_path: Path, open_bundle: Callable[..., Bundle]) -> Bundle:
    recipe = sasrec.Recipe(dim=8, max_history=16, fit=FitPlan(epochs=2, evaluate_every=1, batch=16))
    return open_bundle(recipe.train(dataset, tmp_path / "sasrec", {}).parts)


class Told(InterpolatedRanker):
    """Says of each candidate what it was told: by the user's history, then by row."""

    def __init__(self, dataset: SequenceDataset, *, sign: float) -> None:
        super().__init__()
        encoder = LanguageModelConfig(lm={}, items=40, dim=1, max_history=1, jump=1, item_input="vector")
        self.config = PointwiseConfig(weight=1.0, window=12, encoder=encoder)
        self.sign = sign
        self.targets = {
            tuple(dataset.validation.histories.history(q).tolist()[-8:]): int(target)
            for q, target in enumerate(dataset.validation.targets)
        }

    def opinions(self, histories: HistoryBatch, item_rows_BK: Tensor) -> Tensor:
        targets_B = torch.tensor(
            [self.targets[tuple(histories.history(b).tolist()[-8:])] for b in range(len(histories))]
        )
        return self.sign * 9.0 * (item_rows_BK == targets_B[:, None]).float()


def test_a_ranker_that_knows_takes_all_there_is(dataset: SequenceDataset, retriever: Bundle) -> None:
    problem = RerankingProblem.of(dataset, retriever, depth=12)
    ranker = Told(dataset, sign=1.0)
    log = choose_weight(problem, ranker)
    assert log["G"] == pytest.approx(1)
    assert log["reranked_ndcg@10"] == log["recall@12"] == pytest.approx(problem.recall())
    assert 0 < ranker.config.weight <= 1
    assert log["weight"] == ranker.config.weight
    assert set(log["ndcg@10_by_weight"]) == {str(weight) for weight in WEIGHTS}  # type: ignore[call-overload]
    # The figure is that of the bundle that is served.
    served = replace(retriever, ranker=ranker)
    values = evaluate(served, dataset.validation, seen_removed=True).values("ndcg@10")
    assert values.mean() == pytest.approx(log["reranked_ndcg@10"])
    alone = evaluate(retriever, dataset.validation, seen_removed=True).values("ndcg@10")
    assert alone.mean() == pytest.approx(log["retriever_ndcg@10"])


def test_a_ranker_that_harms_gets_no_weight(dataset: SequenceDataset, retriever: Bundle) -> None:
    ranker = Told(dataset, sign=-1.0)
    log = choose_weight(RerankingProblem.of(dataset, retriever, depth=12), ranker)
    assert (ranker.config.weight, ranker.depth) == (0.0, 0)
    assert log["G"] == 0
    assert log["reranked_ndcg@10"] == log["retriever_ndcg@10"]


def test_cold_items_are_not_offered_and_weights_count(dataset: SequenceDataset, retriever: Bundle) -> None:
    cold_N = np.arange(40) % 2 == 0
    problem = RerankingProblem.of(replace(dataset, cold_items=cold_N), retriever, depth=12)
    assert not (problem.rows_QK[problem.rows_QK >= 0] % 2 == 0).any()
    weights = np.zeros(len(dataset.validation))
    weights[7] = 2.0
    alone = replace(dataset, validation=replace(dataset.validation, weights=weights))
    problem = RerankingProblem.of(alone, retriever, depth=12)
    opinions = torch.zeros(problem.rows_QK.shape)
    assert problem.recall() in (0.0, 1.0)
    (found,) = np.flatnonzero(problem.found[7].rows == problem.targets[7]) if problem.recall() else (99,)
    expected = 1 / np.log2(2 + found) if found < 10 else 0.0
    assert problem.ndcg10(opinions, weight=0.0) == pytest.approx(expected)
    sample = problem.sample(5)
    assert len(sample.found) == len(sample.targets) == len(sample.histories) == 5
