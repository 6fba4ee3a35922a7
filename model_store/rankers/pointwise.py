"""Candidates scored one by one: the inner product of a language model's history vector with each candidate's vector."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor

from model_store.encoders.history import HistoryBatch
from model_store.encoders.language_model import LanguageModelConfig
from model_store.ranker import InterpolatedRanker

Weight = Annotated[float, Field(ge=0, le=1)]


class PointwiseConfig(BaseModel):
    """window: how many candidates are reordered."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["pointwise"] = "pointwise"
    weight: Weight
    window: PositiveInt
    encoder: LanguageModelConfig

    @property
    def candidates(self) -> int:
        return self.window

    @property
    def item_count(self) -> int:
        return self.encoder.items

    def build(self) -> PointwiseRanker:
        return PointwiseRanker(self)


class PointwiseRanker(InterpolatedRanker):
    """The same encode as retrieving by that language model: over the whole catalogue it would give the same order.

    item_vectors_ND: float32, its own; the bundle's index holds the retriever's.
    """

    item_vectors_ND: Tensor

    def __init__(self, config: PointwiseConfig) -> None:
        super().__init__()
        self.config: PointwiseConfig = config
        self.encoder = config.encoder.build()
        self.register_buffer("item_vectors_ND", torch.zeros(config.encoder.items, config.encoder.dim))

    def opinions(self, histories: HistoryBatch, item_rows_BK: Tensor) -> Tensor:
        windowed = histories.windowed(self.encoder.max_history, self.encoder.jump)
        queries_BD: Tensor = self.encoder(windowed)
        rows_BK = item_rows_BK.clamp(min=0).to(self.item_vectors_ND.device)
        return torch.einsum("bd,bkd->bk", queries_BD.float(), self.item_vectors_ND[rows_BK]).cpu()

    def token_counts(self, histories: HistoryBatch) -> list[int]:
        if not self.depth:
            return [0] * len(histories)
        return self.encoder.token_counts(histories.windowed(self.encoder.max_history, self.encoder.jump))

    def rebuild_buffers(self) -> None:
        self.encoder.rebuild_buffers()

    def compute_in(self, dtype: torch.dtype) -> None:
        self.encoder.compute_in(dtype)
