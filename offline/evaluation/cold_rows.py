"""The cheap rows of `cold-items`: chance, and nearest neighbours by text, as TF-IDF and as a frozen language model."""

from __future__ import annotations

import logging

import numpy as np
import numpy.typing as npt
import scipy.sparse

from model_store.encoders.history import HistoryBatch
from model_store.errors import BaseModelRefused
from model_store.tf_idf import TfIdf
from offline.evaluation.baselines import recency_matrix
from offline.evaluation.metrics import Floats
from offline.evaluation.score_matrix import Scorer
from offline.language.item_text import item_texts
from offline.language.language_models import LanguageModel, text_vectors
from offline.splits.sequences import SequenceDataset

COLD_ROWS = ("random", "tfidf-knn", "frozen-lm-knn")
ITEM_TEXT = "{title} ({year}) | {categories}"
TAU = 10.0  # in items

logger = logging.getLogger(__name__)


class Random:
    """Another order for every history, the same for the same history."""

    def __init__(self, items: int, *, seed: int = 0) -> None:
        self._items, self._seed = items, seed

    def __call__(self, histories: HistoryBatch) -> Floats:
        drawn = [
            np.random.default_rng([self._seed, *histories.history(b).tolist()]).random(self._items)
            for b in range(len(histories))
        ]
        return np.stack(drawn) if drawn else np.empty((0, self._items))


class TextNeighbours:
    """score(i) = t_i . sum_j exp(-(n - j) / tau) t[h_j], t of unit length."""

    def __init__(self, texts_NW: scipy.sparse.csr_array | npt.NDArray[np.float32], *, tau: float | None = TAU) -> None:
        self._texts_NW = scipy.sparse.csr_array(texts_NW, dtype=np.float64)
        self._tau = tau

    def __call__(self, histories: HistoryBatch) -> Floats:
        profile_BW = recency_matrix(histories, self._texts_NW.shape[0], tau=self._tau) @ self._texts_NW
        scores_BN: Floats = (profile_BW @ self._texts_NW.T).toarray()
        return scores_BN


def cold_rows(
    dataset: SequenceDataset, *, template: str = ITEM_TEXT, lm: LanguageModel | None = None, max_tokens: int = 48
) -> dict[str, Scorer]:
    """Name of the row -> its scorer; without the language model's row where no base can be had.

    Everything fitted (vocabulary, word weights, centre) sees the texts of trained items alone.
    """
    texts = item_texts(dataset.items, template)
    rows: dict[str, Scorer] = {
        "random": Random(len(texts)),
        "tfidf-knn": TextNeighbours(tf_idf_of(dataset, texts).vectors(texts)),
    }
    try:
        vectors = text_vectors(lm or LanguageModel(), texts, max_tokens=max_tokens, trained_N=dataset.trained_items)
    except BaseModelRefused as refused:
        logger.warning("no row frozen-lm-knn: %s", refused)
        return rows
    return rows | {"frozen-lm-knn": TextNeighbours(vectors.unit_NH.numpy())}


def tf_idf_of(dataset: SequenceDataset, texts: list[str]) -> TfIdf:
    """Fitted to the texts of the trained items."""
    return TfIdf.fit([texts[row] for row in np.flatnonzero(dataset.trained_items)])
