"""What the recommended lists are like, whether or not they hit."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse

from model_store.catalog import ItemCatalog
from offline.evaluation.metrics import EventScores, Floats
from offline.item_space import co_choice_space
from offline.splits.sequences import Queries, SequenceDataset

Rows = npt.NDArray[np.int32]
SMOOTHING = 0.01  # Steck (2018): how much of the history's own distribution is mixed into the list's


def list_figures(scores: EventScores, queries: Queries, *, dataset: SequenceDataset, k: int = 10) -> dict[str, float]:
    """Name -> figure, each over the top k of all queries; calibration only where items have categories."""
    top_QK = scores.top_rows[:, :k]
    popularity_N = dataset.catalog.popularity
    space_ND = co_choice_space(dataset.train, len(dataset.catalog))
    figures = {
        f"coverage@{k}": coverage(top_QK, len(popularity_N)),
        f"gini@{k}": gini(top_QK, len(popularity_N)),
        f"novelty@{k}": novelty(top_QK, popularity_N),
        f"diversity@{k}": diversity(top_QK, space_ND),
    }
    if dataset.catalog.categories:
        figures[f"calibration@{k}"] = calibration(top_QK, queries, catalog=dataset.catalog)
    return figures


def exposure(top_QK: Rows, items: int) -> npt.NDArray[np.int64]:
    """int64[N]: in how many lists each item stands."""
    return np.bincount(top_QK[top_QK >= 0], minlength=items)


def coverage(top_QK: Rows, items: int) -> float:
    """Share of the catalogue that stands in any list."""
    return float((exposure(top_QK, items) > 0).mean())


def gini(top_QK: Rows, items: int) -> float:
    """Gini coefficient of exposure over the whole catalogue: 0 = all items alike, towards 1 = one item alone."""
    sorted_N = np.sort(exposure(top_QK, items)).astype(np.float64)
    if sorted_N.sum() == 0:
        return 0.0
    ranks = np.arange(1, items + 1)
    return float(((2 * ranks - items - 1) * sorted_N).sum() / (items * sorted_N.sum()))


def novelty(top_QK: Rows, popularity_N: npt.NDArray[np.int64]) -> float:
    """Mean -log2 of the items' share of training events, one event added to each so that new items have a share."""
    share_N = (popularity_N + 1) / (popularity_N + 1).sum()
    rows = top_QK[top_QK >= 0]
    return float(-np.log2(share_N[rows]).mean()) if len(rows) else 0.0


def diversity(top_QK: Rows, space_ND: npt.NDArray[np.float32]) -> float:
    """Mean over lists of the mean 1 - cosine of their pairs; space_ND has unit (or zero) rows."""
    lists = top_QK[(top_QK >= 0).sum(axis=1) >= 2]
    if len(lists) == 0:
        return 0.0
    filled = (lists >= 0)[:, :, None]
    vectors_QKD = space_ND[lists] * filled
    counts_Q = filled.sum(axis=(1, 2))
    # Of all ordered pairs, |sum of vectors|^2 holds the items' own squares too.
    own_Q = (vectors_QKD**2).sum(axis=(1, 2))
    pairs_Q = (vectors_QKD.sum(axis=1) ** 2).sum(axis=1) - own_Q
    return float((1 - pairs_Q / (counts_Q * (counts_Q - 1))).mean())


def calibration(top_QK: Rows, queries: Queries, *, catalog: ItemCatalog) -> float:
    """Mean KL divergence of the list's categories from the history's, in nats (Steck, 2018, "Calibrated
    recommendations"); an item's weight is shared among its categories, 0 is perfect."""
    shares_NC = _category_shares(catalog)
    history = _profile(queries.histories.offsets.numpy(), queries.histories.rows.numpy(), shares_NC)
    filled = top_QK >= 0
    listed = _profile(np.concatenate([[0], filled.sum(axis=1).cumsum()]), top_QK[filled], shares_NC)
    known = (history.sum(axis=1) > 0) & (listed.sum(axis=1) > 0)
    p, q = history[known], listed[known]
    mixed = (1 - SMOOTHING) * q + SMOOTHING * p
    logs = np.log(np.divide(p, mixed, out=np.ones_like(p), where=p > 0))
    return float((p * logs).sum(axis=1).mean()) if known.any() else 0.0


def _category_shares(catalog: ItemCatalog) -> scipy.sparse.csr_array:
    rows = np.concatenate(list(catalog.categories.values()))
    names = np.repeat(np.arange(len(catalog.categories)), [len(found) for found in catalog.categories.values()])
    per_item_N = np.bincount(rows, minlength=len(catalog))
    return scipy.sparse.csr_array((1 / per_item_N[rows], (rows, names)), shape=(len(catalog), len(catalog.categories)))


def _profile(offsets: npt.NDArray[np.int64], rows: Rows, shares_NC: scipy.sparse.csr_array) -> Floats:
    """float64 [Q, C]: distribution over categories of each list of rows; a zero row where none is known."""
    lists = scipy.sparse.csr_array((np.ones(len(rows)), rows, offsets), shape=(len(offsets) - 1, shares_NC.shape[0]))
    totals: Floats = (lists @ shares_NC).toarray()
    sums = totals.sum(axis=1, keepdims=True)
    return totals / np.where(sums > 0, sums, 1.0)
