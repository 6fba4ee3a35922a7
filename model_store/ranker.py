"""The second step of a bundle that has one: reorder what the search found."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from model_store.encoders.history import HistoryBatch


@runtime_checkable
class Ranker(Protocol):
    """Scores candidates of a request; higher is better, comparable within one request.

    depth: how many candidates it wants to see; the search returns max(k, depth).
    """

    @property
    def depth(self) -> int: ...

    def score(self, histories: HistoryBatch, item_rows_BK: Tensor) -> Tensor:
        """float32 [B, K] for int64 [B, K] rows (-1 pads; its score is ignored)."""
