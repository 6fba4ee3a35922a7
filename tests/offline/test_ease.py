from __future__ import annotations

import numpy as np

from model_store.encoders.history import HistoryBatch
from offline.ease import ease_weights, factorise, user_item_matrix


def random_histories(users: int, items: int) -> HistoryBatch:
    rng = np.random.default_rng(1)
    return HistoryBatch.of([rng.integers(0, items, rng.integers(0, 12)).tolist() for _ in range(users)])


def test_the_matrix_is_binary_and_keeps_users_without_events() -> None:
    assert user_item_matrix(HistoryBatch.of([[1, 1, 0], [], [2]]), 4).toarray().tolist() == [
        [1, 1, 0, 0],
        [0, 0, 0, 0],
        [0, 0, 1, 0],
    ]


def test_weights_solve_the_ridge_regression_with_a_zero_diagonal() -> None:
    train = random_histories(80, 15)
    weights_NN = ease_weights(train, 15, lam=3.0)
    x_UN = user_item_matrix(train, 15).toarray()
    assert (weights_NN.diagonal() == 0).all()
    # Column by column: the best prediction of an item from all the others.
    for item in range(15):
        others = np.delete(np.arange(15), item)
        a = x_UN[:, others]
        expected = np.linalg.solve(a.T @ a + 3.0 * np.eye(14), a.T @ x_UN[:, item])
        np.testing.assert_allclose(weights_NN[others, item], expected, atol=1e-10)


def test_full_rank_is_the_matrix_itself_and_less_is_the_best_of_that_rank() -> None:
    weights_NN = ease_weights(random_histories(80, 15), 15, lam=3.0)
    exact = factorise(weights_NN, None)
    assert (exact.left_ND @ exact.right_ND.T == weights_NN.astype(np.float32)).all()
    values = np.linalg.svd(weights_NN, compute_uv=False)
    truncated = factorise(weights_NN, 5)
    assert truncated.left_ND.shape == truncated.right_ND.shape == (15, 5)
    error = np.linalg.norm(weights_NN - truncated.left_ND @ truncated.right_ND.T)
    np.testing.assert_allclose(error**2, (values[5:] ** 2).sum(), rtol=1e-4)
    np.testing.assert_allclose(truncated.kept, (values[:5] ** 2).sum() / (values**2).sum(), rtol=1e-6)
