"""The linear map from an item's text vector to its ID vector, with the ridge that serves items held out best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from offline.finishing.content_regression import MOST_EVENTS, Floats, fit_regression

RIDGES = (0.01, 0.1, 1.0, 10.0)  # in units of the features' mean weighted square
FOLDS = 5


@dataclass(frozen=True, slots=True, eq=False)
class TextMap:
    """weight_DF: vectors = features @ weight_DF.T. explained: share of the weighted variance, on items held out."""

    weight_DF: Tensor
    ridge: float
    explained: float


def fit_text_map(features_NF: Tensor, vectors_ND: Tensor, chosen_N: Tensor) -> TextMap:
    """`content_regression` over the items that were chosen in training (chosen_N > 0); five folds by row choose lam."""
    known = chosen_N > 0
    f_XF, v_XD = features_NF[known].double().numpy(), vectors_ND[known].double().numpy()
    n_X = chosen_N[known].numpy()
    w_X1 = np.minimum(n_X, MOST_EVENTS)[:, None]
    unit = float((w_X1 * f_XF**2).sum()) / f_XF.shape[1] or 1.0
    missed = np.zeros(len(RIDGES))
    folds = np.arange(len(n_X)) % FOLDS
    for fold in range(min(FOLDS, len(n_X)) if len(n_X) > 1 else 0):
        held = folds == fold
        for i, ridge in enumerate(RIDGES):
            weight_FD = _fitted(f_XF[~held], v_XD[~held], n_X[~held], lam=ridge * unit)
            missed[i] += (w_X1[held] * (f_XF[held] @ weight_FD - v_XD[held]) ** 2).sum()
    lam = RIDGES[int(missed.argmin())] * unit
    variance = float((w_X1 * v_XD**2).sum())
    explained = 1 - float(missed.min()) / variance if variance else 0.0
    weight_FD = _fitted(f_XF, v_XD, n_X, lam=lam)
    return TextMap(torch.from_numpy(weight_FD.T.copy()).to(features_NF.dtype), lam, explained)


def _fitted(f_XF: Floats, v_XD: Floats, n_X: np.ndarray[tuple[int], np.dtype[np.int64]], *, lam: float) -> Floats:
    return fit_regression(scipy.sparse.csr_array(f_XF), v_XD, n_X, lam=lam)
