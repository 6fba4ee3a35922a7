"""Losses over training windows: the contract, and the one of encoders that share an item matrix."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from model_store.encoders.history import HistoryBatch
from offline.teaching.distillation import Distillation
from offline.training.full_softmax import full_softmax_loss
from offline.training.windows import inputs_and_targets


class Objective(nn.Module):
    """A loss over a batch of training windows. Wraps an encoder; never subclasses it.

    `forward(windows)` returns the mean loss per target; `targets(windows)` counts them. `item_parameters` names the
    parameters that learn at `item_learning_rate`.
    """

    def targets(self, windows: HistoryBatch) -> int:
        return len(windows.rows) - len(windows)

    def item_parameters(self) -> list[nn.Parameter]:
        return []

    def figures(self) -> dict[str, float]:
        """What else is worth knowing of the training since the last call: goes into its curve."""
        return {}


class Denominator(nn.Module):
    """The items that a softmax runs over: all but the cold ones. Without cold items logits pass as they are."""

    cold_N: Tensor | None

    def __init__(self, cold_N: npt.NDArray[np.bool_] | None) -> None:
        """cold_N: `SequenceDataset.cold_items`."""
        super().__init__()
        hidden = cold_N is not None and bool(cold_N.any())
        self.register_buffer("cold_N", torch.from_numpy(cold_N) if hidden else None, persistent=False)

    def forward(self, logits_TN: Tensor) -> Tensor:
        return logits_TN if self.cold_N is None else logits_TN.masked_fill(self.cold_N, float("-inf"))


class SharedItems(Protocol):
    """A causal encoder whose input matrix is also its output matrix."""

    @property
    def item_vectors_ND(self) -> Tensor: ...

    def forward_positions(self, histories: HistoryBatch) -> Tensor: ...


class NextItem(Objective):
    """Full-softmax cross entropy at all positions: L targets for one forward pass, no sampled negatives.

    distillation: added to it, where there is a teacher.
    cold_N: bool[N], items that are in no denominator (`SequenceDataset.cold_items`).
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        distillation: Distillation | None = None,
        cold_N: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.distillation = distillation
        self.denominator = Denominator(cold_N)

    def refresh(self) -> Tensor:
        """The item vectors that the encoder's query vectors are matched with, as they stand."""
        encoder: SharedItems = self.encoder  # type: ignore[assignment]  # what the recipe hands over
        return encoder.item_vectors_ND.detach()

    def forward(self, windows: HistoryBatch) -> Tensor:
        inputs, targets_T = inputs_and_targets(windows)
        encoder: SharedItems = self.encoder  # type: ignore[assignment]  # what the recipe hands over
        users_TD = encoder.forward_positions(inputs)
        targets_T = targets_T.to(users_TD.device)
        if self.distillation is None:
            return full_softmax_loss(users_TD, encoder.item_vectors_ND, targets_T, closed_N=self.denominator.cold_N)
        logits_TN = users_TD @ encoder.item_vectors_ND.T
        loss = cross_entropy(self.denominator(logits_TN), targets_T)
        return loss + self.distillation(inputs, targets_T, logits_TN)
