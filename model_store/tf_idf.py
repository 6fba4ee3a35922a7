"""Texts as sparse vectors of word weights (TF-IDF), with a vocabulary that a bundle can store."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import scipy.sparse


def words(text: str) -> list[str]:
    """Runs of letters and digits, in lower case."""
    return re.findall(r"\w+", text.lower())


@dataclass(frozen=True, eq=False)
class TfIdf:
    """vocabulary: W words, sorted. idf_W: float64[W], ln((1 + n) / (1 + df)) + 1 over the n fitted texts. unseen: that
    weight at df = 0."""

    vocabulary: tuple[str, ...]
    idf_W: npt.NDArray[np.float64]
    unseen: float

    @classmethod
    def fit(cls, texts: Sequence[str]) -> TfIdf:
        counts = Counter(word for text in texts for word in set(words(text)))
        vocabulary = tuple(sorted(counts))
        frequency_W = np.array([counts[word] for word in vocabulary], dtype=np.float64)
        unseen = float(np.log(1 + len(texts)) + 1)
        return cls(vocabulary, unseen - np.log(1 + frequency_W), unseen)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {word: place for place, word in enumerate(self.vocabulary)}

    def vectors(self, texts: Sequence[str]) -> scipy.sparse.csr_array:
        """float64 [N, W]; rows of unit length but for words that no fitted text holds: they count in the length alone,
        at the weight `unseen`. Else a new item would lie nearer to everything than a fitted one.
        """
        rows, columns, unknown_N = [], [], np.zeros(len(texts))
        for row, text in enumerate(texts):
            for word, count in Counter(words(text)).items():
                if word in self._places:
                    rows += [row] * count
                    columns += [self._places[word]] * count
                else:
                    unknown_N[row] += (count * self.unseen) ** 2
        shape = (len(texts), len(self.vocabulary))
        counts_NW = scipy.sparse.coo_array((np.ones(len(rows)), (rows, columns)), shape=shape).tocsr()
        weighted_NW = counts_NW.multiply(self.idf_W[None, :]).tocsr()
        squares_N = np.asarray(weighted_NW.multiply(weighted_NW).sum(axis=1)).ravel() + unknown_N
        return scipy.sparse.csr_array(scipy.sparse.diags_array(1 / np.sqrt(np.maximum(squares_N, 1e-12))) @ weighted_NW)
