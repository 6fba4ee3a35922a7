"""Two views of one history, told apart from the views of others: SimCSE on serialised histories.

Gao et al., 2021, "SimCSE: Simple Contrastive Learning of Sentence Embeddings": the two differ by dropout alone. Models
of the Llama kind have none, so it comes from the attention weights and from the adapters.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from model_store.base_models import BaseModel as Base
from model_store.encoders.history import HistoryBatch
from model_store.encoders.pooling import Pooling, pool
from offline.text_stages.next_token import TextReading
from offline.text_stages.serialised_histories import SerialisedHistories
from offline.text_stages.stages import Staged, StagePlan, train_stage
from offline.training.objectives import Objective


class TwoViewsPlan(StagePlan):
    """attention_dropout, lora_dropout: what the two views differ by."""

    batch: Annotated[int, Field(ge=2)] = 16
    temperature: PositiveFloat = 0.05
    attention_dropout: Annotated[float, Field(gt=0, lt=1)] = 0.1
    lora_dropout: Annotated[float, Field(gt=0, lt=1)] = 0.1


class TwoViews(Objective):
    """InfoNCE in the batch: a history's second view among those of all histories. Equal histories are no negatives."""

    def __init__(
        self,
        base: Base,
        histories: SerialisedHistories,
        *,
        pooling: Pooling,
        causal: bool,
        temperature: float,
        attention_dropout: float,
    ) -> None:
        super().__init__()
        self.reading = TextReading(base, histories, causal=causal)
        self.pooling: Pooling = pooling
        self.temperature = temperature
        for module in base.lm.modules():
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = attention_dropout

    def targets(self, windows: HistoryBatch) -> int:
        return len(windows)

    def forward(self, windows: HistoryBatch) -> Tensor:
        first_BH, second_BH = self.views(windows).unbind()
        logits_BB = first_BH @ second_BH.T / self.temperature
        texts = [tuple(windows.history(b).tolist()) for b in range(len(windows))]
        twins_BB = torch.tensor([[a != b and x == y for b, y in enumerate(texts)] for a, x in enumerate(texts)])
        logits_BB = logits_BB.masked_fill(twins_BB.to(logits_BB.device), float("-inf"))
        return cross_entropy(logits_BB, torch.arange(len(texts), device=logits_BB.device))

    def views(self, windows: HistoryBatch) -> Tensor:
        """float32 [2, B, H] of unit length; equal in eval mode."""
        twice = windows.select([*range(len(windows)), *range(len(windows))])
        written = self.reading.histories.written(twice)
        states_SH = self.reading.states(written.tokens_S, written.row)
        pooled = [pool(states_SH[written.row.item_span(b)], self.pooling)[0] for b in range(len(twice))]
        return normalize(torch.stack(pooled), dim=-1).view(2, len(windows), -1)


def two_views(
    before: Staged,
    histories: SerialisedHistories,
    *,
    causal: bool,
    pooling: Pooling,
    plan: TwoViewsPlan,
    checkpoints: Path,
    seed: int,
) -> Staged:
    """The stage `simcse`."""
    return train_stage(
        "simcse",
        before,
        lambda base: TwoViews(
            base,
            histories,
            pooling=pooling,
            causal=causal,
            temperature=plan.temperature,
            attention_dropout=plan.attention_dropout,
        ),
        histories=histories,
        plan=plan,
        checkpoints=checkpoints,
        seed=seed,
        dropout=plan.lora_dropout,
    )
