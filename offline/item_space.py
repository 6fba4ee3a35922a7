"""A space of items that no family made: what users chose together in training."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse
import scipy.sparse.linalg

from model_store.encoders.history import HistoryBatch
from offline.ease import user_item_matrix


def co_choice_space(train: HistoryBatch, items: int, *, dim: int = 64) -> npt.NDArray[np.float32]:
    """float32 [N, dim], unit rows; a zero row for an item that was never chosen together with another.

    Left singular vectors of the positive pointwise mutual information of items in one user's sequence, scaled by the
    square roots of the singular values (Levy and Goldberg, 2014, "Neural Word Embedding as Implicit Matrix
    Factorization").
    """
    ppmi_NN = _ppmi(train, items)
    kept = min(dim, items - 1)
    # svds asks for dim < N, and takes no matrix of zeros.
    if kept < 1 or ppmi_NN.nnz == 0:
        return np.zeros((items, dim), dtype=np.float32)
    start = np.random.default_rng(0).standard_normal(items)
    left, values, _ = scipy.sparse.linalg.svds(ppmi_NN, k=kept, v0=start)
    space = np.zeros((items, dim))
    space[:, :kept] = left * np.sqrt(values)
    space[ppmi_NN.sum(axis=1) == 0] = 0.0
    norms = np.linalg.norm(space, axis=1, keepdims=True)
    unit: npt.NDArray[np.float32] = (space / np.where(norms > 0, norms, 1.0)).astype(np.float32)
    return unit


def _ppmi(train: HistoryBatch, items: int) -> scipy.sparse.csr_array:
    x_UN = user_item_matrix(train, items)
    together = scipy.sparse.coo_array(x_UN.T @ x_UN)
    off_diagonal = together.row != together.col
    row, col, count = together.row[off_diagonal], together.col[off_diagonal], together.data[off_diagonal]
    marginal_N = np.bincount(row, weights=count, minlength=items)
    information = np.log(count * marginal_N.sum() / (marginal_N[row] * marginal_N[col]))
    positive = information > 0
    return scipy.sparse.csr_array((information[positive], (row[positive], col[positive])), shape=(items, items))
