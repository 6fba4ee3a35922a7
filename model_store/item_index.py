"""Exact inner product search over the item vectors of one bundle, under the filters of each request."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model_store.index_memory import Floats, on_gpu, view
from model_store.retrieval import Candidates, Rows, Want

MARGIN = 16  # fetched beyond what a want needs, so that near-ties at the k-th place rarely need a second search
FETCH_LIMIT = 2048  # the GPU index returns no more; past it the whole matrix is scored
FLOAT32_SAFE = 1e37  # inner products below it cannot overflow on the way
GATHER = 8192  # rows that are copied out of the matrix at a time


@dataclass(frozen=True, slots=True, eq=False)
class _Query:
    """One want, resolved: `excluded` and `allowed` are ascending, unique, inside the index, and disjoint."""

    vector_D: Floats
    count: int
    excluded: Rows
    allowed: Rows | None
    tolerance: float  # how far any float32 inner product of this vector may lie from the exact one

    def kept(self, rows: Rows) -> Rows:
        rows = rows[~np.isin(rows, self.excluded)]
        return rows if self.allowed is None else rows[np.isin(rows, self.allowed)]


class ItemIndex:
    """An immutable matrix of item vectors, float32 [N, D], and the search in it.

    Given the same query vector the answer depends neither on the batch, nor on the path taken, nor on the hardware:
    a float32 search finds every item that could belong to the answer, and `exact_scores` alone decides.
    On a GPU it belongs to one thread: `StandardGpuResources` is not safe to share, not even for reads.
    """

    def __init__(self, index: faiss.IndexFlatIP, *, device: str = "cpu") -> None:
        self._index = index
        self.device = torch.device(device if faiss.get_num_gpus() else "cpu")
        self.vectors_ND = view(index)
        norms_N = np.sqrt(np.einsum("nd,nd->n", self.vectors_ND, self.vectors_ND, dtype=np.float64))
        self.norms_N, self.max_norm = norms_N.astype(np.float32), float(norms_N.max())
        # FAISS multiplies by BLAS only from nq * d >= 128,000 on, which leaves batches of up to 166 queries at d = 768
        # four times slower. The value is global to the process: the index made last decides, and all of one
        # process are close enough in d for that.
        faiss.cvar.distance_compute_blas_threshold = 4 * self.dim
        self._searched = index if self.device.type == "cpu" else on_gpu(index, self.device)

    @classmethod
    def of(cls, vectors_ND: Floats | Tensor, *, device: str = "cpu") -> ItemIndex:
        """Copies `vectors_ND`. ValueError unless it is a finite matrix with at least one row."""
        vectors_ND = _float32(vectors_ND)
        if vectors_ND.ndim != 2 or 0 in vectors_ND.shape:
            raise ValueError(f"item vectors have shape {vectors_ND.shape}, not [N, D]")
        if not np.isfinite(vectors_ND).all():
            raise ValueError("an item vector is not finite")
        index = faiss.IndexFlatIP(vectors_ND.shape[1])
        index.add(vectors_ND)
        return cls(index, device=device)

    @classmethod
    def read(cls, file: Path, *, device: str = "cpu") -> ItemIndex:
        """ValueError when the file is not a flat inner product index (FAISS reads an L2 index without complaint)."""
        try:
            index = faiss.read_index(str(file))
        except RuntimeError as error:  # the only class that FAISS raises
            raise ValueError(f"FAISS cannot read it: {str(error).splitlines()[0]}") from error
        if type(index) is not faiss.IndexFlatIP or index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise ValueError(f"holds a {type(index).__name__}, not an IndexFlatIP")
        if index.ntotal == 0:
            raise ValueError("the index is empty")
        return cls(index, device=device)

    def write(self, file: Path) -> None:
        faiss.write_index(self._index, str(file))

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def dim(self) -> int:
        return int(self._index.d)

    def exact_scores(self, vector_D: Floats, rows: Rows) -> npt.NDArray[np.float64]:
        """float64 [len(rows)]: inner products of float32 vectors, summed in one order whatever else is asked.

        No BLAS: its order of summation changes with the number of rows.
        """
        query_D = vector_D.astype(np.float64)
        parts = [
            (self.vectors_ND[rows[start : start + GATHER]] * query_D).sum(axis=1)
            for start in range(0, len(rows), GATHER)
        ]
        return np.concatenate(parts) if parts else np.empty(0)

    def search(
        self,
        vectors_BD: Floats | Tensor,
        wants: Sequence[Want],
        *,
        allowed: Sequence[Rows | None] | None = None,
        counts: Sequence[int] | None = None,
    ) -> list[Candidates]:
        """The exact top of each query vector under its filters.

        allowed: per want, the rows that it may return (categories resolved); by default `allowed_rows` of each.
        counts: per want, how many to find where that is more than its k (a ranker wants to see more).
        Rows that the index does not have are ignored in every filter. ValueError for a vector that is not finite.
        """
        vectors_BD = _float32(vectors_BD)
        if vectors_BD.shape != (len(wants), self.dim):
            raise ValueError(f"query vectors have shape {vectors_BD.shape}, not ({len(wants)}, {self.dim})")
        if not np.isfinite(vectors_BD).all():
            raise ValueError("a query vector is not finite")
        allowed = allowed if allowed is not None else [want.allowed_rows for want in wants]
        counts = counts if counts is not None else [want.k for want in wants]
        queries = [self._query(*each) for each in zip(vectors_BD, wants, allowed, counts, strict=True)]
        found = self._find(queries)
        return [
            Candidates(want, rows, scores, exhausted=len(rows) < want.k)
            for want, (rows, scores) in zip(wants, found, strict=True)
        ]

    def _query(self, vector_D: Floats, want: Want, allowed: Rows | None, count: int) -> _Query:
        excluded = self._inside(want.excluded_rows)
        if allowed is not None:
            allowed = np.setdiff1d(self._inside(allowed), excluded, assume_unique=True)
        # |fl(q.v) - q.v| <= d u |q| |v| / (1 - d u) in any order of summation, u = 2^-24 (Higham, 2002, section 3.1);
        # twice that covers the rounding of the norms.
        largest = math.sqrt(float(np.square(vector_D, dtype=np.float64).sum())) * self.max_norm
        underflow = self.dim * 2.0**-126  # products that small may become zero
        tolerance = self.dim * 2.0**-23 * largest + underflow if largest < FLOAT32_SAFE else math.inf
        return _Query(vector_D, count, excluded, allowed, tolerance)

    def _inside(self, rows: Rows) -> Rows:
        rows = np.unique(np.asarray(rows, dtype=np.int64))
        return rows[(rows >= 0) & (rows < len(self))]

    def _find(self, queries: Sequence[_Query]) -> list[tuple[Rows, npt.NDArray[np.float64]]]:
        found: dict[int, tuple[Rows, npt.NDArray[np.float64]]] = {}
        fetch = {b: self._first_fetch(query) for b, query in enumerate(queries)}
        while fetch:
            narrow = {b: size for b, size in fetch.items() if size <= min(FETCH_LIMIT, len(self) // 2)}
            found |= {b: self._by_scoring(queries[b]) for b in fetch if b not in narrow}
            fetch = {}
            if narrow:
                batch_BD = np.stack([queries[b].vector_D for b in narrow])
                size = max(narrow.values())
                scores_BK, rows_BK = self._searched.search(batch_BD, size)
                for b, scores_K, rows_K in zip(narrow, scores_BK, rows_BK, strict=True):
                    best = self._best(queries[b], queries[b].kept(rows_K))
                    # What was not fetched scores at most scores_K[-1] + tolerance.
                    if len(best[0]) == queries[b].count and best[1][-1] > scores_K[-1] + queries[b].tolerance:
                        found[b] = best
                    else:
                        fetch[b] = 4 * size
        return [found[b] for b in range(len(queries))]

    def _first_fetch(self, query: _Query) -> int:
        """How many items to fetch so that `count` survive the filters, in all likelihood."""
        if not math.isfinite(query.tolerance):
            return len(self)
        if query.allowed is None:
            return query.count + len(query.excluded) + MARGIN
        if len(query.allowed) * 8 < len(self):
            return len(self)  # few rows are allowed: scoring just those is cheaper
        return (query.count + MARGIN) * len(self) // len(query.allowed) + len(query.excluded)

    def _by_scoring(self, query: _Query) -> tuple[Rows, npt.NDArray[np.float64]]:
        """Scores every allowed row in float32, and exactly those that may belong to the answer."""
        vector_D = torch.from_numpy(query.vector_D).to(self.device)
        if query.allowed is None:
            rows = np.setdiff1d(np.arange(len(self)), query.excluded, assume_unique=True)
            scores = (self._matrix_ND @ vector_D).cpu().numpy()[rows]
        else:
            rows = query.allowed
            rows_M = torch.from_numpy(rows).to(self.device)
            parts = [rows_M[start : start + GATHER] for start in range(0, max(1, len(rows)), GATHER)]
            scores = torch.cat([self._matrix_ND[part] @ vector_D for part in parts]).cpu().numpy()
        if len(rows) > query.count and math.isfinite(query.tolerance):
            scores = scores.astype(np.float64)
            last = np.partition(scores, len(rows) - query.count)[len(rows) - query.count]
            rows = rows[~(scores < last - 2 * query.tolerance)]
        return self._best(query, rows)

    def _best(self, query: _Query, rows: Rows) -> tuple[Rows, npt.NDArray[np.float64]]:
        scores = self.exact_scores(query.vector_D, rows)
        order = np.lexsort((rows, -scores))[: query.count]
        return rows[order], scores[order]

    @cached_property
    def _matrix_ND(self) -> Tensor:
        """On a CPU the memory of the index itself; on a GPU a second copy, made when a query first needs it.

        Multiplied by torch and not by numpy, so that `torch.set_num_threads` of the calling thread holds.
        """
        return torch.from_numpy(self.vectors_ND).to(self.device)


def _float32(vectors: Floats | Tensor) -> Floats:
    if isinstance(vectors, Tensor):
        vectors = vectors.detach().float().cpu().numpy()
    return np.ascontiguousarray(vectors, dtype=np.float32)
