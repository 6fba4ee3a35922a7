"""Which of these candidates came next: cross entropy over the logits of their identifiers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from model_store.encoders.history import HistoryBatch
from model_store.rankers.verbalizer import VerbalizerRanker
from offline.ranking.mined_candidates import read_prompt
from offline.training.objectives import Objective


class VerbalizerObjective(Objective):
    """Over rows of `draw_prompts`, one target each. Gradient reaches the adapters and the identifiers' own vectors.

    dropout: at the inputs and at the read-out; the language model itself has none.
    """

    def __init__(self, ranker: VerbalizerRanker, *, dropout: float) -> None:
        super().__init__()
        self.ranker = ranker
        self.dropout = nn.Dropout(dropout)

    def item_parameters(self) -> list[nn.Parameter]:
        """The identifiers' vectors: few, and new to the base."""
        return [self.ranker.identifier_inputs, self.ranker.identifier_outputs]

    def targets(self, windows: HistoryBatch) -> int:
        return len(windows)

    def forward(self, windows: HistoryBatch) -> Tensor:
        prompts = [read_prompt(windows.history(b)) for b in range(len(windows))]
        logits = self.ranker.logits(
            [prompt.history_T for prompt in prompts], [prompt.candidates_K for prompt in prompts], dropout=self.dropout
        )
        logits_BK = nn.utils.rnn.pad_sequence(logits, batch_first=True, padding_value=float("-inf"))
        places_B = torch.tensor([prompt.place for prompt in prompts], device=logits_BK.device)
        return cross_entropy(logits_BK, places_B)
