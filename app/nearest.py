"""Items near to an item, or to a text, by cosine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch

from app.encoding_items import TextEncoding
from app.serving import Serving
from app.work import Urgency, Work
from model_store.bundle import Bundle
from model_store.index_memory import Floats
from model_store.item_index import ItemIndex
from model_store.retrieval import Candidates, Rows, Want

Doubles = npt.NDArray[np.float64]
MARGIN = 16  # as of the index: float32 may order near-ties otherwise


@dataclass(frozen=True, slots=True, eq=False)
class Similar(Work[Candidates]):
    """Items nearest to one item, itself left out."""

    urgency: ClassVar[Urgency] = Urgency.TEXT
    serving: Serving
    row: int
    k: int

    @classmethod
    def of(cls, serving: Serving, row: int, k: int) -> Similar:
        return cls(serving.bundle, 1, None, serving, row, k)

    @classmethod
    def run(cls, bundle: Bundle, batch: Sequence[Work[Candidates]]) -> list[Candidates]:  # noqa: ARG003 - each has its
        entries = [entry for entry in batch if isinstance(entry, Similar)]
        return [nearest(one.serving, one.serving.vector(one.row), one.k, leave_out=one.row) for one in entries]


@dataclass(frozen=True, slots=True, eq=False)
class TextSearch(Work[Candidates]):
    """Items nearest to where an item of this text would stand."""

    urgency: ClassVar[Urgency] = Urgency.TEXT
    serving: Serving
    text: str
    k: int

    @classmethod
    def of(cls, serving: Serving, text: str, k: int) -> TextSearch:
        return cls(serving.bundle, 1 + len(text.encode()) // 4, None, serving, text, k)

    @classmethod
    def run(cls, bundle: Bundle, batch: Sequence[Work[Candidates]]) -> list[Candidates]:
        entries = [entry for entry in batch if isinstance(entry, TextSearch)]
        vectors = TextEncoding.run(bundle, [TextEncoding.of(bundle, entry.text) for entry in entries])
        return [nearest(one.serving, vector_D, one.k) for one, vector_D in zip(entries, vectors, strict=True)]


def nearest(serving: Serving, vector_D: Floats, k: int, *, leave_out: int | None = None) -> Candidates:
    """float32 over all items finds those that may belong to the answer; float64 decides, ties by row."""
    vectors_ND, overlay = serving.bundle.index.vectors_ND, serving.overlay
    cosine_N = _quick(serving.bundle.index, vector_D)
    cosine_N[overlay.hidden] = -np.inf
    rows: Rows = np.arange(len(cosine_N))
    if overlay.items:
        cosine_N = np.concatenate((cosine_N, _quick(overlay.index, vector_D)))
        rows = np.concatenate((rows, overlay.rows))
    if leave_out is not None:
        cosine_N[rows == leave_out] = -np.inf
    count = min(k + MARGIN, len(cosine_N))
    near = np.argpartition(-cosine_N, count - 1)[:count]
    near = near[cosine_N[near] > -np.inf]
    size = len(vectors_ND)
    near = np.sort(near)  # the bundle's, then the added ones
    added = near[near >= size] - size
    parts = [vectors_ND[near[near < size]], *([overlay.vectors_MD[added]] if len(added) else [])]
    exact = _cosines(np.concatenate(parts).astype(np.float64), vector_D.astype(np.float64))
    order = np.lexsort((rows[near], -exact))[:k]
    want = Want(k, rerank=False, excluded_rows=np.array([] if leave_out is None else [leave_out], dtype=np.int64))
    return Candidates(want, rows[near[order]], exact[order], exhausted=len(order) < k)


def _quick(index: ItemIndex, vector_D: Floats) -> npt.NDArray[np.float32]:
    """float32 [N]: the cosine but for the length of `vector_D`, which orders nothing."""
    inner_N = (torch.from_numpy(index.vectors_ND) @ torch.from_numpy(np.ascontiguousarray(vector_D))).numpy()
    cosine_N: npt.NDArray[np.float32] = np.divide(
        inner_N, index.norms_N, out=np.zeros_like(inner_N), where=index.norms_N > 0
    )
    return cosine_N


def _cosines(vectors_KD: Doubles, query_D: Doubles) -> Doubles:
    """0 where a vector is zero: it points nowhere, so nothing is near it."""
    norms_K = np.linalg.norm(vectors_KD, axis=1) * np.linalg.norm(query_D)
    cosines_K: Doubles = np.divide(vectors_KD @ query_D, norms_K, out=np.zeros_like(norms_K), where=norms_K > 0)
    return cosines_K
