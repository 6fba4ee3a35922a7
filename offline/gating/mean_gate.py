"""The mean gate: one mixture of the experts for everybody, plain LoRA that merges; what it costs is measured."""

from __future__ import annotations

import torch
from torch import Tensor

from model_store.encoders.history import HistoryBatch
from offline.evaluation.validation import Validation
from offline.gating.gated_objective import GatedNextItem
from offline.training.windows import inputs_and_targets


@torch.no_grad()
def use_mean_gate(
    objective: GatedNextItem, item_vectors_ND: Tensor, windows: HistoryBatch, *, validation: Validation, batch: int
) -> dict[str, object]:
    """Gives every token of the objective's encoder the mean gate over all training positions.

    Returns that gate, and the training loss and validation NDCG@10 before and after: what the approximation loses.
    """
    objective.eval()
    encoder = objective.encoder
    batches = [windows.select(part.tolist()) for part in torch.split(torch.arange(len(windows)), batch)]
    before = {"loss_causal": _loss(objective, batches), "ndcg@10_causal": validation.ndcg10(encoder, item_vectors_ND)}
    mean_E = torch.cat([_gates(objective, each) for each in batches]).mean(0)
    encoder.gated_lora.make_constant(mean_E)
    after = {"loss_mean": _loss(objective, batches), "ndcg@10_mean": validation.ndcg10(encoder, item_vectors_ND)}
    return {"mean_gate": mean_E.tolist(), **before, **after}


def _loss(objective: GatedNextItem, batches: list[HistoryBatch]) -> float:
    targets = [objective.targets(each) for each in batches]
    return sum(float(objective(each)) * n for each, n in zip(batches, targets, strict=True)) / sum(targets)


def _gates(objective: GatedNextItem, windows: HistoryBatch) -> Tensor:
    inputs, _ = inputs_and_targets(windows)
    return objective.encoder.gated_lora.gates(objective.gate_states(inputs))
