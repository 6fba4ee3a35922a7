"""What one request wants of a search, and what the search found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
MOST = 1000  # items that one want may ask for


def _no_rows() -> Rows:
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Want:
    """The filters of one request, known before the search.

    k: how many items, 1..1000.
    rerank: whether the bundle's ranker may reorder.
    excluded_rows: never returned (seen and excluded items); deny beats allow.
    allowed_rows: None = no limit; empty = nothing is allowed.
    categories: None = no limit; otherwise an item needs any one of them.
    """

    k: int
    rerank: bool = True
    excluded_rows: Rows = None  # type: ignore[assignment]  # replaced by an empty array below
    allowed_rows: Rows | None = None
    categories: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.k <= MOST:
            raise ValueError(f"k = {self.k} is outside 1..{MOST}")
        if self.excluded_rows is None:
            object.__setattr__(self, "excluded_rows", _no_rows())


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Items found for one want, best first: score descending, then row ascending.

    rows: int64[K]. scores: float64[K] (canonical inner products, or what the ranker made of them).
    exhausted: fewer than k items exist under the filters, and all of them are here.
    """

    want: Want
    rows: Rows
    scores: npt.NDArray[np.float64]
    exhausted: bool
