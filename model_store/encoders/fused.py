"""Several encoders as one: the query is the concatenation of theirs, each with its weight.

[a * u1 ; b * u2] . [v1 ; v2] = a * (u1 . v1) + b * (u2 . v2): a weighted sum of scores, and still one search.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from model_store.encoders.history import HistoryBatch, QueryEncoder

if TYPE_CHECKING:
    from model_store.encoders import EncoderConfig


class FusedConfig(BaseModel):
    """weights: what each part's query is multiplied with; 0 silences it, and its part of the vectors stays."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["fused"] = "fused"
    parts: Annotated[tuple[EncoderConfig, ...], Field(min_length=2)]
    weights: tuple[float, ...]

    @model_validator(mode="after")
    def _a_weight_each(self) -> Self:
        if len(self.weights) != len(self.parts):
            raise ValueError(f"{len(self.parts)} parts have {len(self.weights)} weights")
        if len({part.items for part in self.parts}) > 1:
            raise ValueError("the parts know different numbers of items")
        return self

    @property
    def items(self) -> int:
        return self.parts[0].items

    @property
    def dim(self) -> int:
        return sum(part.dim for part in self.parts)

    @property
    def max_history(self) -> int:
        return self._longest.max_history

    @property
    def jump(self) -> int:
        return self._longest.jump

    @property
    def _longest(self) -> EncoderConfig:
        return max(self.parts, key=lambda part: (part.max_history, part.jump))

    def build(self) -> FusedEncoder:
        return FusedEncoder(self)


class FusedEncoder(QueryEncoder):
    """Every part cuts the history to its own window. Nothing grows: no state of a part is kept."""

    def __init__(self, config: FusedConfig, parts: list[QueryEncoder] | None = None) -> None:
        """parts: encoders to take over instead of building them."""
        super().__init__()
        self.config: FusedConfig = config
        built = [part.build() for part in config.parts] if parts is None else parts
        self.parts = nn.ModuleList(built)
        self.dim, self.max_history, self.jump = config.dim, config.max_history, config.jump

    @property
    def encoders(self) -> list[QueryEncoder]:
        return [part for part in self.parts if isinstance(part, QueryEncoder)]

    def forward(self, histories: HistoryBatch) -> Tensor:
        return self.joined([part(cut_for(part, histories)) for part in self.encoders])

    def joined(self, vectors: list[Tensor]) -> Tensor:
        """[B, D_p] of each part -> float32 [B, D]."""
        weighted = [weight * u_BD.float() for weight, u_BD in zip(self.config.weights, vectors, strict=True)]
        return torch.cat(weighted, dim=1)

    def token_counts(self, histories: HistoryBatch) -> list[int]:
        counts = [part.token_counts(cut_for(part, histories)) for part in self.encoders]
        return [sum(of_history) for of_history in zip(*counts, strict=True)]

    def rebuild_buffers(self) -> None:
        for part in self.encoders:
            part.rebuild_buffers()


def cut_for(part: QueryEncoder, histories: HistoryBatch) -> HistoryBatch:
    return histories.windowed(part.max_history, part.jump)
