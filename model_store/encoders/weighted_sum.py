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
        lengths = histories.lengths
        if len(histories) and not 1 <= int(lengths.min()) <= int(lengths.max()) <= self.max_history:
            raise ValueError(f"history lengths must lie in 1..{self.max_history}")
        left_ND = self.left.weight
        ages = torch.repeat_interleave(histories.offsets[1:], lengths) - 1 - torch.arange(len(histories.rows))
        weights = self._weights(ages).to(left_ND)
        rows, starts = histories.rows.to(left_ND.device).long(), histories.offsets[:-1].to(left_ND.device)
        return nn.functional.embedding_bag(rows, left_ND, starts, mode="sum", per_sample_weights=weights).float()

    def _weights(self, ages: Tensor) -> Tensor:
        """The last item has age 0 and weight 1."""
        tau = self.config.decay_items
        return torch.ones(len(ages)) if tau is None else torch.exp(-ages.double() / tau)
