"""An encoder with constants behind its query: what an item has there is added to its score, whoever asks.

[u ; 1] . [v ; c] = u . v + c: an offset per item (for cold items, against popularity) in the same search.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, PositiveInt
from torch import Tensor

from model_store.encoders.history import AllPositions, Encoded, Growing, HistoryBatch, QueryEncoder, UserState

if TYPE_CHECKING:
    from model_store.encoders import EncoderConfig


class AppendedConfig(BaseModel):
    """coordinates: how many ones stand behind the inner encoder's query."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["appended"] = "appended"
    inner: EncoderConfig
    coordinates: PositiveInt = 1

    @property
    def items(self) -> int:
        return self.inner.items

    @property
    def dim(self) -> int:
        return self.inner.dim + self.coordinates

    @property
    def max_history(self) -> int:
        return self.inner.max_history

    @property
    def jump(self) -> int:
        return self.inner.jump

    def build(self, inner: QueryEncoder | None = None) -> AppendedEncoder:
        """The class can what the inner encoder can. inner: an encoder to take over instead of building one."""
        made = self.inner.build() if inner is None else inner
        if isinstance(made, AllPositions) and isinstance(made, Growing):
            return AllPositionsGrowingAppendedEncoder(self, made)
        if isinstance(made, AllPositions):
            return AllPositionsAppendedEncoder(self, made)
        return GrowingAppendedEncoder(self, made) if isinstance(made, Growing) else AppendedEncoder(self, made)


class AppendedEncoder(QueryEncoder):
    def __init__(self, config: AppendedConfig, inner: Any) -> None:
        super().__init__()
        self.config: AppendedConfig = config
        self.inner = inner
        self.dim, self.max_history, self.jump = config.dim, config.max_history, config.jump

    def forward(self, histories: HistoryBatch) -> Tensor:
        return self.appended(self.inner(histories))

    def appended(self, vectors_XD: Tensor) -> Tensor:
        """[X, D] -> float32 [X, D + coordinates]."""
        ones = torch.ones(len(vectors_XD), self.config.coordinates, device=vectors_XD.device)
        return torch.cat((vectors_XD.float(), ones), dim=1)

    def token_counts(self, histories: HistoryBatch) -> list[int]:
        counts: list[int] = self.inner.token_counts(histories)
        return counts

    def rebuild_buffers(self) -> None:
        self.inner.rebuild_buffers()


class AllPositionsAppendedEncoder(AppendedEncoder):
    def forward_positions(self, histories: HistoryBatch) -> Tensor:
        """float32 [total, D]; position t of history b equals `forward` of its first t + 1 items."""
        return self.appended(self.inner.forward_positions(histories))


class GrowingAppendedEncoder(AppendedEncoder):
    def extend(self, states: Sequence[UserState | None], new: HistoryBatch) -> Encoded:
        """The inner encoder's states; what is appended needs none."""
        grown: Encoded = self.inner.extend(states, new)
        return Encoded(self.appended(grown.vectors_BD), grown.states)


class AllPositionsGrowingAppendedEncoder(AllPositionsAppendedEncoder, GrowingAppendedEncoder):
    pass
