"""EASE in closed form (Steck, 2019, "Embarrassingly Shallow Autoencoders for Sparse Data")."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.sparse

from model_store.encoders.history import HistoryBatch
from offline.evaluation.metrics import Floats

POWER_STEPS = 3


def user_item_matrix(train: HistoryBatch, items: int) -> scipy.sparse.csr_array:
    """float64 [U, N], 1 where the user has the item in training, however often."""
    users = np.repeat(np.arange(len(train)), train.lengths.numpy())
    pairs = np.unique(users * items + train.rows.numpy().astype(np.int64))
    return scipy.sparse.csr_array((np.ones(len(pairs)), (pairs // items, pairs % items)), shape=(len(train), items))


def ease_weights(train: HistoryBatch, items: int, *, lam: float) -> Floats:
    """B, float64 [N, N]: score of item i for a history = sum over its items h of B[h, i]; the diagonal is 0.

    B = I - P diag(P)^-1 with P = (X^T X + lam I)^-1. Costs N^3 operations and 8 N^2 bytes.
    """
    x_UN = user_item_matrix(train, items)
    gram_NN = np.asfortranarray((x_UN.T @ x_UN).toarray())
    gram_NN[np.diag_indices(items)] += lam
    factor_NN, failed = scipy.linalg.lapack.dpotrf(gram_NN, lower=1, overwrite_a=1)
    assert failed == 0, "X^T X + lam I is positive definite"
    inverse_NN, failed = scipy.linalg.lapack.dpotri(factor_NN, lower=1, overwrite_c=1)
    assert failed == 0
    # dpotri fills the lower triangle only.
    weights_NN: Floats = np.tril(inverse_NN)
    weights_NN += np.tril(inverse_NN, -1).T
    weights_NN /= -weights_NN.diagonal()[None, :]
    np.fill_diagonal(weights_NN, 0.0)
    return weights_NN


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """B ~ left @ right.T. left, right: float32 [N, D]. kept: share of B's squared Frobenius norm that is kept."""

    left_ND: np.ndarray[tuple[int, int], np.dtype[np.float32]]
    right_ND: np.ndarray[tuple[int, int], np.dtype[np.float32]]
    kept: float


def factorise(weights_NN: Floats, rank: int | None) -> Factors:
    """rank None, or N and above: left = B and right = I, which an inner product gives back as it is.

    Below: truncated SVD, singular values split evenly over both sides, by subspace iteration with a fixed start
    (Halko, Martinsson and Tropp, 2011, "Finding Structure with Randomness"): products of whole matrices, where
    Lanczos would go through B once for each vector.
    """
    items = len(weights_NN)
    if rank is None or rank >= items:
        return Factors(weights_NN.astype(np.float32), np.eye(items, dtype=np.float32), 1.0)
    matrix_NN = weights_NN.astype(np.float32)
    width = min(items, rank + max(64, rank // 8))
    basis_NW = np.random.default_rng(0).standard_normal((items, width), dtype=np.float32)
    for _ in range(POWER_STEPS):
        basis_NW = np.linalg.qr(matrix_NN.T @ np.linalg.qr(matrix_NN @ basis_NW).Q).Q
    left, values, right = np.linalg.svd(matrix_NN @ basis_NW, full_matrices=False)
    root = np.sqrt(values[:rank])
    kept = float((values[:rank].astype(np.float64) ** 2).sum() / (weights_NN**2).sum())
    return Factors(left[:, :rank] * root, (basis_NW @ right.T)[:, :rank] * root, kept)
