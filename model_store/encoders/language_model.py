"""A decoder language model over a history: item tokens and / or injected item vectors."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, PositiveInt
from torch import Tensor

from model_store.encoders.history import HistoryBatch, QueryEncoder
from model_store.encoders.sequence import SequenceConfig


class ResidualConfig(BaseModel):
    """u = u_sequence + beta * u_language_model (families.md, iLoRA)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sequence: SequenceConfig
    beta: float


class LanguageModelConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["language_model"] = "language_model"
    lm: dict[str, Any]  # the transformers config, kept layers already in num_hidden_layers
    items: PositiveInt
    dim: PositiveInt
    max_history: PositiveInt
    jump: PositiveInt
    item_input: Literal["vector", "tokens", "tokens+vector"]
    prefix: tuple[int, ...] = ()  # token ids before the first item
    suffix: tuple[int, ...] = ()  # token ids after the last item; forbids reading all positions
    pooling: Literal["last", "mean", "weighted_mean"] = "last"
    causal: bool = True
    head: Literal["linear", "mlp"] = "linear"  # LayerNorm + linear | LayerNorm + two-layer GELU MLP
    normalize: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the LM; head and pooling are float32
    residual: ResidualConfig | None = None

    def build(self) -> LanguageModelEncoder:
        return LanguageModelEncoder(self)


class LanguageModelEncoder(QueryEncoder):
    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.config: LanguageModelConfig = config
        self.dim, self.max_history, self.jump = config.dim, config.max_history, config.jump

    def forward(self, histories: HistoryBatch) -> Tensor:
        raise NotImplementedError
