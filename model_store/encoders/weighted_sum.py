"""A recency-weighted sum of item vectors (recency-weighted EASE as an inner product)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt
from torch import Tensor, nn

from model_store.encoders.history import HistoryBatch, QueryEncoder


class WeightedSumConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["weighted_sum"] = "weighted_sum"
    items: PositiveInt
    dim: PositiveInt
    max_history: PositiveInt
    jump: PositiveInt
    decay_items: PositiveFloat | None  # tau in items; None weighs all items alike

    def build(self) -> WeightedSumEncoder:
        return WeightedSumEncoder(self)


class WeightedSumEncoder(QueryEncoder):
    """query = sum_j exp(-(n - j) / tau) L[h_j], L the left factor [N, D]; the index holds the right factor."""

    def __init__(self, config: WeightedSumConfig) -> None:
        super().__init__()
        self.config: WeightedSumConfig = config
        self.dim, self.max_history, self.jump = config.dim, config.max_history, config.jump
        self.left = nn.Embedding(config.items, config.dim)

    def forward(self, histories: HistoryBatch) -> Tensor:
        raise NotImplementedError
