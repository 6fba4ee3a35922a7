"""Softmax over drawn negatives, for catalogues too large to be scored whole in every step (about 200,000 items up)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from model_store.encoders.history import HistoryBatch
from offline.training.objectives import NextItem
from offline.training.windows import inputs_and_targets


def negative_shares(events_N: Tensor, cold_N: Tensor) -> Tensor:
    """Q, float64 [N]: half uniform, half by training events, nothing for cold items.

    By events alone, what nobody chose would never be pushed away; uniformly, most negatives would teach nothing.
    """
    open_N = (~cold_N).double()
    events_N = events_N.double() * open_N
    return (open_N / open_N.sum() + events_N / events_N.sum().clamp(min=1)) / 2


def sampled_softmax_loss(positive_T: Tensor, negative_TM: Tensor, *, log_q_M: Tensor, own_TM: Tensor) -> Tensor:
    """-s_y + log(exp(s_y) + 1/M sum_j exp(s_j) / Q_j), mean over T: M negatives drawn by Q, each for 1/(M Q) items.

    Bengio and Senecal, 2008, "Adaptive Importance Sampling to Accelerate Training of a Neural Probabilistic Language
    Model". The sum is an unbiased estimate of the full softmax's; the positive is not drawn, so nothing is subtracted
    of it.

    positive_T, negative_TM: scores. own_TM: a negative that is the target itself.
    """
    drawn = torch.log(torch.tensor(float(negative_TM.shape[1])))
    corrected_TM = (negative_TM - log_q_M - drawn).masked_fill(own_TM, float("-inf"))
    logits_T1M = torch.cat((positive_T[:, None], corrected_TM), dim=1)
    return cross_entropy(logits_T1M, torch.zeros(len(logits_T1M), dtype=torch.int64, device=logits_T1M.device))


class SampledNextItem(NextItem):
    """`NextItem` against `negatives` items, drawn anew in each step and shared by its positions.

    shares_N: `negative_shares`.
    """

    shares_N: Tensor

    def __init__(self, encoder: torch.nn.Module, *, shares_N: Tensor, negatives: int) -> None:
        super().__init__(encoder)
        self.negatives = negatives
        self.register_buffer("shares_N", shares_N / shares_N.sum(), persistent=False)
        self.register_buffer("cumulated_N", self.shares_N.cumsum(0), persistent=False)

    def forward(self, windows: HistoryBatch) -> Tensor:
        inputs, targets_T = inputs_and_targets(windows)
        users_TD = self.encoder.forward_positions(inputs)  # type: ignore[operator]  # `SharedItems`
        items_ND: Tensor = self.encoder.item_vectors_ND  # type: ignore[assignment]
        targets_T, rows_M = targets_T.to(items_ND.device), self._draw().to(items_ND.device)
        return sampled_softmax_loss(
            (users_TD * items_ND[targets_T]).sum(-1),
            users_TD @ items_ND[rows_M].T,
            log_q_M=self.shares_N.to(items_ND.device)[rows_M].log().to(items_ND.dtype),
            own_TM=targets_T[:, None] == rows_M,
        )

    def _draw(self) -> Tensor:
        """int64 [M], with replacement; torch.multinomial takes no more than 2^24 items."""
        cumulated_N = self.get_buffer("cumulated_N")
        places_M = torch.rand(self.negatives, dtype=torch.float64).to(cumulated_N.device) * cumulated_N[-1]
        return torch.searchsorted(cumulated_N, places_M, right=True).clamp(max=len(cumulated_N) - 1)
