"""From an item's content to the vector that an ID model would have learnt for it: weighted ridge regression.

W = argmin sum_i min(n_i, 100) |W f_i - v_i|^2 + lam |W|^2 over the trained items, n_i their training events (after
van den Oord et al., 2013, "Deep content-based music recommendation", in closed form). An item that many have chosen has
a vector to be trusted; one that few have is mostly where it started.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.sparse

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
MOST_EVENTS = 100
FOLDS = 10


def fit_regression(
    features_NF: scipy.sparse.csr_array, vectors_ND: Floats, events_N: npt.NDArray[np.int64], *, lam: float
) -> Floats:
    """float64 [F, D]: W transposed. Every row given is fitted to; solved in the smaller of N and F."""
    weights_N = np.minimum(events_N, MOST_EVENTS).astype(np.float64)
    N, F = features_NF.shape
    if N <= F:
        # W^T = F^T (F F^T + lam C^-1)^-1 V
        gram_NN = (features_NF @ features_NF.T).toarray()
        gram_NN[np.diag_indices(N)] += lam / weights_N
        dual_ND = scipy.linalg.solve(gram_NN, vectors_ND, assume_a="pos")
        return np.asarray(features_NF.T @ dual_ND)
    weighted_NF = features_NF.multiply(weights_N[:, None]).tocsr()
    gram_FF = (features_NF.T @ weighted_NF).toarray()
    gram_FF[np.diag_indices(F)] += lam
    return np.asarray(scipy.linalg.solve(gram_FF, weighted_NF.T @ vectors_ND, assume_a="pos"))


def as_wide(weights_FD: Floats, features_NF: scipy.sparse.csr_array, vectors_ND: Floats) -> Floats:
    """float64 [F, D]: the same regression with its predictions around the mean of the vectors, and as far from it.

    The ridge draws what is predicted to one place; scores of new items would differ less from each other, and between
    users, than those of the items that they stand beside. The last feature is a one for every item.
    """
    predicted_ND = np.asarray(features_NF @ weights_FD)
    predicted_D, vectors_D = predicted_ND.mean(axis=0), vectors_ND.mean(axis=0)
    spread = float(np.linalg.norm(predicted_ND - predicted_D, axis=1).mean())
    ratio = float(np.linalg.norm(vectors_ND - vectors_D, axis=1).mean()) / spread if spread > 0 else 1.0
    wide_FD = ratio * weights_FD
    wide_FD[-1] += vectors_D - ratio * predicted_D
    return np.asarray(wide_FD)


def norm_of_rare(vectors_ND: Floats, events_N: npt.NDArray[np.int64]) -> float:
    """Mean length of the vectors in the lowest quintile of popularity: what a new item's is set to."""
    rare = np.argsort(events_N, kind="stable")[: max(1, len(events_N) // 5)]
    return float(np.linalg.norm(vectors_ND[rare], axis=1).mean())


def popularity_folds(events_N: npt.NDArray[np.int64], *, seed: int) -> npt.NDArray[np.int64]:
    """int64[N]: each item's fold, of ten; every ten consecutive items by popularity are of ten different folds."""
    order = np.lexsort((np.arange(len(events_N)), -events_N))
    rng = np.random.default_rng([seed, 10])
    folds = np.empty(len(events_N), dtype=np.int64)
    for start in range(0, len(order), FOLDS):
        ten = order[start : start + FOLDS]
        folds[ten] = rng.permutation(FOLDS)[: len(ten)]
    return folds
