"""The second step of a bundle that has one: reorder what the search found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from model_store.encoders.history import HistoryBatch
from model_store.retrieval import Candidates

if TYPE_CHECKING:
    from model_store.rankers import RankerConfig


class Ranker(ABC):
    """Scores the first `depth` candidates of a request; higher is better, comparable within one request.

    depth: how many candidates it wants to see; the search returns max(k, depth). What lies below keeps the search's
    order, below the ranked ones. 0 asks for nothing, and then nothing is reordered.
    """

    @property
    @abstractmethod
    def depth(self) -> int: ...

    @abstractmethod
    def score(self, histories: HistoryBatch, item_rows_BK: Tensor, retriever_BK: Tensor) -> Tensor:
        """float [B, K] for int64 [B, K] rows, best first (-1 pads; its score is ignored), K <= depth.

        retriever_BK: float64 [B, K], the search's own scores. histories: cut to the encoder's window, none empty.
        """

    def token_counts(self, histories: HistoryBatch) -> list[int]:
        """What `depth` candidates of each history cost, in tokens read: admission and batching count it in."""
        return [0] * len(histories)


class InterpolatedRanker(nn.Module, Ranker):
    """A ranker whose opinion is weighed against the retriever's: what a bundle can hold.

    score = (1 - w) log softmax_K(retriever) + w log softmax_K(opinion), w = config.weight, in float64. `config` is a
    pydantic model with a `kind`, `weight`, `candidates` and `build()`, as an encoder's is; building and then loading
    the state dict restores the ranker. With w = 0 the bundle answers as its retriever, and the ranker is never asked.
    """

    config: RankerConfig

    @property
    def depth(self) -> int:
        return self.config.candidates if self.config.weight else 0

    @abstractmethod
    def opinions(self, histories: HistoryBatch, item_rows_BK: Tensor) -> Tensor:
        """float32 [B, K] on the CPU: the ranker's own scores, whatever its weight; K <= config.candidates."""

    def score(self, histories: HistoryBatch, item_rows_BK: Tensor, retriever_BK: Tensor) -> Tensor:
        return interpolated(
            retriever_BK,
            self.opinions(histories, item_rows_BK),
            present_BK=item_rows_BK >= 0,
            weight=self.config.weight,
        )

    def rebuild_buffers(self) -> None:
        """As of `QueryEncoder`."""

    def compute_in(self, dtype: torch.dtype) -> None:
        """As of `LanguageModelEncoder`."""


def interpolated(retriever_BK: Tensor, opinion_BK: Tensor, *, present_BK: Tensor, weight: float) -> Tensor:
    """float64 [B, K]; -inf where nothing is present."""
    logs = [
        scores_BK.double().masked_fill(~present_BK, float("-inf")).log_softmax(dim=1)
        for scores_BK in (retriever_BK, opinion_BK)
    ]
    return ((1 - weight) * logs[0] + weight * logs[1]).masked_fill(~present_BK, float("-inf"))


def reranked(found: Candidates, scores_K: npt.NDArray[np.float64]) -> Candidates:
    """The first K candidates by the ranker's score, ties by row; below them the others as they stood.

    The others keep their distances from the last that was ranked, and begin below the worst one: scores fall all the
    way down, and compare within one answer only.
    """
    depth = len(scores_K)
    order = np.lexsort((found.rows[:depth], -scores_K))
    rest = found.scores[depth:]
    if len(rest):
        rest = np.nextafter(scores_K.min(), -np.inf) + (rest - found.scores[depth - 1])
    rows = np.concatenate((found.rows[:depth][order], found.rows[depth:]))
    return Candidates(found.want, rows, np.concatenate((scores_K[order], rest)), found.exhausted)
