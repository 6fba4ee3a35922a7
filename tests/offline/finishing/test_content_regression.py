from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse

from model_store.item_placer import Piece, scaled
from offline.finishing.content_regression import fit_regression, norm_of_rare, popularity_folds


@pytest.mark.parametrize(("items", "words"), [(40, 6), (8, 30)])
def test_it_is_the_weighted_ridge_solution(items: int, words: int) -> None:
    """The gradient of sum_i min(n_i, 100) |W f_i - v_i|^2 + lam |W|^2 is zero, whichever system was solved."""
    rng = np.random.default_rng(0)
    features, vectors = rng.random((items, words)), rng.standard_normal((items, 3))
    events = rng.integers(1, 400, size=items)
    found = fit_regression(scipy.sparse.csr_array(features), vectors, events, lam=7.0)
    trust = np.minimum(events, 100)[:, None]
    gradient = features.T @ (trust * (features @ found - vectors)) + 7.0 * found
    np.testing.assert_allclose(gradient, 0, atol=1e-8)
    assert found.shape == (words, 3)


def test_the_length_is_that_of_rare_items() -> None:
    events = np.array([50, 1, 2, 60, 70, 80, 90, 100, 3, 4])
    vectors = np.eye(10) * np.array([9.0, 2, 4, 9, 9, 9, 9, 9, 9, 9])[:, None]
    assert norm_of_rare(vectors, events) == 3.0
    lengths = np.linalg.norm(scaled(np.array([[3.0, 4.0], [0.0, 0.0]]), [Piece(width=2, norm=2.0)]), axis=1)
    np.testing.assert_allclose(lengths, [2, 0])


def test_every_ten_neighbours_in_popularity_are_in_ten_folds() -> None:
    events = np.random.default_rng(0).integers(1, 1000, size=57)
    folds = popularity_folds(events, seed=1)
    order = np.lexsort((np.arange(57), -events))
    for start in range(0, 50, 10):
        assert sorted(folds[order[start : start + 10]]) == list(range(10))
    assert not np.array_equal(folds, popularity_folds(events, seed=2))
