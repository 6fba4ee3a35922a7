"""A causal transformer over item vectors.

SASRec (Kang and McAuley, 2018, "Self-Attentive Sequential Recommendation") with the pre-norm blocks and GELU of later
practice. Input and output share one item matrix, so the exported index holds exactly the rows that training scored.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from model_store.encoders.history import HistoryBatch, QueryEncoder


class SequenceConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["sequence"] = "sequence"
    items: PositiveInt
    dim: PositiveInt
    blocks: PositiveInt
    heads: PositiveInt
    max_history: PositiveInt
    jump: PositiveInt
    dropout: float = 0.0

    def build(self) -> SequenceEncoder:
        return SequenceEncoder(self)


class SequenceEncoder(QueryEncoder):
    """Positions are counted from the oldest kept item, so that a prefix keeps its states when the history grows."""

    def __init__(self, config: SequenceConfig) -> None:
        super().__init__()
        self.config: SequenceConfig = config
        self.dim, self.max_history, self.jump = config.dim, config.max_history, config.jump
        self.items = nn.Embedding(config.items, config.dim)
        self.positions = nn.Embedding(config.max_history, config.dim)
        self.input_dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.dim)

    @property
    def item_vectors_ND(self) -> Tensor:
        return self.items.weight

    def forward(self, histories: HistoryBatch) -> Tensor:
        states_BTD, _ = self._states(histories)
        last_B = (histories.lengths - 1).to(states_BTD.device)
        return states_BTD[torch.arange(len(histories), device=last_B.device), last_B].float()

    def forward_positions(self, histories: HistoryBatch) -> Tensor:
        """float32 [total, D]; position t equals `forward` of the first t + 1 items."""
        states_BTD, mask_BT = self._states(histories)
        return states_BTD[mask_BT.to(states_BTD.device)].float()

    def _states(self, histories: HistoryBatch) -> tuple[Tensor, Tensor]:
        lengths = histories.lengths
        if len(histories) and not 1 <= int(lengths.min()) <= int(lengths.max()) <= self.max_history:
            raise ValueError(f"history lengths must lie in 1..{self.max_history}")
        rows_BT, mask_BT = histories.padded()
        rows_BT = rows_BT.to(self.items.weight.device)
        # Padding stands on the right: under the causal mask no item can see it, so no second mask is needed.
        x_BTD = self.items(rows_BT) * self.dim**0.5
        x_BTD = self.input_dropout(x_BTD + self.positions.weight[: rows_BT.shape[1]])
        for block in self.blocks:
            x_BTD = block(x_BTD)
        return self.norm(x_BTD), mask_BT


class Block(nn.Module):
    def __init__(self, config: SequenceConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.dropout = config.dropout
        self.attention_norm = nn.LayerNorm(config.dim)
        self.query_key_value = nn.Linear(config.dim, 3 * config.dim)
        self.output = nn.Linear(config.dim, config.dim)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(config.dim),
            nn.Linear(config.dim, 4 * config.dim),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(4 * config.dim, config.dim),
            nn.Dropout(config.dropout),
        )
        self.residual_dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTD: Tensor) -> Tensor:
        B, T, D = x_BTD.shape
        projected = self.query_key_value(self.attention_norm(x_BTD)).view(B, T, 3, self.heads, D // self.heads)
        query, key, value = projected.permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        mixed = scaled_dot_product_attention(query, key, value, is_causal=True, dropout_p=dropout)
        x_BTD = x_BTD + self.residual_dropout(self.output(mixed.transpose(1, 2).reshape(B, T, D)))
        mixed_BTD: Tensor = x_BTD + self.feed_forward(x_BTD)
        return mixed_BTD
