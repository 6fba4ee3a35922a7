from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from model_store.catalog import ItemCatalog
from model_store.encoders.history import HistoryBatch
from offline.datasets import Interactions
from offline.evaluation.baselines import Popularity
from offline.evaluation.beyond_accuracy import calibration, coverage, diversity, gini, list_figures, novelty
from offline.evaluation.score_matrix import evaluate_scores
from offline.splits.protocols import split
from offline.splits.sequences import Queries

Rows = np.ndarray[tuple[int, int], np.dtype[np.int32]]


def lists(*rows: list[int]) -> Rows:
    return np.array(rows, dtype=np.int32)


def test_coverage_and_gini_of_exposure() -> None:
    same, spread = lists([0, 1], [0, 1]), lists([0, 1], [2, 3])
    assert (coverage(same, 4), coverage(spread, 4)) == (0.5, 1.0)
    assert gini(spread, 4) == pytest.approx(0.0)
    assert gini(same, 4) == pytest.approx(0.5)
    assert gini(lists([0, -1], [0, -1]), 100) == pytest.approx(0.99)


def test_novelty_is_the_mean_information_of_an_item() -> None:
    popularity = np.array([3, 1, 0, 0])
    assert novelty(lists([0, -1]), popularity) == pytest.approx(1.0)
    assert novelty(lists([0, 2]), popularity) == pytest.approx((1 + 3) / 2)


def test_diversity_is_the_mean_distance_of_pairs() -> None:
    space = np.array([[1, 0], [1, 0], [0, 1], [0, 0]], dtype=np.float32)
    assert diversity(lists([0, 1]), space) == pytest.approx(0.0)
    assert diversity(lists([0, 2]), space) == pytest.approx(1.0)
    assert diversity(lists([0, 1, 2]), space) == pytest.approx(2 / 3)
    # An item that was never chosen together with another is far from all; padding counts for nothing.
    assert diversity(lists([0, 3, -1]), space) == pytest.approx(1.0)
    assert diversity(lists([0, -1]), space) == 0.0


def test_calibration_is_zero_when_the_list_is_like_the_history() -> None:
    catalog = ItemCatalog(
        pl.DataFrame(
            {
                "item_id": ["a", "b", "c"],
                "title": ["a", "b", "c"],
                "text": None,
                "categories": [["x"], ["y"], ["x", "y"]],
                "popularity": [1, 1, 1],
            }
        )
    )
    queries = Queries(HistoryBatch.of([[0, 1]]), np.array([2], dtype=np.int32), np.array([0], dtype=np.int32))
    assert calibration(lists([2]), queries, catalog=catalog) == pytest.approx(0.0, abs=1e-12)
    # Half x, half y against all x: KL(p || .99 q + .01 p).
    expected = 0.5 * np.log(0.5 / 0.995) + 0.5 * np.log(0.5 / 0.005)
    assert calibration(lists([0]), queries, catalog=catalog) == pytest.approx(expected)


def test_popularity_lists_of_the_small_world(small_world: Interactions) -> None:
    data = split(small_world, "last-10")
    scores = evaluate_scores(Popularity(data.dataset), data.test, seen_removed=False)
    figures = list_figures(scores, data.test, dataset=data.dataset)
    assert list(figures) == ["coverage@10", "gini@10", "novelty@10", "diversity@10", "calibration@10"]
    assert figures["coverage@10"] == 10 / 40
    assert figures["gini@10"] == pytest.approx(0.75)
    assert 0 < figures["diversity@10"] < 2
