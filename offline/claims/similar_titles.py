"""Titles that are nearly the same."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

import numpy as np
import numpy.typing as npt
import scipy.sparse

LEAST_JACCARD = 0.6
LEAST_SHARED = LEAST_JACCARD / (1 + LEAST_JACCARD)  # of the sum of both sizes
ROUNDING = 1e-9
CHUNK = 50_000

Rows = npt.NDArray[np.int32]


def normalised(title: str) -> str:
    """Lower case letters and digits in words of one space; accents gone."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", " ", plain.lower()).strip()


def twin_pairs(titles: list[str]) -> tuple[Rows, Rows]:
    """(items, twins): every ordered pair of different rows whose titles' trigrams have a Jaccard index >= .6."""
    trigrams = [_trigrams(normalised(title)) for title in titles]
    known = Counter(gram for grams in trigrams for gram in grams)
    rank = {gram: at for at, gram in enumerate(sorted(known, key=lambda gram: (known[gram], gram)))}
    columns = [sorted(rank[gram] for gram in grams) for grams in trigrams]
    sizes_N = np.array([len(c) for c in columns], dtype=np.int64)
    rows, others = _likely(columns, sizes_N, len(rank))
    whole = _indicator(columns, len(rank))
    parts = [slice(at, at + CHUNK) for at in range(0, len(rows), CHUNK)]
    counted = [np.asarray(whole[rows[at]].multiply(whole[others[at]]).sum(axis=1)).ravel() for at in parts]
    shared = np.concatenate([np.empty(0), *counted])
    kept = shared >= LEAST_SHARED * (sizes_N[rows] + sizes_N[others]) - ROUNDING
    both = np.concatenate([np.stack([rows[kept], others[kept]]), np.stack([others[kept], rows[kept]])], axis=1)
    items, twins = both[:, np.lexsort(both[::-1])].astype(np.int32)
    return items, twins


def _likely(columns: list[list[int]], sizes_N: npt.NDArray[np.int64], width: int) -> tuple[Rows, Rows]:
    """The few pairs, lower row first, that are worth counting.

    columns: trigrams by rising frequency. Of two sets that share three fifths of the larger, the rarest two fifths (and
    one) of each meet; what they share beside that lies in the rest of one of them (Chaudhuri et al., 2006, "A Primitive
    Operator for Similarity Joins in Data Cleaning").
    """
    rarest_N = sizes_N - np.ceil(LEAST_JACCARD * sizes_N).astype(np.int64) + (sizes_N > 0)
    rarest = _indicator([c[:most] for c, most in zip(columns, rarest_N, strict=True)], width)
    meet = scipy.sparse.coo_array(rarest @ rarest.T)
    rows, others, rest_N = meet.row, meet.col, sizes_N - rarest_N
    fewer = np.minimum(sizes_N[rows], sizes_N[others])
    possible = np.minimum(meet.data + np.maximum(rest_N[rows], rest_N[others]), fewer)
    likely = (rows < others) & (possible >= LEAST_SHARED * (sizes_N[rows] + sizes_N[others]) - ROUNDING)
    return rows[likely], others[likely]


def _indicator(columns: list[list[int]], width: int) -> scipy.sparse.csr_array:
    """0 / 1 [N, width]."""
    ends = np.cumsum([0, *(len(c) for c in columns)])
    flat = np.array([at for c in columns for at in c], dtype=np.int64)
    return scipy.sparse.csr_array((np.ones(len(flat)), flat, ends), shape=(len(columns), max(width, 1)))


def _trigrams(text: str) -> set[str]:
    """Of the text between two spaces at each end, so that short titles have some."""
    padded = f"  {text}  " if text else ""
    return {padded[at : at + 3] for at in range(len(padded) - 2)}
